//! Which frames are these, and what do they hold? One connection, from its first segment to its
//! last.
//!
//! ```text
//!  a stream's beginning      hello?  ── no ──> not fernvpn: ignored
//!                              └ record, record, …    the first opens by one line of the key log
//!  a hole, or a late start   | … | length | body | length | …
//!                            a frame begins where a length leads to another, and the body opens
//! ```

use super::link::Segment;
use super::report::{Place, Report};
use super::search::{Keyed, Keys};
use super::stream::{Piece, Stream};
use crate::fernet::token::Token;
use crate::protocol::frame;
use crate::protocol::limits::{MAX_BODY, MAX_HELLO};
use crate::protocol::record::{RecordType, Suite};
use std::io;
use std::net::SocketAddr;
use std::slice;

/// The shortest frame of a record, in bytes: with this many bytes, one record at most is missed.
fn shortest() -> usize {
    let frames = Suite::ALL.map(|suite| suite.frame_len(0));
    frames.into_iter().min().unwrap_or(1)
}

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
    /// When the first of its segments was captured: in the file it may stand behind others.
    begun: u64,
    /// Which end has reset it, and when, until that is told.
    reset: Option<(usize, u64)>,
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
    /// Whether bytes of it are not in the capture.
    holed: bool,
    end: End,
}

/// How far a direction's end is known.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum End {
    #[default]
    Unseen,
    /// Seen at this time. What it means depends on what the other direction says until it ends.
    Seen(u64),
    Told,
}

impl Session {
    /// A connection of which this is the first segment, captured at this time. It is yet to be
    /// added.
    pub fn new(segment: &Segment, time: u64) -> Session {
        Session {
            number: 0,
            last_segment: 0,
            ends: [segment.from, segment.to],
            client: None,
            line: None,
            directions: Default::default(),
            begun: time,
            reset: None,
            ignored: false,
        }
    }

    /// Whether a SYN that was captured at this time is this connection's. It need not come first: a
    /// SYN-ACK may be recorded before its SYN, and the end of a connection before its beginning.
    pub fn has_begun_with(&self, syn: &Segment, time: u64) -> bool {
        let known = |side: usize| {
            let stream = self.directions[side].stream.as_ref();
            stream.and_then(Stream::beginning)
        };
        let side = self.side(syn);
        let first = syn.sequence.wrapping_add(1);
        let behind = first.wrapping_add(u32::try_from(syn.payload.len()).unwrap_or_default());
        match (known(side), known(1 - side), syn.acknowledged) {
            (Some(beginning), ..) => [first, behind].contains(&beginning),
            (None, Some(_), Some(_)) => true,
            _ => time < self.begun,
        }
    }

    /// The port of the server, as far as that can be told: the lower one otherwise.
    pub fn server_port(&self) -> u16 {
        match self.client {
            Some(client) => self.ends[1 - client].port(),
            None => self.ends[0].port().min(self.ends[1].port()),
        }
    }

    /// Bytes that it holds.
    pub fn held(&self) -> usize {
        let held = |one: &Direction| one.buffer.len() + one.stream.as_ref().map_or(0, Stream::held);
        self.directions.iter().map(held).sum()
    }

    /// Forgets all but that there is a connection.
    pub fn ignore(&mut self) {
        self.ignored = true;
        self.directions = Default::default();
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
        self.begun = self.begun.min(report.time);
        let side = self.side(segment);
        let first = segment.sequence.wrapping_add(segment.syn.into());
        if segment.syn {
            self.direction(side, first).begins_at(first);
            // What a SYN-ACK acknowledges is as good, until the SYN is seen: it may have had data.
            if let Some(acknowledged) = segment.acknowledged {
                let other = self.direction(1 - side, acknowledged);
                if other
                    .stream
                    .as_ref()
                    .is_some_and(|stream| stream.beginning().is_none())
                {
                    other.begins_at(acknowledged);
                }
            }
            let client = match segment.acknowledged {
                Some(_) => 1 - side,
                None => side,
            };
            self.client.get_or_insert(client);
        }
        let Segment {
            payload, missing, ..
        } = *segment;
        let direction = self.direction(side, first);
        if let Some(stream) = &mut direction.stream {
            stream.add(report.time, first, payload, missing, segment.fin);
        }
        if segment.reset {
            self.reset.get_or_insert((side, report.time));
        }
        self.pieces(false, keys, report)
    }

    /// Tells what is left, holes and all: nothing more will come.
    ///
    /// # Errors
    /// Those of the report.
    pub fn give_up(&mut self, keys: &mut Keys, report: &mut Report) -> io::Result<()> {
        self.pieces(true, keys, report)?;
        self.tell_ends(true, report)
    }

