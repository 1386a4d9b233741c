//! What did the other side say, in which order? PROTOCOL.md sections 6 and 7.
//!
//! ```text
//!  suite aes-256-gcm   | length | AES-256-GCM( type | content ) | tag |       nonce = IV xor counter,
//!                      | 4      | 1 + n                         | 16  |       the length is authenticated
//!  suite fernet        | length | Fernet token of counter | type | content |
//!                      | 4      |                 8       | 1    | n       |
//! ```
//!
//! Each direction has a key, an IV and a counter of its own. The counter starts at zero under every
//! key and grows by one a record: a record that is dropped, repeated, moved or reflected does not
//! open. [`Sealer`] and [`Opener`] are neither `Clone` nor `Copy`, so a counter has one owner and
//! no nonce is used twice.

use super::frame;
use super::key_schedule::TrafficSecret;
use super::limits::{MAX_BYTES, MAX_CONTENT, MAX_RECORDS, REKEY_AFTER_BYTES};
use crate::fernet::{self, Fernet, Key, token};
use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use std::fmt;

/// How records are sealed. The server chooses one that both sides allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// AES-256-GCM with a counter nonce, as in TLS 1.3.
    Aes256Gcm,
    /// A Fernet token a record: slower, and anybody with a Fernet library can write a peer.
    Fernet,
}

impl Suite {
    /// All suites, in the default order of preference.
    pub const ALL: [Suite; 2] = [Suite::Aes256Gcm, Suite::Fernet];

    /// The name in hellos and configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Suite::Aes256Gcm => "aes-256-gcm",
            Suite::Fernet => "fernet",
        }
    }

    /// The suite with this name.
    pub fn parse(name: &str) -> Option<Suite> {
        Suite::ALL.into_iter().find(|suite| suite.name() == name)
    }

    /// Bytes of a frame around `n` bytes of content, the length header included.
    pub const fn frame_len(self, n: usize) -> usize {
        match self {
            Suite::Aes256Gcm => frame::HEADER + 1 + n + TAG,
            Suite::Fernet => frame::HEADER + token::sealed_len(COUNTER + 1 + n),
        }
    }

    /// Most bytes in the body of a record of this suite.
    pub const fn max_body(self) -> usize {
        self.frame_len(MAX_CONTENT) - frame::HEADER
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a record of the tunnel holds, by its type on the wire. (The other types belong to the
/// protocol itself.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One or more IP packets, each behind its length as u16.
    Packets = 3,
    /// An offload header and one IP packet that the far kernel will segment or complete.
    SuperPacket = 4,
    /// Asks for a Pong.
    Ping = 5,
    /// The content of the Ping, returned.
    Pong = 6,
    /// A text for the person or program at the other end.
    Message = 8,
    /// The last record of a direction: a reason.
    Close = 9,
}

/// The types that belong to the protocol itself.
pub mod types {
    /// The client's first record.
    pub const FINISHED: u8 = 1;
    /// The server's first record.
    pub const CONFIG: u8 = 2;
    /// The last record under a key.
    pub const REKEY: u8 = 7;
}

impl Kind {
    const ALL: [Kind; 6] = [
        Kind::Packets,
        Kind::SuperPacket,
        Kind::Ping,
        Kind::Pong,
        Kind::Message,
        Kind::Close,
    ];

    fn from_type(byte: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// What an opened record was.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened<'a> {
    /// A record of the tunnel. Its content may be changed in place.
    Content(Kind, &'a mut [u8]),
    /// The sender stepped its key, and the opener followed.
    Rekey,
}

/// Why a record was refused. The opener is as it was before; the connection ends all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// The AEAD tag does not verify: forged, changed, or not the record that is due.
    Tag,
    /// The Fernet token is invalid.
    Token(fernet::TokenError),
    /// Authentic, but not the record that is due: one was dropped, repeated or moved.
    Counter {
        /// The counter that is due.
        due: u64,
        /// The counter in the record.
        found: u64,
    },
    /// Authentic, but too short for its fields or too long.
    Length(usize),
    /// Authentic, but of a type that does not exist or has no place here.
    Type(u8),
    /// The sender went on under one key for longer than the limits allow.
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
            RecordError::Length(n) => write!(f, "a record with {n} bytes inside"),
            RecordError::Type(byte) => write!(f, "a record of type {byte} has no place here"),
            RecordError::Limit => write!(f, "the peer used one key for too long"),
        }
    }
}

