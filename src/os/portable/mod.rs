//! What works on any system with std? Functions that std cannot provide return an error when they
//! are called.

pub(super) mod files;
pub(super) mod namespace;
pub mod nat;
pub(super) mod network_state;
pub(super) mod notify;
pub(super) mod process;
pub(super) mod signal;
pub(super) mod socket;
pub(super) mod tun;
