//! Which frames are these, and what do they hold? One connection, from its first segment to its
//! last.
//!
//! ```text
//!  a stream's beginning      hello?  ── no ──> not fernvpn: ignored
//!                              └ record, record, …              the first opens by one line of the key log
//!  a hole, or a late start   | … | length | body | length | …   where a length leads to another one, and the body opens,
//!                                                               a frame begins
//! ```

use super::link::Segment;
use super::report::{Place, Report};
use super::search::{Keyed, Keys};
use super::stream::{Piece, Stream};
use crate::fernet::token::Token;
use crate::protocol::frame;
use crate::protocol::limits::{MAX_BODY, MAX_HELLO};
use crate::protocol::record::{Kind, Suite};
use std::io;
use std::net::SocketAddr;
use std::slice;

/// The shortest frame of a record, in bytes: with this many bytes, one record at most is missed.
const SHORTEST: usize = Suite::Aes256Gcm.frame_len(0);

/// A connection.
pub struct Session {
    /// Its number in the report, from 1; 0 while nobody knows that it is fernvpn's.
    pub number: usize,
    /// The number of its last segment in the capture.
    pub last_segment: u64,
    ends: [SocketAddr; 2],
    /// Which of the ends is the client.
    client: Option<usize>,
    /// Its line of the key log.
    line: Option<usize>,
    directions: [Direction; 2],
    ignored: bool,
}

/// What one end says.
#[derive(Default)]
struct Direction {
    stream: Option<Stream>,
    /// Bytes of a frame that is not whole.
    buffer: Vec<u8>,
    /// Whether nothing was said, or missed, yet.
    fresh: bool,
    /// Whether a frame begins where the buffer does.
    aligned: bool,
    /// Most records that may be missing before the next.
    missed: u64,
    keyed: Option<Keyed>,
    /// Whether it is known that no key opens it.
    sealed: bool,
    closed: bool,
}

impl Session {
    /// A connection of which this is the first segment. It is yet to be added.
    pub fn new(segment: &Segment) -> Session {
        let client = segment
            .syn
            .then_some(usize::from(segment.acknowledged.is_some()));
        let (ends, directions) = ([segment.from, segment.to], Default::default());
        Session {
            number: 0,
            last_segment: 0,
            ends,
            client,
            line: None,
            directions,
            ignored: false,
        }
    }

    /// Whether the sender's stream begins with this SYN.
    pub fn has_begun_with(&self, syn: &Segment) -> bool {
        let stream = &self.directions[self.side(syn)].stream;
        stream
            .as_ref()
            .is_some_and(|stream| stream.begins_at(syn.sequence.wrapping_add(1)))
    }

    /// Bytes that it holds.
    pub fn held(&self) -> usize {
        let held = |one: &Direction| one.buffer.len() + one.stream.as_ref().map_or(0, Stream::held);
        self.directions.iter().map(held).sum()
    }

    /// Forgets all but that there is a connection.
    pub fn ignore(&mut self) {
        (self.ignored, self.directions) = (true, Default::default());
    }

    /// Adds a segment, and tells what that makes known.
    ///
    /// # Errors
    /// Those of the report.
    pub fn segment(
        &mut self,
        segment: &Segment,
        keys: &mut Keys,
        report: &mut Report,
    ) -> io::Result<()> {
        if self.ignored {
            return Ok(());
        }
        let side = self.side(segment);
        if let (Some(number), Some(stream)) =
            (segment.acknowledged, &mut self.directions[1 - side].stream)
        {
            stream.acknowledge(number);
        }
        let direction = &mut self.directions[side];
        if direction.stream.is_none() {
            let missed = if segment.syn { 0 } else { u64::MAX };
            *direction = Direction {
                fresh: true,
                aligned: segment.syn,
                missed,
                ..Direction::default()
            };
        }
        let first = segment.sequence.wrapping_add(segment.syn.into());
        let stream = direction.stream.get_or_insert_with(|| Stream::new(first));
        stream.add(report.time, first, segment.payload, segment.fin);
        for side in [side, 1 - side] {
            self.pieces(side, false, keys, report)?;
        }
        if segment.reset {
            self.note(side, "the connection is reset", report)
        } else {
            Ok(())
        }
    }

