//! Is the token authentic, fresh and whole? The Fernet specification, "Generating" and "Verifying".
//!
//! ```text
//!  0      1           9           25                  n-32        n
//!  | 0x80 | timestamp | IV        | ciphertext        | HMAC      |     all of it in base64url
//!  | u8   | u64 s     | 16 bytes  | 16k bytes, k >= 1 | 32 bytes  |
//!  |<----------------- signed ----------------------->|
//! ```
//!
//! The specification's steps in their order, but for one: the timestamp is checked after the MAC,
//! not before it. A forged timestamp is nobody's timestamp. Inside the program each refusal has its
//! own reason; a stranger is told only that the token is invalid.

use super::base64url::{self, Base64Error};
use super::cbc::{self, BLOCK};
use super::key::Key;
use aes_gcm::aes::Aes128;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;

/// The only version there is.
pub const VERSION: u8 = 0x80;
/// How far ahead a timestamp may be, in seconds, when a time-to-live is given.
pub const MAX_CLOCK_SKEW: u64 = 60;

/// Bytes before the ciphertext: version, timestamp, IV.
pub const HEADER: usize = 1 + 8 + BLOCK;
/// Bytes of the HMAC.
pub const MAC: usize = 32;

/// Why a token was refused, one reason per verifying step. For tests, logs and `inspect`; never for
/// a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// Step 1: not base64url.
    Text(Base64Error),
    /// Step 2: the first byte is not 0x80 but this one (or missing).
    Version(Option<u8>),
    /// Step 2: too short for its fields, or the ciphertext is not whole blocks. Holds the length in
    /// bytes.
    Length(usize),
    /// Step 3: the MAC belongs to none of the keys.
    Mac,
    /// Step 4: older than the time-to-live.
    Expired,
    /// Step 4: from more than 60 seconds in the future.
    Future,
    /// Step 6: authentic, but its padding is wrong: made by a faulty producer.
    Padding,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            TokenError::Text(reason) => write!(f, "{reason}"),
            TokenError::Version(Some(version)) => {
                write!(f, "version 0x{version:02x} where 0x80 is due")
            }
            TokenError::Version(None) => write!(f, "empty"),
            TokenError::Length(n) => write!(
                f,
                "{n} bytes, where a token has 57 and one or more blocks of 16"
            ),
            TokenError::Mac => write!(f, "the HMAC does not verify"),
            TokenError::Expired => write!(f, "older than its time-to-live"),
            TokenError::Future => {
                write!(f, "from more than {MAX_CLOCK_SKEW} seconds in the future")
            }
            TokenError::Padding => write!(f, "the padding is wrong"),
        }
    }
}

impl std::error::Error for TokenError {}

/// How old a token may be.
#[derive(Clone, Copy, Debug)]
pub struct Age {
    /// The time now, in seconds since 1970.
    pub now: u64,
    /// The time-to-live, in seconds. A token is still good in the second in which it ends.
    pub ttl: u64,
}

impl Age {
    /// Saturating, because every value of the timestamp's 64 bits is a legal one.
    fn check(self, time: u64) -> Result<(), TokenError> {
        if time.saturating_add(self.ttl) < self.now {
            return Err(TokenError::Expired);
        }
        if time > self.now.saturating_add(MAX_CLOCK_SKEW) {
            return Err(TokenError::Future);
        }
        Ok(())
    }
}

/// What was in a token.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened<'a> {
    /// When it was made, in seconds since 1970, by the clock of its maker.
    pub time: u64,
    /// The message.
    pub message: &'a mut [u8],
}

/// A key made ready: its AES key schedule and its keyed HMAC state are computed once.
#[derive(Clone)]
pub struct Fernet {
    mac: Hmac<Sha256>,
    aes: Aes128,
}

/// Length in characters of the token of a message of `n` bytes.
pub const fn sealed_len(n: usize) -> usize {
    base64url::encoded_len(raw_len(n))
}

/// Where [`Fernet::seal_in_place`] wants the message of `n` bytes in a buffer of `sealed_len(n)`
/// bytes.
pub const fn message_start(n: usize) -> usize {
    sealed_len(n) - raw_len(n) + HEADER
}

const fn raw_len(n: usize) -> usize {
    HEADER + cbc::encrypted_len(n) + MAC
}

impl Fernet {
    /// Makes `key` ready for use.
    pub fn new(key: &Key) -> Fernet {
        Fernet {
            mac: Hmac::new_from_slice(key.signing()).expect("HMAC takes a key of any length"),
            aes: Aes128::new_from_slice(key.encryption()).expect("half of a key is an AES-128 key"),
        }
    }

    /// Makes a token of `message`. `time` in seconds since 1970; `iv` fresh from a cryptographic
    /// generator.
    pub fn seal(&self, message: &[u8], time: u64, iv: [u8; BLOCK]) -> Vec<u8> {
        let mut text = vec![0; sealed_len(message.len())];
        let start = message_start(message.len());
        text[start..start + message.len()].copy_from_slice(message);
        self.seal_in_place(&mut text, message.len(), time, iv);
        text
    }

