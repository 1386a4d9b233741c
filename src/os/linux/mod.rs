//! What does Linux have? It has everything that this program uses.
//!
//! Each file here has a file of the same name, with the same signatures, in `portable/`. Only
//! `forwarding` and `netlink` have none, because only this folder uses them.

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
