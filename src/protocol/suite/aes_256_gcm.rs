//! The suite `aes-256-gcm`. PROTOCOL.md section 6.
//!
//! ```text
//!  body    | AES-256-GCM( type | content ) | tag |
//!          | 1 + n bytes                   | 16  |
//!  nonce   IV xor ( 0x00000000 | counter )             aad   the frame's length header
//! ```
//!
//! Every counter is used once under a key, so every nonce is.

use super::{Cipher, Definition, Draw, Form, RecordError};
use crate::protocol::frame;
use crate::protocol::key_schedule::TrafficSecret;
use aes_gcm::aead::AeadInOut;
use aes_gcm::aes::cipher::consts::U12;
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};

pub(super) const DEFINITION: Definition = Definition {
    name: "aes-256-gcm",
    form: Form::Aead,
    key_len: 32,
    body_len: |message| message + TAG,
    cipher: |secret| Box::new(Direction::new(secret)),
};

/// Bytes of the tag.
const TAG: usize = 16;

struct Direction {
    aead: Aes256Gcm,
    iv: [u8; 12],
}

impl Direction {
    fn new(secret: &TrafficSecret) -> Direction {
        Direction {
            aead: Aes256Gcm::new((&**secret.key()).into()),
            iv: **secret.iv(),
        }
    }
}

impl Cipher for Direction {
    fn seal(&self, counter: u64, body: &mut [u8], message: usize, _: Draw) {
        let header = frame::header(body.len());
        let nonce = nonce(&self.iv, counter);
        let (message, tag) = body.split_at_mut(message);
        let computed = self
            .aead
            .encrypt_inout_detached(&nonce, &header, message.into())
            .expect("a record is shorter than AES-GCM's limit of 64 GiB");
        tag.copy_from_slice(&computed);
    }

    fn open<'a>(&self, counter: u64, body: &'a mut [u8]) -> Result<&'a mut [u8], RecordError> {
        let header = frame::header(body.len());
        let nonce = nonce(&self.iv, counter);
        let (message, tag) = body.split_last_chunk_mut::<TAG>().ok_or(RecordError::Tag)?;
        self.aead
            .decrypt_inout_detached(&nonce, &header, (&mut *message).into(), (&*tag).into())
            .map_err(|_| RecordError::Tag)?;
        Ok(message)
    }
}

/// The nonce of record number `counter`: RFC 8446 section 5.3.
fn nonce(iv: &[u8; 12], counter: u64) -> Nonce<U12> {
    let mut nonce = *iv;
    for (byte, count) in nonce[4..].iter_mut().zip(counter.to_be_bytes()) {
        *byte ^= count;
    }
    nonce.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_a_nonce_of_its_own() {
        let iv = [0xa5; 12];
        assert_eq!(nonce(&iv, 0)[..], iv);
        assert_eq!(
            nonce(&iv, 0x0102_0304_0506_0708)[..4],
            iv[..4],
            "the first four bytes are the IV's"
        );
        let bits: Vec<_> = (0..64).map(|bit| nonce(&iv, 1 << bit)).collect();
        for (i, nonce) in bits.iter().enumerate() {
            assert!(bits[..i].iter().all(|earlier| earlier != nonce));
        }
        assert_eq!(nonce(&iv, 1)[11], 0xa4, "big-endian, at the end");
    }
}
