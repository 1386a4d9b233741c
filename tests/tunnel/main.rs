//! Do packets go where they should? Servers, clients and peers over the loopback.
#![cfg(all(target_os = "linux", not(fernvpn_portable)))]

#[path = "../common/mod.rs"]
mod common;
#[path = "../loopback/mod.rs"]
mod loopback;
#[path = "../needs/mod.rs"]
mod needs;

mod hostile;
mod interop;
mod packets;
mod reload;
