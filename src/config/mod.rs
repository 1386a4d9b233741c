//! What was the program told? It turns arguments and files into validated values.
//!
//! | file | question |
//! |---|---|
//! | [`arguments`] | what does the command line say? |
//! | [`edit`] | how is a client put into a configuration, or taken out? |
//! | [`mod@file`] | what does the configuration file say? |
//! | [`conflicts`] | which options contradict each other? |
//! | [`key_file`] | which keys are in this file? |
//! | [`mistakes`] | what did somebody mean who wrote this? |
//! | [`options`] | which options are there? |
//! | [`state_file`] | where does a ratcheted key stand? |
//! | [`settings`] | what does a server or client need to know? |
//! | `values` | what does the value of an option mean? |
#![forbid(unsafe_code)]

pub mod arguments;
pub mod conflicts;
pub mod edit;
pub mod file;
pub mod key_file;
pub mod mistakes;
pub mod options;
pub mod settings;
pub mod state_file;
mod values;
