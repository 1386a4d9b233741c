//! Is the conversation secure?
//!
//! `docs/PROTOCOL.md` in code, in the same order and with the same words.
//!
//! | file | section | question |
//! |---|---|---|
//! | [`key_schedule`] | 2, 5 | which key is used for what? |
//! | [`frame`] | 3 | where does a message end? |
//! | [`fields`] | 4.1 | how is a hello written? |
//! | [`handshake`] | 4 | who is there, and what do we agree on? |
//! | [`record`] | 6, 7 | what did the other side say, in which order? |
//! | [`suite`] | 6 | how is one record sealed? |
//! | [`ratchet`] | 8 | which key comes next? |
//!
//! Pure: no sockets, files, clock, threads or randomness. Time, nonces and IVs come in as
//! arguments; the contents of Config, Packets and Message records are opaque here.
#![forbid(unsafe_code)]

pub mod fields;
pub mod frame;
pub mod handshake;
pub mod key_schedule;
pub mod ratchet;
pub mod record;
pub mod suite;

use crate::fernet::base64url::Base64Error;
use crate::fernet::{Age, Fernet, TokenError, token};

/// Opens a token as this protocol carries it: with its padding, so that no two frames are the same
/// token.
fn open_token<'a>(
    key: &Fernet,
    text: &'a mut [u8],
    age: Option<Age>,
) -> Result<token::Opened<'a>, TokenError> {
    if !text.len().is_multiple_of(4) {
        return Err(TokenError::Text(Base64Error::Length));
    }
    token::open(std::slice::from_ref(key), text, age)
}

/// What the limits of section 9 are. All of them belong to the protocol: a peer may rely on them.
pub mod limits {
    /// Most bytes in the body of a hello frame.
    pub const MAX_HELLO: usize = 1024;
    /// Most bytes of content in a record: a super-packet of 65,535 bytes, its offload header, and a
    /// little more.
    pub const MAX_CONTENT: usize = 65_552;
    /// Most bytes in the body of any frame: the Fernet record with `MAX_CONTENT`.
    pub const MAX_BODY: usize = crate::fernet::token::sealed_len(8 + 1 + MAX_CONTENT);
    /// A sender steps its key after this many bytes of content under one key …
    pub const REKEY_AFTER_BYTES: u64 = 1 << 30;
    /// … or after this many seconds (the tunnel's clock counts them).
    pub const REKEY_AFTER_SECONDS: u64 = 600;
    /// No key seals or opens more than this many bytes: section 7 counts the AES blocks.
    pub const MAX_BYTES: u64 = 1 << 36;
    /// No key seals or opens more than this many records.
    pub const MAX_RECORDS: u64 = 1 << 32;
}
