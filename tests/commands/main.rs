//! Does the command line do what it says?

#[path = "../needs/mod.rs"]
mod needs;
#[path = "../program/mod.rs"]
mod program;

mod configuration;
mod documents;
mod token_commands;
mod token_interop;
