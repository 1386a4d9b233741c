//! The suite `fernet`. PROTOCOL.md section 6.
//!
//! ```text
//!  body    Fernet token of | counter | type | content |
//!                          | 8       | 1    | n       |
//! ```
//!
//! The receiver does not check the token's timestamp: a step of a clock must not end a session.

use super::{Cipher, Definition, Draw, Form, Fresh, RecordError};
use crate::fernet::{Fernet, Key, token};
use crate::protocol::open_token;

pub(super) const DEFINITION: Definition = Definition {
    name: "fernet",
    form: Form::Token,
    key_len: 32,
    body_len: |message| token::sealed_len(COUNTER + message),
    cipher: |secret| Box::new(Fernet::new(&Key::from_bytes(&secret.key()))),
};

/// Bytes of the counter.
const COUNTER: usize = 8;

impl Cipher for Fernet {
    fn seal(&self, counter: u64, body: &mut [u8], message: usize, fresh: Draw) {
        let inside = COUNTER + message;
        let start = token::message_start(inside);
        body.copy_within(..message, start + COUNTER);
        body[start..start + COUNTER].copy_from_slice(&counter.to_be_bytes());
        let Fresh { time, iv } = fresh();
        self.seal_in_place(body, inside, time, iv);
    }

    fn open<'a>(&self, counter: u64, body: &'a mut [u8]) -> Result<&'a mut [u8], RecordError> {
        let opened = open_token(self, body, None).map_err(RecordError::Token)?;
        let length = opened.message.len();
        let (found, message) = opened
            .message
            .split_first_chunk_mut::<COUNTER>()
            .ok_or(RecordError::Length(length))?;
        let found = u64::from_be_bytes(*found);
        if found != counter {
            return Err(RecordError::Counter {
                due: counter,
                found,
            });
        }
        Ok(message)
    }
}
