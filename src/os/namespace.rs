//! How does a program get a network of its own, without root and without a change to the machine?
//!
//! By a second process of this program, which holds the network: `linux/namespace.rs`. `main` runs
//! it, when the first argument is one of these words.

pub use super::platform::namespace::{Namespace, become_command, hold};

/// Still this program when its file has been replaced by an upgrade.
pub const THIS: &str = "/proc/self/exe";
/// The first argument that makes `main` call [`hold`]; not for people.
pub const HOLDER_WORD: &str = "--namespace-holder";
/// The first argument that makes `main` call [`become_command`]; not for people.
pub const COMMAND_WORD: &str = "--namespace-command";