impl std::error::Error for RecordError {}

/// The key was used up to its hard limit without a rekey, or the content is too long. Nothing was
/// sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealError;

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "the content is above {MAX_CONTENT} bytes, or the key was used up without a rekey"
        )
    }
}

impl std::error::Error for SealError {}

/// The time and IV of one Fernet record.
#[derive(Clone, Copy, Debug)]
pub struct Fresh {
    /// Seconds since 1970. Written into the token, checked by nobody: a step of the clock must not
    /// end a session.
    pub time: u64,
    /// From a cryptographic generator.
    pub iv: [u8; 16],
}

/// Draws what one more Fernet record needs. Not called for the other suite.
pub type Draw<'a> = &'a mut dyn FnMut() -> Fresh;

/// Bytes that [`Sealer::seal`] wants before the content: the length and the type.
pub const HEADROOM: usize = frame::HEADER + 1;
const TAG: usize = 16;
const COUNTER: usize = 8;

/// One direction's key, and how far it has been used.
struct Direction {
    suite: Suite,
    secret: TrafficSecret,
    cipher: Cipher,
    counter: u64,
    bytes: u64,
}

enum Cipher {
    Aes256Gcm { aead: Box<Aes256Gcm>, iv: [u8; 12] },
    Fernet(Box<Fernet>),
}

impl Direction {
    fn new(suite: Suite, secret: TrafficSecret) -> Direction {
        let key = secret.key();
        let cipher = match suite {
            Suite::Aes256Gcm => Cipher::Aes256Gcm {
                aead: Box::new(Aes256Gcm::new((&*key).into())),
                iv: *secret.iv(),
            },
            Suite::Fernet => Cipher::Fernet(Box::new(Fernet::new(&Key::from_bytes(&key)))),
        };
        Direction {
            suite,
            secret,
            cipher,
            counter: 0,
            bytes: 0,
        }
    }

    /// Whether one more record, of `content` bytes, stays within the hard limits. A Rekey has no
    /// content, so it fits after the last of the bytes; not after the last of the records, which
    /// [`Sealer::rekey_is_due`] avoids.
    fn has_room(&self, content: usize) -> bool {
        self.counter < MAX_RECORDS && self.bytes.saturating_add(content as u64) <= MAX_BYTES
    }

    /// Counts a record that was sealed or opened.
    fn count(&mut self, content: usize) {
        self.counter += 1;
        self.bytes += content as u64;
    }

    /// One step of the key: a new secret, counter at zero, the old key wiped as it is dropped.
    fn rekey(&mut self) {
        *self = Direction::new(self.suite, self.secret.rekey());
    }
}

/// The nonce of record number `counter`, RFC 8446 section 5.3: each is used once, as each counter
/// is.
fn nonce(iv: &[u8; 12], counter: u64) -> Nonce<aes_gcm::aes::cipher::consts::U12> {
    let mut nonce = *iv;
    for (byte, count) in nonce[4..].iter_mut().zip(counter.to_be_bytes()) {
        *byte ^= count;
    }
    nonce.into()
}

/// The sending half of a session.
pub struct Sealer(Direction);

/// The receiving half of a session.
pub struct Opener(Direction);

impl Sealer {
    pub(super) fn new(suite: Suite, secret: TrafficSecret) -> Sealer {
        Sealer(Direction::new(suite, secret))
    }

