//! Any system that has std: what it lacks says so when it is called.

pub(super) mod files;
pub(super) mod namespace;
pub mod nat;
pub(super) mod network_state;
pub(super) mod notify;
pub(super) mod process;
pub(super) mod signal;
pub(super) mod socket;
pub(super) mod tun;
