//! Is the token right?
//!
//! The Fernet token, version 0x80, written by hand from AES-128 and HMAC-SHA256
//! (<https://github.com/fernet/spec/blob/master/Spec.md>). `docs/FERNET.md` lists every point on
//! which implementations differ, and the position taken here.
//!
//! Pure: no clock, no randomness, no files. Time and IV come in as arguments.
//!
//! | file | question |
//! |---|---|
//! | [`base64url`] | which bytes does the text stand for? |
//! | [`cbc`] | how is the message encrypted and padded? |
//! | [`key`] | which two keys are in the 32 bytes? |
//! | [`token`] | is the token authentic, fresh and whole? |
#![forbid(unsafe_code)]

pub mod base64url;
pub mod cbc;
pub mod key;
pub mod token;

pub use key::Key;
pub use token::{Age, Fernet, TokenError};
