//! Which two keys are in the 32 bytes?
//!
//! ```text
//!  0                16               32
//!  | signing key    | encryption key |        written as base64url: 43 digits and one '='
//!  | HMAC-SHA256    | AES-128-CBC    |
//! ```
//!
//! fernvpn has no other kind of key: a client's key looks like this too, but is never used raw
//! (`docs/PROTOCOL.md` section 2).

use super::base64url::{self, Base64Error};
use hmac::digest::zeroize::{Zeroize, Zeroizing};
use std::fmt;

/// Bytes in a key.
pub const LENGTH: usize = 32;

/// A Fernet key. Wiped from memory when dropped; never shown by `Debug`. In a box, because a value
/// that moves leaves its bytes behind where nobody wipes them.
#[derive(Clone)]
pub struct Key(Box<Zeroizing<[u8; LENGTH]>>);

/// Why a text is not a key. Never holds any of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// Not strict base64url.
    Text(Base64Error),
    /// Base64url, but of this many bytes instead of 32.
    Length(usize),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            KeyError::Text(reason) => write!(f, "not a key: {reason}"),
            KeyError::Length(n) => write!(f, "not a key: {n} bytes where a key has {LENGTH}"),
        }
    }
}

impl std::error::Error for KeyError {}

impl Key {
    /// The key that is these bytes. They should come from a cryptographic generator.
    pub fn from_bytes(bytes: &[u8; LENGTH]) -> Key {
        let mut key = Key(Box::default());
        key.0.copy_from_slice(bytes);
        key
    }

    /// Reads a key as any Fernet library writes it: base64url of 32 bytes, with its padding or
    /// without.
    ///
    /// # Errors
    /// [`KeyError`] if it is anything else.
    pub fn parse(text: &str) -> Result<Key, KeyError> {
        let mut buffer = text.as_bytes().to_vec();
        let key = match base64url::decode_in_place(&mut buffer) {
            Err(reason) => Err(KeyError::Text(reason)),
            Ok(n) => match buffer[..n].try_into() {
                Ok(bytes) => Ok(Key::from_bytes(bytes)),
                Err(_) => Err(KeyError::Length(n)),
            },
        };
        buffer.as_mut_slice().zeroize();
        key
    }

    /// Writes the key as any Fernet library reads it: 44 characters. The caller owns, and should
    /// guard, the copy.
    pub fn to_text(&self) -> String {
        let mut text = [0; base64url::encoded_len(LENGTH)];
        let start = text.len() - LENGTH;
        text[start..].copy_from_slice(&self.0[..]);
        base64url::encode_in_place(&mut text, LENGTH);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// All 32 bytes, for derivations.
    pub fn bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }

    /// The first half: the key of HMAC-SHA256.
    pub(super) fn signing(&self) -> &[u8] {
        &self.0[..LENGTH / 2]
    }

    /// The second half: the key of AES-128-CBC.
    pub(super) fn encryption(&self) -> &[u8] {
        &self.0[LENGTH / 2..]
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Key(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";

    #[test]
    fn parse_and_print_agree() {
        let key = Key::parse(TEXT).expect("the specification's key");
        assert_eq!(key.to_text(), TEXT);
        assert_eq!(
            Key::parse(TEXT.trim_end_matches('='))
                .expect("without padding")
                .bytes(),
            key.bytes()
        );
        assert_eq!(key.signing()[0], 0x73);
        assert_eq!([key.signing(), key.encryption()].concat(), key.bytes());
    }

    #[test]
    fn refusals() {
        let parse = |text: &str| Key::parse(text).map(|_| ()).expect_err(text);
        assert_eq!(parse(""), KeyError::Length(0));
        assert_eq!(parse("YWJj"), KeyError::Length(3));
        assert_eq!(parse(&"A".repeat(44)), KeyError::Length(33));
        assert_eq!(parse(&"A".repeat(42)), KeyError::Length(31));
        assert_eq!(
            parse(&format!("{TEXT}\n")),
            KeyError::Text(Base64Error::Length)
        );
        assert_eq!(
            parse(&TEXT.replace('_', "/")),
            KeyError::Text(Base64Error::Character(2))
        );
    }

    #[test]
    fn debug_shows_nothing() {
        let shown = format!("{:?}", Key::from_bytes(&[b'A'; 32]));
        assert_eq!(shown, "Key(secret)");
    }
}
