//! Linux: everything.
//!
//! Each file here has a file of the same name, with the same signatures, in `portable/`, but for
//! `forwarding` and `netlink`, which only this folder uses.

pub(super) mod files;
mod forwarding;
pub(super) mod namespace;
pub mod nat;
mod netlink;
pub(super) mod network_state;
pub(super) mod notify;
pub(super) mod process;
pub(super) mod signal;
pub(super) mod socket;
pub(super) mod tun;