    /// Tells what is left, holes and all: nothing more will come.
    ///
    /// # Errors
    /// Those of the report.
    pub fn give_up(&mut self, keys: &mut Keys, report: &mut Report) -> io::Result<()> {
        (0..2).try_for_each(|side| self.pieces(side, true, keys, report))
    }

    fn side(&self, segment: &Segment) -> usize {
        usize::from(segment.from != self.ends[0])
    }

    fn place(&self, side: usize) -> Place {
        Place {
            session: self.number,
            by_client: self.client == Some(side),
        }
    }

    /// Tells something, if this is known to be a session.
    fn note(&self, side: usize, text: &str, report: &mut Report) -> io::Result<()> {
        if self.number == 0 {
            Ok(())
        } else {
            report.note(self.place(side), text)
        }
    }

    fn pieces(
        &mut self,
        side: usize,
        give_up: bool,
        keys: &mut Keys,
        report: &mut Report,
    ) -> io::Result<()> {
        while let Some(piece) = self.directions[side]
            .stream
            .as_mut()
            .and_then(|stream| stream.next(give_up))
        {
            let direction = &mut self.directions[side];
            report.time = direction
                .stream
                .as_ref()
                .map_or(report.time, |stream| stream.time);
            if let Piece::Bytes(bytes) = &piece {
                direction.buffer.extend(bytes);
            }
            self.frames(side, !matches!(piece, Piece::Bytes(_)), keys, report)?;
            let direction = &mut self.directions[side];
            match piece {
                Piece::Bytes(_) => {}
                Piece::Missing(bytes) => {
                    let most =
                        bytes.saturating_add(direction.buffer.len() as u64) / SHORTEST as u64 + 1;
                    direction.missed = direction.missed.saturating_add(most);
                    direction.buffer.clear();
                    (direction.fresh, direction.aligned) = (false, false);
                    self.note(
                        side,
                        &format!("{bytes} bytes of the stream are not in the capture"),
                        report,
                    )?;
                }
                Piece::End => self.end(side, report)?,
            }
        }
        if give_up {
            self.frames(side, true, keys, report)
        } else {
            Ok(())
        }
    }