    /// The suite of this session.
    pub fn suite(&self) -> Suite {
        self.0.suite
    }

    /// The secret in use, for a key log.
    pub fn secret(&self) -> &TrafficSecret {
        &self.0.secret
    }

    /// Seals a record in place. `frame` holds [`HEADROOM`] bytes of anything, then `n` bytes of
    /// content, then room up to [`Suite::frame_len`]. Returns the length of the frame that now
    /// stands at its start.
    ///
    /// # Errors
    /// [`SealError`] at the hard limits of section 9; a sender that heeds [`Sealer::rekey_is_due`]
    /// never meets them.
    ///
    /// # Panics
    /// If `frame` is shorter than `frame_len(n)`.
    pub fn seal(
        &mut self,
        kind: Kind,
        frame: &mut [u8],
        n: usize,
        fresh: Draw,
    ) -> Result<usize, SealError> {
        self.seal_type(kind as u8, frame, n, fresh)
    }

    /// Seals a Rekey, the last record under the old key, and steps to the next. Returns its frame.
    ///
    /// # Errors
    /// [`SealError`] as for [`Sealer::seal`].
    pub fn rekey(&mut self, fresh: Draw) -> Result<Vec<u8>, SealError> {
        let frame = self.frame(types::REKEY, &[], fresh)?;
        self.0.rekey();
        Ok(frame)
    }

    /// Whether enough was sealed under this key: far below the hard limits, so that a Rekey always
    /// fits. The tunnel also rekeys by its clock.
    pub fn rekey_is_due(&self) -> bool {
        self.0.bytes >= REKEY_AFTER_BYTES || self.0.counter >= MAX_RECORDS / 2
    }

    /// Seals `content` into a frame of its own.
    pub(super) fn frame(
        &mut self,
        kind: u8,
        content: &[u8],
        fresh: Draw,
    ) -> Result<Vec<u8>, SealError> {
        let mut frame = vec![0; self.suite().frame_len(content.len())];
        frame[HEADROOM..HEADROOM + content.len()].copy_from_slice(content);
        self.seal_type(kind, &mut frame, content.len(), fresh)?;
        Ok(frame)
    }

    fn seal_type(
        &mut self,
        kind: u8,
        frame: &mut [u8],
        n: usize,
        fresh: Draw,
    ) -> Result<usize, SealError> {
        if n > MAX_CONTENT || !self.0.has_room(n) {
            return Err(SealError);
        }
        let frame = &mut frame[..self.suite().frame_len(n)];
        let header = frame::header(frame.len() - frame::HEADER);
        match &self.0.cipher {
            Cipher::Aes256Gcm { aead, iv } => {
                frame[frame::HEADER] = kind;
                let (message, tag) = frame[frame::HEADER..].split_at_mut(1 + n);
                let computed = aead.encrypt_inout_detached(
                    &nonce(iv, self.0.counter),
                    &header,
                    message.into(),
                );
                tag.copy_from_slice(
                    &computed.expect("a record is shorter than AES-GCM's limit of 64 GiB"),
                );
            }
            Cipher::Fernet(fernet) => {
                let message = COUNTER + 1 + n;
                let start = frame::HEADER + token::message_start(message);
                frame.copy_within(HEADROOM..HEADROOM + n, start + COUNTER + 1);
                frame[start..start + COUNTER].copy_from_slice(&self.0.counter.to_be_bytes());
                frame[start + COUNTER] = kind;
                let Fresh { time, iv } = fresh();
                fernet.seal_in_place(&mut frame[frame::HEADER..], message, time, iv);
            }
        }
        frame[..frame::HEADER].copy_from_slice(&header);
        let length = frame.len();
        self.0.count(n);
        Ok(length)
    }
}

impl Opener {
    /// The receiving half of a direction, from its secret: the handshake's, or a recording's from a
    /// key log.
    pub fn new(suite: Suite, secret: TrafficSecret) -> Opener {
        Opener(Direction::new(suite, secret))
    }

