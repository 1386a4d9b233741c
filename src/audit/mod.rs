//! What was said?
//!
//! | file | question |
//! |---|---|
//! | [`capture`] | what was said in this recording? |
//! | [`inspect`] | what is in this token, and which step refuses it? |
//! | [`date`] | which day was that? |
#![forbid(unsafe_code)]

pub mod capture;
pub mod date;
pub mod inspect;