    /// Takes the frames out of the buffer. Where no more comes, what looks like the beginning of
    /// one may be none.
    fn frames(
        &mut self,
        side: usize,
        ended: bool,
        keys: &mut Keys,
        report: &mut Report,
    ) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.directions[side].buffer);
        let mut at = 0;
        loop {
            let (rest, direction) = (&buffer[at..], &mut self.directions[side]);
            match frame::whole(rest, MAX_BODY) {
                Ok(None) if direction.aligned || !ended || rest.len() < frame::HEADER => break,
                Ok(Some(length))
                    if direction.aligned || frame::whole(&rest[length..], MAX_BODY).is_ok() =>
                {
                    let taken = self.frame(side, &rest[..length], keys, report)?;
                    self.directions[side].aligned = taken;
                    at += if taken { length } else { 1 };
                }
                Err(_) if direction.aligned && direction.fresh => self.ignore(),
                Err(reason) if direction.aligned => {
                    (direction.aligned, direction.missed) =
                        (false, direction.missed.saturating_add(1));
                    self.note(side, &format!("no frame begins here: {reason}"), report)?;
                }
                _ => at += 1,
            }
            if self.ignored {
                return Ok(());
            }
        }
        buffer.drain(..at);
        self.directions[side].buffer = buffer;
        Ok(())
    }

    /// What may be a frame: a hello where one is due, or a record. False if it is none.
    fn frame(
        &mut self,
        side: usize,
        frame: &[u8],
        keys: &mut Keys,
        report: &mut Report,
    ) -> io::Result<bool> {
        let direction = &mut self.directions[side];
        let (body, fresh) = (
            &frame[frame::HEADER..],
            std::mem::take(&mut direction.fresh),
        );
        let by_client = self.client.unwrap_or(side) == side;
        let id = if by_client { 8 } else { 0 };
        let due = fresh && (direction.aligned || self.line.is_none());
        if due && body.len() <= MAX_HELLO && body.get(id..).is_some_and(is_token) {
            direction.missed = 0;
            self.begin(if by_client { side } else { 1 - side }, report)?;
            let name = if by_client {
                "ClientHello"
            } else {
                "ServerHello"
            };
            return report
                .frame(self.place(side), name, frame, id, "")
                .map(|()| true);
        }
        if fresh && direction.aligned && self.number == 0 {
            self.ignore();
            return Ok(true);
        }
        self.record(side, frame, keys, report)
    }

    /// A record, if this is a frame.
    fn record(
        &mut self,
        side: usize,
        frame: &[u8],
        keys: &mut Keys,
        report: &mut Report,
    ) -> io::Result<bool> {
        let (direction, body) = (&mut self.directions[side], &frame[frame::HEADER..]);
        // 1. In step this is the next record, or nothing. Out of step, and at first, what it is
        //    shows by trying.
        let opened = match (&mut direction.keyed, direction.missed) {
            (Some(keyed), 0) => keyed.open(body).map_err(|reason| reason.to_string()),
            (Some(keyed), most) => match keys.search(slice::from_ref(keyed), most, body) {
                Some((found, record)) => {
                    *keyed = found;
                    Ok(record)
                }
                None => Err("none of the records that may be due".into()),
            },
            (None, _) if direction.sealed => Err(String::new()),
            (None, most) => {
                let sender = self.client.map(|client| usize::from(client != side));
                match keys.search(&keys.beginnings(self.line, sender), most, body) {
                    Some((found, record)) => {
                        let client = if found.sender == 0 { side } else { 1 - side };
                        let (line, first) = (found.line, self.line.replace(found.line).is_none());
                        direction.keyed = Some(found);
                        self.begin(client, report)?;
                        if first {
                            report.opened(self.place(side), &keys.lines[line])?;
                        }
                        Ok(record)
                    }
                    None if keys.lines.is_empty() => Err(String::new()),
                    None => Err("no line of the key log opens it".into()),
                }
            }
        };
        // 2. It is the right one; or none at all; or one that nobody can open.
        let (place, direction) = (self.place(side), &mut self.directions[side]);
        match opened {
            Ok(record) => {
                direction.missed = 0;
                direction.closed |= record.kind == Kind::Close as u8;
                report.record(place, frame, &record)?;
            }
            Err(_) if self.number == 0 || !(direction.aligned || keys.lines.is_empty()) => {
                return Ok(false);
            }
            Err(reason) if direction.keyed.is_some() => {
                // The next is that which was due, or the one after it.
                direction.missed = direction.missed.saturating_add(1);
                report.unopened(place, frame, &format!("REFUSED: {reason}"))?;
            }
            Err(reason) => {
                direction.sealed = true;
                report.unopened(place, frame, &format!("sealed {reason}"))?;
            }
        }
        Ok(true)
    }

    /// Numbers the session, now that it is known to be one, and who is the client.
    fn begin(&mut self, client: usize, report: &mut Report) -> io::Result<()> {
        self.client = Some(client);
        if self.number == 0 {
            self.number = report.begin(self.ends[client], self.ends[1 - client])?;
        }
        Ok(())
    }

    fn end(&mut self, side: usize, report: &mut Report) -> io::Result<()> {
        let direction = &self.directions[side];
        let how = match self.directions.iter().any(|direction| direction.closed) {
            _ if !direction.buffer.is_empty() => "the stream ends in the middle of a frame",
            _ if direction.keyed.is_none() => "the stream ends",
            true => "the stream ends, after a Close",
            false => "the stream ends without a Close: a truncation",
        };
        self.note(side, how, report)
    }
}

fn is_token(text: &[u8]) -> bool {
    Token::decode(&mut text.to_vec()).is_ok()
}
