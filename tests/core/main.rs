//! Is the trusted core right? Tokens, keys, handshake, records and ratchet.

#[path = "../common/mod.rs"]
mod common;
#[path = "../loopback/mod.rs"]
mod loopback;

mod fernet_divergence;
mod fernet_spec;
mod handshake;
mod key_schedule;
mod ratchet;
mod records;
mod refusals;
mod vectors;
mod wycheproof;
