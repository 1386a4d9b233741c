//! What was said?
//!
//! | file | question |
//! |---|---|
//! | [`capture`] | what was said in this recording? |
//! | [`explain`] | what happens in a session, byte by byte? |
//! | [`inspect`] | what is in this token, and which step refuses it? |
//! | [`fields`] | which field does a byte belong to, and what does it mean? |
#![forbid(unsafe_code)]

pub mod capture;
pub mod explain;
pub mod fields;
pub mod inspect;
