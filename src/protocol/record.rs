//! What did the other side say, in which order? PROTOCOL.md sections 6 and 7.
//!
//! ```text
//!  | length | body: type and content, sealed by the suite |
//!  | 4      | n bytes                                     |
//! ```
//!
//! Each direction has its own key and counter. The counter is 0 for the first record under a key
//! and grows by one with every record. So a record that is dropped, repeated, moved or reflected
//! does not open. [`Sealer`] and [`Opener`] are neither `Clone` nor `Copy`: a counter has one
//! owner, and no number is used twice under one key.

pub use super::suite::{Draw, Form, Fresh, RecordError, Suite};

use super::frame;
use super::key_schedule::TrafficSecret;
use super::limits::{MAX_BYTES, MAX_CONTENT, MAX_RECORDS, REKEY_AFTER_BYTES};
use super::suite::Cipher;
use std::fmt;

/// What a record is, by its type on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordType {
    /// The client's first record.
    Finished = 1,
    /// The server's first record.
    Config = 2,
    /// One or more IP packets, each behind its length as u16.
    Packets = 3,
    /// An offload header and one IP packet that the peer's kernel segments or completes.
    SuperPacket = 4,
    /// Asks for a Pong.
    Ping = 5,
    /// The content of the Ping, returned.
    Pong = 6,
    /// The last record under a key.
    Rekey = 7,
    /// A text for the person or program at the other end.
    Message = 8,
    /// The last record of a direction: a reason.
    Close = 9,
}

impl RecordType {
    /// All types.
    pub const ALL: [RecordType; 9] = [
        RecordType::Finished,
        RecordType::Config,
        RecordType::Packets,
        RecordType::SuperPacket,
        RecordType::Ping,
        RecordType::Pong,
        RecordType::Rekey,
        RecordType::Message,
        RecordType::Close,
    ];

    /// The type with this number.
    pub fn from_byte(byte: u8) -> Option<RecordType> {
        RecordType::ALL
            .into_iter()
            .find(|kind| kind.to_byte() == byte)
    }

    /// Its number.
    pub const fn to_byte(self) -> u8 {
        self as u8
    }

    /// Whether it belongs to the tunnel, which may send it at any time. The handshake alone sends
    /// Finished and Config, and [`Sealer::rekey`] alone sends Rekey.
    pub const fn is_of_tunnel(self) -> bool {
        !matches!(
            self,
            RecordType::Finished | RecordType::Config | RecordType::Rekey
        )
    }

    /// The types that the tunnel may send.
    pub fn of_tunnel() -> impl Iterator<Item = RecordType> {
        RecordType::ALL
            .into_iter()
            .filter(|kind| kind.is_of_tunnel())
    }
}

/// Why nothing was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealError {
    /// The content is above [`MAX_CONTENT`].
    Length(usize),
    /// The key was used up to its hard limit, without a Rekey.
    Limit,
    /// The tunnel may not send records of this type.
    Type(RecordType),
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            SealError::Length(n) => {
                write!(f, "a record of {n} bytes, where {MAX_CONTENT} are allowed")
            }
            SealError::Limit => write!(f, "the key is used up: no Rekey came in time"),
            SealError::Type(kind) => write!(f, "the tunnel may not send a {kind:?} record"),
        }
    }
}

impl std::error::Error for SealError {}

/// Bytes that [`Sealer::seal`] wants before the content: the length and the type.
pub const HEADROOM: usize = frame::HEADER + 1;

/// One direction's key, and how far it has been used.
struct Direction {
    suite: Suite,
    secret: TrafficSecret,
    cipher: Box<dyn Cipher>,
    counter: u64,
    bytes: u64,
}

impl Direction {
    fn new(suite: Suite, secret: TrafficSecret) -> Direction {
        Direction {
            suite,
            cipher: suite.cipher(&secret),
            secret,
            counter: 0,
            bytes: 0,
        }
    }

    /// Whether one more record, of `content` bytes, stays within the hard limits. A Rekey has no
    /// content, so it fits after the last byte. It does not fit after the last record, which
    /// [`Sealer::rekey_is_due`] avoids.
    fn has_room(&self, content: usize) -> bool {
        self.counter < MAX_RECORDS && self.bytes.saturating_add(content as u64) <= MAX_BYTES
    }

    /// Counts a record that was sealed or opened.
    fn count(&mut self, content: usize) {
        self.counter += 1;
        self.bytes += content as u64;
    }

