//! What was said?
//!
//! | file | question |
//! |---|---|
//! | [`inspect`] | what is in this token, and which step refuses it? |
//! | [`date`] | which day was that? |
#![forbid(unsafe_code)]

pub mod date;
pub mod inspect;
