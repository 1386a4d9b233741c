//! How is one record sealed? PROTOCOL.md section 6.
//!
//! | file | suite | body of a record |
//! |---|---|---|
//! | `aes_256_gcm` | `aes-256-gcm` | `AES-256-GCM(key, nonce, aad, type ‖ content)` |
//! | `fernet` | `fernet` | `Fernet(key, counter ‖ type ‖ content)` |
//!
//! A suite is a file with one `Definition`, and a line in [`Suite::ALL`]. It seals and opens one
//! record at a time. It keeps no count: [`super::record`] owns the counter, the limits and the key.

mod aes_256_gcm;
mod fernet;

use crate::fernet::TokenError;
use crate::protocol::frame;
use crate::protocol::key_schedule::TrafficSecret;
use crate::protocol::limits::MAX_CONTENT;
use std::fmt;

/// A way to seal records. The server chooses one that both sides allow.
#[derive(Clone, Copy)]
pub struct Suite(&'static Definition);

/// What a suite is. Each file of this folder defines one.
struct Definition {
    /// The name in hellos and configurations.
    name: &'static str,
    /// What the body of a record looks like.
    form: Form,
    /// How many bytes of `derive(T, "", "key", n)` are the key.
    key_len: usize,
    /// Bytes in the body of a record whose message (type and content) has so many bytes.
    body_len: fn(usize) -> usize,
    /// Makes the key of one direction ready for use.
    cipher: fn(&TrafficSecret) -> Box<dyn Cipher>,
}

/// What the body of a record looks like, for those who show or take it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The encrypted message, then a tag of 16 bytes. The counter and an IV make the nonce.
    Aead,
    /// A Fernet token of counter and message.
    Token,
}

/// One direction's key, ready for use.
pub(super) trait Cipher: Send + Sync {
    /// Seals record number `counter` in place. `body` begins with the message of `message` bytes
    /// and has the length that the suite's `body_len` gives for it.
    fn seal(&self, counter: u64, body: &mut [u8], message: usize, fresh: Draw);

    /// Opens record number `counter` in place. Returns the message: type and content.
    fn open<'a>(&self, counter: u64, body: &'a mut [u8]) -> Result<&'a mut [u8], RecordError>;
}

impl Suite {
    /// AES-256-GCM with a counter nonce, as in TLS 1.3.
    pub const AES_256_GCM: Suite = Suite(&aes_256_gcm::DEFINITION);
    /// One Fernet token for each record: slower, but any Fernet library can speak it.
    pub const FERNET: Suite = Suite(&fernet::DEFINITION);

    /// All suites.
    pub const ALL: [Suite; 2] = [Suite::AES_256_GCM, Suite::FERNET];

    /// Those that both sides allow unless they are told otherwise, the preferred one first.
    pub const DEFAULT: [Suite; 2] = [Suite::AES_256_GCM, Suite::FERNET];

    /// The name in hellos and configurations.
    pub const fn name(self) -> &'static str {
        self.0.name
    }

    /// The suite with this name.
    pub fn parse(name: &str) -> Option<Suite> {
        Suite::ALL.into_iter().find(|suite| suite.name() == name)
    }

    /// What the body of a record looks like.
    pub const fn form(self) -> Form {
        self.0.form
    }

    /// Bytes of the record key.
    pub const fn key_len(self) -> usize {
        self.0.key_len
    }

    /// Bytes of a frame around `n` bytes of content, the length header included.
    pub fn frame_len(self, n: usize) -> usize {
        frame::HEADER + self.body_len(1 + n)
    }

    /// Most bytes in the body of a record of this suite.
    pub fn max_body(self) -> usize {
        self.body_len(1 + MAX_CONTENT)
    }

    /// Bytes of a body around a message of so many bytes.
    pub(super) fn body_len(self, message: usize) -> usize {
        (self.0.body_len)(message)
    }

    /// Makes the key of one direction ready for use.
    pub(super) fn cipher(self, secret: &TrafficSecret) -> Box<dyn Cipher> {
        (self.0.cipher)(secret)
    }
}

impl PartialEq for Suite {
    fn eq(&self, other: &Suite) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Suite {}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Suite {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The time and IV of one Fernet record.
#[derive(Clone, Copy, Debug)]
pub struct Fresh {
    /// Seconds since 1970. No receiver checks it, since a step of the clock must not end a session.
    pub time: u64,
    /// From a cryptographic generator.
    pub iv: [u8; 16],
}

/// Draws what one more Fernet record needs. A suite that needs none does not call it.
pub type Draw<'a> = &'a mut dyn FnMut() -> Fresh;

/// Why a record was refused. The opener is as it was before; the connection ends all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// The AEAD tag does not verify: forged, changed, or not the record that is due.
    Tag,
    /// The Fernet token is invalid.
    Token(TokenError),
    /// Authentic, but not the record that is due: one was dropped, repeated or moved.
    Counter {
        /// The counter that is due.
        due: u64,
        /// The counter in the record.
        found: u64,
    },
    /// Authentic, but too short for its fields, or too long.
    Length(usize),
    /// Authentic, but this type does not exist or is not allowed here.
    Type(u8),
    /// The sender used one key for longer than the limits allow.
    Limit,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            RecordError::Tag => write!(
                f,
                "the record is not the next one under this key: its tag is wrong"
            ),
            RecordError::Token(reason) => write!(f, "the record is not a valid token: {reason}"),
            RecordError::Counter { due, found } => {
                write!(f, "record {found} came where record {due} is due")
            }
            RecordError::Length(n) => write!(f, "the record has a message of {n} bytes"),
            RecordError::Type(byte) => write!(f, "a record of type {byte} is not allowed here"),
            RecordError::Limit => write!(f, "the peer used one key for too long"),
        }
    }
}

impl std::error::Error for RecordError {}