    /// One step of the key: a new secret, and the counter at 0. The old key is wiped as it is
    /// dropped. What this leaves on the stack can be wiped behind it.
    #[inline(never)]
    fn rekey(&mut self) {
        *self = Direction::new(self.suite, self.secret.rekey());
    }
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
    /// [`SealError`]; nothing was sealed. A sender that heeds [`Sealer::rekey_is_due`] never meets
    /// the limits.
    ///
    /// # Panics
    /// If `frame` is shorter than `frame_len(n)`.
    pub fn seal(
        &mut self,
        kind: RecordType,
        frame: &mut [u8],
        n: usize,
        fresh: Draw,
    ) -> Result<usize, SealError> {
        if !kind.is_of_tunnel() {
            return Err(SealError::Type(kind));
        }
        self.seal_byte(kind.to_byte(), frame, n, fresh)
    }

    /// Seals a Rekey, the last record under the old key, and steps to the next. Returns its frame.
    ///
    /// # Errors
    /// [`SealError::Limit`].
    pub fn rekey(&mut self, fresh: Draw) -> Result<Vec<u8>, SealError> {
        let frame = self.frame(RecordType::Rekey, &[], fresh)?;
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
        kind: RecordType,
        content: &[u8],
        fresh: Draw,
    ) -> Result<Vec<u8>, SealError> {
        let mut frame = vec![0; self.suite().frame_len(content.len())];
        frame[HEADROOM..HEADROOM + content.len()].copy_from_slice(content);
        self.seal_byte(kind.to_byte(), &mut frame, content.len(), fresh)?;
        Ok(frame)
    }

    fn seal_byte(
        &mut self,
        byte: u8,
        frame: &mut [u8],
        n: usize,
        fresh: Draw,
    ) -> Result<usize, SealError> {
        if n > MAX_CONTENT {
            return Err(SealError::Length(n));
        }
        if !self.0.has_room(n) {
            return Err(SealError::Limit);
        }
        let length = self.suite().frame_len(n);
        let (header, body) = frame[..length].split_at_mut(frame::HEADER);
        header.copy_from_slice(&frame::header(body.len()));
        body[0] = byte;
        self.0.cipher.seal(self.0.counter, body, 1 + n, fresh);
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

    /// Opens the body of a frame in place. It is a record of the tunnel, or a Rekey. After a Rekey,
    /// the opener has changed to the next key. The content may be changed in place.
    ///
    /// # Errors
    /// [`RecordError`]; the opener is unchanged, the contents of `body` are undefined, the
    /// connection has to end.
    pub fn open<'a>(
        &mut self,
        body: &'a mut [u8],
    ) -> Result<(RecordType, &'a mut [u8]), RecordError> {
        let (byte, content) = self.open_byte(body)?;
        match RecordType::from_byte(byte) {
            Some(RecordType::Rekey) if !content.is_empty() => {
                Err(RecordError::Length(1 + content.len()))
            }
            Some(RecordType::Rekey) => {
                self.0.rekey();
                Ok((RecordType::Rekey, content))
            }
            Some(kind) if kind.is_of_tunnel() => {
                self.0.count(content.len());
                Ok((kind, content))
            }
            _ => Err(RecordError::Type(byte)),
        }
    }