    /// Makes a token without a second buffer: `text` holds the message of `n` bytes at
    /// [`message_start`] and becomes the token. The binary token is built at the end of `text` and
    /// spreads over all of it as text.
    ///
    /// # Panics
    /// If `text.len()` is not `sealed_len(n)`.
    pub fn seal_in_place(&self, text: &mut [u8], n: usize, time: u64, iv: [u8; BLOCK]) {
        assert_eq!(text.len(), sealed_len(n), "the text must fill the buffer");
        let raw_len = raw_len(n);
        let raw = text.len() - raw_len;
        let (signed, mac) = text[raw..].split_at_mut(raw_len - MAC);
        let (header, ciphertext) = signed.split_at_mut(HEADER);
        // 1. Record the time. 2. Take the IV.
        header[0] = VERSION;
        header[1..9].copy_from_slice(&time.to_be_bytes());
        header[9..].copy_from_slice(&iv);
        // 3. Pad and encrypt.
        cbc::encrypt(&self.aes, iv, ciphertext, n);
        // 4. MAC over version, timestamp, IV and ciphertext. 5. Concatenate: it stands there
        //    already.
        let computed = self.mac.clone().chain_update(signed).finalize();
        mac.copy_from_slice(&computed.into_bytes());
        // 6. Encode.
        base64url::encode_in_place(text, raw_len);
    }

    /// Whether this key made the token. Constant time in the MAC.
    fn made(&self, token: &Token) -> bool {
        self.mac
            .clone()
            .chain_update(&token.signed)
            .verify_slice(token.mac)
            .is_ok()
    }
}

/// Opens a token in place with the first of `keys` that made it (several keys: rotation). `age`
/// limits how old it may be; without it the timestamp is not checked at all, so that no clock is
/// needed.
///
/// # Errors
/// [`TokenError`]. The contents of `text` are undefined then, with one exception: if only the
/// padding is wrong, `text` holds the decrypted bytes, for `inspect`.
pub fn open<'a>(
    keys: &[Fernet],
    text: &'a mut [u8],
    age: Option<Age>,
) -> Result<Opened<'a>, TokenError> {
    // 1. Decode. 2. Check the version and the lengths.
    let token = Token::decode(text)?;
    // 3. Recompute the MAC and compare.
    let key = keys
        .iter()
        .find(|key| key.made(&token))
        .ok_or(TokenError::Mac)?;
    // 4. Only an authentic timestamp is worth checking.
    if let Some(age) = age {
        age.check(token.time)?;
    }
    // 5. Decrypt. 6. Take off the padding.
    let ciphertext = &mut token.signed[HEADER..];
    let message = cbc::decrypt(&key.aes, token.iv, ciphertext).ok_or(TokenError::Padding)?;
    Ok(Opened {
        time: token.time,
        message,
    })
}

/// Re-encrypts a token under the first of `keys`, with a new IV and its old timestamp.
///
/// # Errors
/// [`TokenError`] if none of the keys made it.
pub fn rotate(keys: &[Fernet], mut token: Vec<u8>, iv: [u8; BLOCK]) -> Result<Vec<u8>, TokenError> {
    let first = keys.first().ok_or(TokenError::Mac)?;
    let opened = open(keys, &mut token, None)?;
    Ok(first.seal(opened.message, opened.time, iv))
}

/// A token taken apart and not yet believed.
#[derive(Debug)]
pub struct Token<'a> {
    /// Seconds since 1970, as claimed.
    pub time: u64,
    /// The IV.
    pub iv: [u8; BLOCK],
    /// Everything the MAC covers: version, timestamp, IV, ciphertext.
    pub signed: &'a mut [u8],
    /// The MAC, as claimed.
    pub mac: &'a [u8; MAC],
}

impl<'a> Token<'a> {
    /// Steps 1 and 2 of verifying: what can be told without a key.
    ///
    /// # Errors
    /// [`TokenError::Text`], [`TokenError::Version`] or [`TokenError::Length`].
    pub fn decode(text: &'a mut [u8]) -> Result<Token<'a>, TokenError> {
        let length = base64url::decode_in_place(text).map_err(TokenError::Text)?;
        let raw = &mut text[..length];
        match raw.first() {
            Some(&VERSION) => {}
            other => return Err(TokenError::Version(other.copied())),
        }
        let (signed, mac) = raw
            .split_last_chunk_mut::<MAC>()
            .ok_or(TokenError::Length(length))?;
        let (header, ciphertext) = signed
            .split_first_chunk::<HEADER>()
            .ok_or(TokenError::Length(length))?;
        if ciphertext.is_empty() || !ciphertext.len().is_multiple_of(BLOCK) {
            return Err(TokenError::Length(length));
        }
        let mut time = [0; 8];
        let mut iv = [0; BLOCK];
        time.copy_from_slice(&header[1..9]);
        iv.copy_from_slice(&header[9..]);
        Ok(Token {
            time: u64::from_be_bytes(time),
            iv,
            signed,
            mac,
        })
    }
}
