//! What was the program told? Arguments and files, turned into one validated value.
#![forbid(unsafe_code)]

pub mod settings;
pub mod subnet;