    /// Opens a record that must be of the type `due`: Finished or Config.
    ///
    /// # Errors
    /// As for [`Opener::open`].
    pub(super) fn open_due<'a>(
        &mut self,
        body: &'a mut [u8],
        due: RecordType,
    ) -> Result<&'a mut [u8], RecordError> {
        let (byte, content) = self.open_byte(body)?;
        if byte != due.to_byte() {
            return Err(RecordError::Type(byte));
        }
        self.0.count(content.len());
        Ok(content)
    }

    /// Opens a record of any type, known or not, in a recording. Returns its type.
    ///
    /// # Errors
    /// As for [`Opener::open`], but for the type.
    pub fn open_recorded<'a>(
        &mut self,
        body: &'a mut [u8],
    ) -> Result<(u8, &'a mut [u8]), RecordError> {
        let (byte, content) = self.open_byte(body)?;
        if byte == RecordType::Rekey.to_byte() {
            self.0.rekey();
        } else {
            self.0.count(content.len());
        }
        Ok((byte, content))
    }

    /// Opens a record without counting it yet: nothing changes until all of it is right.
    fn open_byte<'a>(&self, body: &'a mut [u8]) -> Result<(u8, &'a mut [u8]), RecordError> {
        let message = self.0.cipher.open(self.0.counter, body)?;
        let length = message.len();
        let Some((byte, content)) = message.split_first_mut() else {
            return Err(RecordError::Length(length));
        };
        if content.len() > MAX_CONTENT {
            return Err(RecordError::Length(length));
        }
        if !self.0.has_room(content.len()) {
            return Err(RecordError::Limit);
        }
        Ok((*byte, content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fernet::{Fernet, Key};

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
    fn seal(sealer: &mut Sealer, byte: u8, content: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut frame = vec![0; sealer.suite().frame_len(content.len())];
        frame[HEADROOM..HEADROOM + content.len()].copy_from_slice(content);
        sealer.seal_byte(byte, &mut frame, content.len(), &mut fresh)?;
        Ok(frame[frame::HEADER..].to_vec())
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
            for byte in 0..=255 {
                let (mut sealer, mut opener) = pair(suite);
                let mut body = seal(&mut sealer, byte, b"").unwrap();
                let opened = opener.open(&mut body.clone()).map(|(kind, _)| kind);
                match RecordType::from_byte(byte) {
                    Some(kind) if kind.is_of_tunnel() || kind == RecordType::Rekey => {
                        assert_eq!(opened, Ok(kind));
                    }
                    // Finished and Config among them: their time is over.
                    known => {
                        assert_eq!(opened, Err(RecordError::Type(byte)));
                        if let Some(due) = known {
                            let content = opener.open_due(&mut body, due);
                            assert_eq!(content.map(|content| content.len()), Ok(0));
                        }
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
            let mut body = seal(&mut sealer, RecordType::Rekey.to_byte(), b"now").unwrap();
            assert_eq!(opener.open(&mut body), Err(RecordError::Length(4)));
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
                used(Suite::AES_256_GCM, records, bytes).0.rekey_is_due(),
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
            assert_eq!(seal(&mut sealer, 5, b""), Err(SealError::Limit));
            assert_eq!(
                sealer.rekey(&mut fresh),
                Err(SealError::Limit),
                "too late for a Rekey too"
            );
            assert_eq!(sealer.0.counter, MAX_RECORDS);

            let (mut sealer, mut opener) = used(suite, 9, MAX_BYTES - 3);
            assert!(sealer.rekey_is_due());
            assert_eq!(seal(&mut sealer, 5, b"four"), Err(SealError::Limit));
            let mut body = seal(&mut sealer, 5, b"abc").unwrap();
            assert!(opener.open(&mut body).is_ok());
            assert_eq!(seal(&mut sealer, 5, b"x"), Err(SealError::Limit));
            let mut step = sealer.rekey(&mut fresh).unwrap();
            let stepped = opener.open(&mut step[frame::HEADER..]).unwrap();
            assert_eq!((stepped.0, stepped.1.len()), (RecordType::Rekey, 0));
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
        let mut body = message.to_vec();
        body.resize(suite.body_len(message.len()), 0);
        let cipher = suite.cipher(secret);
        cipher.seal(counter, &mut body, message.len(), &mut fresh);
        body
    }

    #[test]
    fn authentic_records_too_long_or_too_short_are_refused() {
        let secret = TrafficSecret::from_bytes(&[5; 32]);
        for suite in Suite::ALL {
            let (_, mut opener) = pair(suite);
            for n in [MAX_CONTENT + 1, MAX_CONTENT + 6, MAX_CONTENT + 5000] {
                let mut message = vec![0; 1 + n];
                message[0] = RecordType::Rekey.to_byte();
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
    }

    #[test]
    fn a_token_that_has_no_room_for_a_counter_is_refused() {
        // In the Fernet suite the frame's limit alone does not hold content back: padding hides up
        // to six bytes.
        let secret = TrafficSecret::from_bytes(&[5; 32]);
        let body = sealed_at(Suite::FERNET, &secret, 0, &vec![0; 1 + MAX_CONTENT + 6]);
        assert_eq!(body.len(), Suite::FERNET.max_body());
        let (_, mut opener) = pair(Suite::FERNET);
        let short = Fernet::new(&Key::from_bytes(&secret.key()));
        for n in 0..8 {
            let mut body = short.seal(&vec![0; n], 0, [3; 16]);
            assert_eq!(opener.open(&mut body), Err(RecordError::Length(n)));
        }
    }

    #[test]
    fn the_tunnel_may_not_send_what_belongs_to_the_handshake_or_the_key() {
        for kind in RecordType::ALL {
            let (mut sealer, _) = pair(Suite::AES_256_GCM);
            let sealed = sealer.seal(kind, &mut [0; 100], 0, &mut fresh);
            match kind {
                RecordType::Finished | RecordType::Config | RecordType::Rekey => {
                    assert_eq!(sealed, Err(SealError::Type(kind)));
                    assert_eq!(sealer.0.counter, 0);
                }
                _ => assert!(sealed.is_ok()),
            }
        }
    }
}
