//! The command line: one word, one call.
fn main() {}
