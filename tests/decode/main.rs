//! Is a session explained and decoded as it was?

#[path = "../common/mod.rs"]
mod common;
#[path = "../loopback/mod.rs"]
mod loopback;
#[path = "../needs/mod.rs"]
mod needs;

mod capture;
mod explain;
mod interop_vectors;