    /// What one end says, from its first segment on, which has this number.
    fn direction(&mut self, side: usize, first: u32) -> &mut Direction {
        let direction = &mut self.directions[side];
        if direction.stream.is_none() {
            *direction = Direction {
                stream: Some(Stream::new(first)),
                fresh: true,
                missed: u64::MAX,
                ..Direction::default()
            };
        }
        direction
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

    /// Reports what is complete, in the order in which the two ends have sent it. If one direction
    /// has a hole, later messages of the other wait as well.
    fn pieces(&mut self, give_up: bool, keys: &mut Keys, report: &mut Report) -> io::Result<()> {
        while let Some(side) = self.next_side() {
            let direction = &mut self.directions[side];
            let Some(stream) = &mut direction.stream else {
                break;
            };
            let Some(piece) = stream.next(give_up) else {
                return Ok(());
            };
            report.time = stream.time;
            if let Piece::Bytes(bytes) = &piece {
                direction.buffer.extend(bytes);
            }
            self.frames(side, !matches!(piece, Piece::Bytes(_)), keys, report)?;
            let direction = &mut self.directions[side];
            match piece {
                Piece::Bytes(_) => {}
                Piece::Missing(bytes) => {
                    let most =
                        bytes.saturating_add(direction.buffer.len() as u64) / shortest() as u64 + 1;
                    direction.missed = direction.missed.saturating_add(most);
                    direction.buffer.clear();
                    direction.holed = true;
                    direction.fresh = false;
                    direction.aligned = false;
                    self.note(
                        side,
                        &format!("{bytes} bytes of the stream are not in the capture"),
                        report,
                    )?;
                }
                Piece::End => {
                    direction.end = End::Seen(report.time);
                    self.tell_ends(false, report)?;
                }
            }
        }
        if give_up {
            self.frames(0, true, keys, report)?;
            self.frames(1, true, keys, report)?;
        }
        if let Some((side, time)) = self.reset.take() {
            report.time = time;
            self.note(side, "the connection is reset", report)?;
        }
        Ok(())
    }

    /// Which end has said the next piece.
    fn next_side(&mut self) -> Option<usize> {
        let due = self.directions.each_mut().map(|direction| {
            let stream = direction.stream.as_mut();
            stream.and_then(Stream::due)
        });
        match due {
            [None, None] => None,
            [Some(_), None] => Some(0),
            [None, Some(_)] => Some(1),
            [Some(first), Some(second)] => Some(usize::from(second < first)),
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
            let rest = &buffer[at..];
            let direction = &mut self.directions[side];
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
                    direction.aligned = false;
                    direction.missed = direction.missed.saturating_add(1);
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
        let body = &frame[frame::HEADER..];
        let fresh = std::mem::take(&mut direction.fresh);
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
        let direction = &mut self.directions[side];
        let body = &frame[frame::HEADER..];
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
                        let line = found.line;
                        let first = self.line.replace(found.line).is_none();
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
        let place = self.place(side);
        let direction = &mut self.directions[side];
        match opened {
            Ok(record) => {
                direction.missed = 0;
                direction.closed |= record.kind == RecordType::Close.to_byte();
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

    /// Tells how the streams have ended, as soon as that can be judged: a Close may still come from
    /// the other end.
    fn tell_ends(&mut self, give_up: bool, report: &mut Report) -> io::Result<()> {
        let both = |is: fn(&Direction) -> bool| self.directions.iter().all(is);
        let closed = self.directions.iter().any(|direction| direction.closed);
        let ended = both(|direction| direction.end != End::Unseen);
        // Of what is not in the capture, or stays sealed, nobody knows whether it was a Close.
        let read = both(|direction| direction.keyed.is_some() && !direction.holed);
        if !(closed || ended || give_up) {
            return Ok(());
        }
        for side in 0..2 {
            let direction = &mut self.directions[side];
            let End::Seen(time) = direction.end else {
                continue;
            };
            direction.end = End::Told;
            let how = if !direction.buffer.is_empty() {
                "the stream ends in the middle of a frame"
            } else if direction.keyed.is_none() {
                "the stream ends"
            } else if closed {
                "the stream ends, after a Close"
            } else if ended && read {
                "the stream ends without a Close: a truncation"
            } else {
                "the stream ends; no Close is in the capture"
            };
            report.time = time;
            self.note(side, how, report)?;
        }
        Ok(())
    }
}

impl Direction {
    /// Notes that the byte with this number is its first.
    fn begins_at(&mut self, first: u32) {
        if self
            .stream
            .as_mut()
            .is_some_and(|stream| stream.begin_at(first))
        {
            self.aligned = true;
            self.missed = 0;
        }
    }
}

fn is_token(text: &[u8]) -> bool {
    Token::decode(&mut text.to_vec()).is_ok()
}