    /// Makes record `counter` the one that is due, in a recording that misses those before it. A
    /// tunnel never does this: for its peer nothing may be missing.
    pub fn skip_to(&mut self, counter: u64) {
        self.0.counter = counter;
    }

    /// The suite of this session.
    pub fn suite(&self) -> Suite {
        self.0.suite
    }

    /// The secret in use, for a key log.
    pub fn secret(&self) -> &TrafficSecret {
        &self.0.secret
    }

    /// Opens the body of a frame in place.
    ///
    /// # Errors
    /// [`RecordError`]; the opener is unchanged, the contents of `body` are undefined, the connection
    /// has to end.
    pub fn open<'a>(&mut self, body: &'a mut [u8]) -> Result<Opened<'a>, RecordError> {
        let (byte, content) = self.open_type(body)?;
        match Kind::from_type(byte) {
            Some(kind) => {
                self.0.count(content.len());
                Ok(Opened::Content(kind, content))
            }
            None if byte != types::REKEY => Err(RecordError::Type(byte)),
            None if !content.is_empty() => Err(RecordError::Length(content.len())),
            None => {
                self.0.rekey();
                Ok(Opened::Rekey)
            }
        }
    }

    /// Opens a record that must be of the type `due`: Finished or Config.
    ///
    /// # Errors
    /// As for [`Opener::open`].
    pub fn open_due<'a>(
        &mut self,
        body: &'a mut [u8],
        due: u8,
    ) -> Result<&'a mut [u8], RecordError> {
        let (kind, content) = self.open_type(body)?;
        if kind != due {
            return Err(RecordError::Type(kind));
        }
        self.0.count(content.len());
        Ok(content)
    }

    /// Opens a record without counting it yet: nothing changes until all of it is right.
    fn open_type<'a>(&self, body: &'a mut [u8]) -> Result<(u8, &'a mut [u8]), RecordError> {
        let message = match &self.0.cipher {
            Cipher::Aes256Gcm { aead, iv } => {
                let header = frame::header(body.len());
                let (message, tag) = body.split_last_chunk_mut::<TAG>().ok_or(RecordError::Tag)?;
                let (nonce, tag) = (nonce(iv, self.0.counter), (&*tag).into());
                let verified =
                    aead.decrypt_inout_detached(&nonce, &header, (&mut *message).into(), tag);
                verified.map(|()| message).map_err(|_| RecordError::Tag)?
            }
            Cipher::Fernet(fernet) => {
                let message = super::open_token(fernet, body, None)
                    .map_err(RecordError::Token)?
                    .message;
                let inside = message.len();
                let (counter, message) = message
                    .split_first_chunk_mut::<COUNTER>()
                    .ok_or(RecordError::Length(inside))?;
                let (due, found) = (self.0.counter, u64::from_be_bytes(*counter));
                if found != due {
                    return Err(RecordError::Counter { due, found });
                }
                message
            }
        };
        let length = message.len();
        let parts = message
            .split_first_mut()
            .filter(|(_, content)| content.len() <= MAX_CONTENT);
        let (kind, content) = parts.ok_or(RecordError::Length(length))?;
        if self.0.has_room(content.len()) {
            Ok((*kind, content))
        } else {
            Err(RecordError::Limit)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(suite: Suite) -> (Sealer, Opener) {
        let secret = TrafficSecret::from_bytes(&[5; 32]);
        (
            Sealer::new(suite, secret.clone()),
            Opener::new(suite, secret),
        )
    }

    fn fresh() -> Fresh {
        Fresh {
            time: 0,
            iv: [3; 16],
        }
    }

    /// The body of a record of any type.
    fn seal(sealer: &mut Sealer, kind: u8, content: &[u8]) -> Result<Vec<u8>, SealError> {
        Ok(sealer.frame(kind, content, &mut fresh)?[frame::HEADER..].to_vec())
    }

    /// Both ends of a direction as they are after so many records and bytes.
    fn used(suite: Suite, counter: u64, bytes: u64) -> (Sealer, Opener) {
        let (mut sealer, mut opener) = pair(suite);
        for direction in [&mut sealer.0, &mut opener.0] {
            (direction.counter, direction.bytes) = (counter, bytes);
        }
        (sealer, opener)
    }

    #[test]
    fn types_that_have_no_place_are_refused_and_change_nothing() {
        for suite in Suite::ALL {
            for kind in 0..=255 {
                let (mut sealer, mut opener) = pair(suite);
                let mut body = seal(&mut sealer, kind, b"").unwrap();
                let opened = opener
                    .open(&mut body.clone())
                    .map(|opened| opened == Opened::Rekey);
                match kind {
                    3..=6 | 8..=9 => assert_eq!(opened, Ok(false)),
                    types::REKEY => assert_eq!(opened, Ok(true)),
                    // Finished and Config among them: their time is over.
                    _ => {
                        assert_eq!(opened, Err(RecordError::Type(kind)));
                        assert_eq!(
                            opener
                                .open_due(&mut body, kind)
                                .map(|content| content.len()),
                            Ok(0)
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_rekey_with_content_is_refused_and_steps_nothing() {
        for suite in Suite::ALL {
            let (mut sealer, mut opener) = pair(suite);
            let secret = *opener.secret().bytes();
            let mut body = seal(&mut sealer, types::REKEY, b"now").unwrap();
            assert_eq!(opener.open(&mut body), Err(RecordError::Length(3)));
            assert_eq!(
                (opener.secret().bytes(), opener.0.counter, opener.0.bytes),
                (&secret, 0, 0)
            );
        }
    }

    #[test]
    fn a_rekey_is_due_after_so_many_bytes_or_records() {
        for (records, bytes, due) in [
            (MAX_RECORDS / 2 - 1, REKEY_AFTER_BYTES - 1, false),
            (MAX_RECORDS / 2, 0, true),
            (0, REKEY_AFTER_BYTES, true),
        ] {
            assert_eq!(
                used(Suite::Aes256Gcm, records, bytes).0.rekey_is_due(),
                due,
                "{records} {bytes}"
            );
        }
    }

    #[test]
    fn a_recording_may_miss_records() {
        for suite in Suite::ALL {
            let (mut sealer, mut opener) = pair(suite);
            let mut bodies: Vec<_> = (0..3)
                .map(|_| seal(&mut sealer, 5, b"abc").unwrap())
                .collect();
            opener.skip_to(2);
            assert!(opener.open(&mut bodies[2]).is_ok());
        }
    }

    #[test]
    fn a_sender_stops_at_the_hard_limits() {
        for suite in Suite::ALL {
            let (mut sealer, _) = used(suite, MAX_RECORDS - 1, 0);
            assert!(sealer.rekey_is_due());
            assert!(seal(&mut sealer, 5, b"last").is_ok());
            assert_eq!(seal(&mut sealer, 5, b""), Err(SealError));
            assert_eq!(
                sealer.rekey(&mut fresh),
                Err(SealError),
                "too late for a Rekey too"
            );
            assert_eq!(sealer.0.counter, MAX_RECORDS);

            let (mut sealer, mut opener) = used(suite, 9, MAX_BYTES - 3);
            assert!(sealer.rekey_is_due());
            assert_eq!(seal(&mut sealer, 5, b"four"), Err(SealError));
            let mut body = seal(&mut sealer, 5, b"abc").unwrap();
            assert!(opener.open(&mut body).is_ok());
            assert_eq!(seal(&mut sealer, 5, b"x"), Err(SealError));
            let mut step = sealer.rekey(&mut fresh).unwrap();
            assert_eq!(
                opener.open(&mut step[frame::HEADER..]),
                Ok(Opened::Rekey),
                "a Rekey has no content"
            );
            assert_eq!((sealer.0.counter, sealer.0.bytes), (0, 0));
            assert_eq!((opener.0.counter, opener.0.bytes), (0, 0));
            let mut body = seal(&mut sealer, 5, b"on we go").unwrap();
            assert!(opener.open(&mut body).is_ok());
        }
    }

    #[test]
    fn a_receiver_holds_the_sender_to_the_hard_limits() {
        let secret = TrafficSecret::from_bytes(&[5; 32]);
        for suite in Suite::ALL {
            for (counter, bytes) in [
                (MAX_RECORDS, 0),
                (u64::MAX, 0),
                (7, MAX_BYTES - 2),
                (7, u64::MAX),
            ] {
                let (_, mut opener) = used(suite, counter, bytes);
                let mut body = sealed_at(suite, &secret, counter, b"\x05xyz");
                assert_eq!(
                    opener.open(&mut body),
                    Err(RecordError::Limit),
                    "{suite} {counter} {bytes}"
                );
                assert_eq!((opener.0.counter, opener.0.bytes), (counter, bytes));
            }
            let (_, mut opener) = used(suite, MAX_RECORDS - 1, MAX_BYTES - 3);
            let mut body = sealed_at(suite, &secret, MAX_RECORDS - 1, b"\x05xyz");
            assert!(
                opener.open(&mut body).is_ok(),
                "the last record is still good"
            );
        }
    }

    /// Any message under any counter, without the sealer's checks.
    fn sealed_at(suite: Suite, secret: &TrafficSecret, counter: u64, message: &[u8]) -> Vec<u8> {
        match Direction::new(suite, secret.clone()).cipher {
            Cipher::Aes256Gcm { aead, iv } => {
                let mut body = [message, &[0; TAG]].concat();
                let header = frame::header(body.len());
                let (message, tag) = body.split_last_chunk_mut::<TAG>().unwrap();
                let nonce = nonce(&iv, counter);
                *tag = aead
                    .encrypt_inout_detached(&nonce, &header, message.into())
                    .unwrap()
                    .into();
                body
            }
            Cipher::Fernet(fernet) => {
                fernet.seal(&[&counter.to_be_bytes()[..], message].concat(), 0, [3; 16])
            }
        }
    }

    #[test]
    fn authentic_records_too_long_or_too_short_are_refused() {
        let secret = TrafficSecret::from_bytes(&[5; 32]);
        for suite in Suite::ALL {
            let (_, mut opener) = pair(suite);
            for n in [MAX_CONTENT + 1, MAX_CONTENT + 6, MAX_CONTENT + 5000] {
                let mut message = vec![0; 1 + n];
                message[0] = types::REKEY;
                let mut body = sealed_at(suite, &secret, 0, &message);
                assert_eq!(opener.open(&mut body), Err(RecordError::Length(1 + n)));
            }
            let mut body = sealed_at(suite, &secret, 0, b"");
            assert_eq!(
                opener.open(&mut body),
                Err(RecordError::Length(0)),
                "no type"
            );
            assert_eq!((opener.0.counter, opener.0.bytes), (0, 0));
        }
        // In the Fernet suite the frame's limit alone does not hold content back: padding hides up
        // to six bytes.
        let body = sealed_at(Suite::Fernet, &secret, 0, &vec![0; 1 + MAX_CONTENT + 6]);
        assert_eq!(body.len(), Suite::Fernet.max_body());
        let (_, mut opener) = pair(Suite::Fernet);
        let short = Fernet::new(&Key::from_bytes(&secret.key()));
        for n in 0..COUNTER {
            let mut body = short.seal(&vec![0; n], 0, [3; 16]);
            assert_eq!(
                opener.open(&mut body),
                Err(RecordError::Length(n)),
                "no counter"
            );
        }
    }

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
