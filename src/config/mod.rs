//! What did the user say? Arguments and files, each to one validated value.
//!
//! | file | question |
//! |---|---|
//! | [`arguments`] | what does the command line say? |
//! | [`key_file`] | which keys are in this file? |
#![forbid(unsafe_code)]

pub mod arguments;
pub mod key_file;
