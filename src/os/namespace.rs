//! How does a program get a network of its own, without root and without a change to the machine?
//!
//! A second process of this program holds the network: `linux/namespace.rs`. `main` runs it if the
//! first argument is one of these words.

pub use super::platform::namespace::{Namespace, become_command, hold};

/// The path of this program, which stays right when an upgrade replaces the file.
pub const THIS: &str = "/proc/self/exe";
/// The first argument that makes `main` call [`hold`]. It is not for people.
pub const HOLDER_WORD: &str = "--namespace-holder";
/// The first argument that makes `main` call [`become_command`]. It is not for people.
pub const COMMAND_WORD: &str = "--namespace-command";
