//! What was said in this recording? This leads from a capture of a network to the records of every
//! session, and to the packets inside.
//!
//! ```text
//!  file ─> link ────> stream ─────> session ─────────> report ─> lines
//!  packet  └ layer    bytes, holes  frames, records          └─> inner ─> pcapng
//!          segment                  └ search, key_log: keys
//!          └ tally: what was of no use
//! ```
//!
//! | file | question |
//! |---|---|
//! | [`mod@file`] | which packets are in this file? |
//! | [`link`] | which TCP segment is in this packet? |
//! | `layer` | what is behind this header? |
//! | [`tally`] | which packets were of no use, and why? |
//! | [`stream`] | in which order were these bytes said? |
//! | [`session`] | which frames are these, and what do they hold? |
//! | [`key_log`] | which keys does this key log hold? |
//! | [`search`] | which record, under which key, is this? |
//! | [`report`] | how is a record told to people? |
//! | [`inner`] | which packets were inside, in a form that other programs read? |
//!
//! Everything in the file may be forged. Memory is bounded ([`MAX_HELD`], [`MAX_CONNECTIONS`]), and
//! so is the work of trying keys ([`Keys::work`]).

pub mod file;
pub mod inner;
pub mod key_log;
mod layer;
pub mod link;
pub mod report;
pub mod search;
pub mod session;
pub mod stream;
pub mod tally;

use file::{Reader, Reading};
use link::Segment;
use report::Report;
use search::Keys;
use session::Session;
use std::collections::HashMap;
use std::io::{self, Read};
use std::net::SocketAddr;
use tally::Tally;

/// Bytes that wait in all streams for those before them, and what they cost in memory.
pub const MAX_HELD: usize = 1 << 28;
/// Connections that are followed. With one more, the older half is forgotten.
pub const MAX_CONNECTIONS: usize = 1 << 16;

/// All connections of a capture, by their two ends.
struct Connections {
    keys: Keys,
    open: HashMap<[SocketAddr; 2], Session>,
    held: usize,
    tally: Tally,
}

/// Reads a capture and reports it. Where the file is broken all before that place is reported.
///
/// # Errors
/// Those of the report's outputs; inside, why the file could not be read to its end.
pub fn capture(input: impl Read, keys: Keys, report: &mut Report) -> io::Result<Reading<()>> {
    let mut connections = Connections {
        keys,
        open: HashMap::new(),
        held: 0,
        tally: Tally::default(),
    };
    let mut reader = match Reader::new(input) {
        Ok(reader) => reader,
        Err(reason) => return Ok(Err(reason)),
    };
    let read = loop {
        let packet = match reader.packet() {
            Ok(Some(packet)) => packet,
            Ok(None) => break Ok(()),
            Err(reason) => break Err(reason),
        };
        report.time = packet.time;
        connections.tally.packet(packet.cut);
        match link::segment(packet.link, &packet.bytes) {
            Ok(segment) => connections.segment(&segment, report)?,
            Err(reason) => connections.tally.pass_over(reason),
        }
    };
    connections.end_those_up_to(u64::MAX, report)?;
    let with_keys = !connections.keys.lines.is_empty();
    report.finish(&connections.tally, with_keys)?;
    Ok(read)
}

impl Connections {
    fn segment(&mut self, segment: &Segment, report: &mut Report) -> io::Result<()> {
        self.tally.segments += 1;
        let mut ends = [segment.from, segment.to];
        ends.sort_unstable();
        // 1. A SYN that does not belong to the connection that is known begins another one between
        //    the same ends.
        let known = self.open.get(&ends);
        if segment.syn && known.is_some_and(|known| !known.has_begun_with(segment, report.time)) {
            self.end(ends, report)?;
        }
        if self.open.len() >= MAX_CONNECTIONS && !self.open.contains_key(&ends) {
            let mut ages: Vec<u64> = self
                .open
                .values()
                .map(|session| session.last_segment)
                .collect();
            let (_, middle, _) = ages.select_nth_unstable(MAX_CONNECTIONS / 2);
            self.end_those_up_to(*middle, report)?;
        }
        // 2. What the segment adds, and what that makes known.
        let session = self
            .open
            .entry(ends)
            .or_insert_with(|| Session::new(segment, report.time));
        let held = self.held - session.held();
        session.last_segment = self.tally.segments;
        session.segment(segment, &mut self.keys, report)?;
        // 3. Too much that waits: this connection's holes are given up, and if that is not enough
        //    all of it.
        if held + session.held() > MAX_HELD {
            session.give_up(&mut self.keys, report)?;
            if held + session.held() > MAX_HELD {
                session.ignore();
            }
        }
        self.held = held + session.held();
        Ok(())
    }

    /// Ends connections whose last segment has this number, or one below.
    fn end_those_up_to(&mut self, last: u64, report: &mut Report) -> io::Result<()> {
        let old = self
            .open
            .iter()
            .filter(|(_, session)| session.last_segment <= last);
        let mut old: Vec<_> = old.map(|(ends, session)| (session.number, *ends)).collect();
        old.sort_unstable();
        old.into_iter()
            .try_for_each(|(_, ends)| self.end(ends, report))
    }

    fn end(&mut self, ends: [SocketAddr; 2], report: &mut Report) -> io::Result<()> {
        let Some(mut session) = self.open.remove(&ends) else {
            return Ok(());
        };
        self.held -= session.held();
        session.give_up(&mut self.keys, report)?;
        if session.number == 0 {
            self.tally.other_connection(session.server_port());
        }
        Ok(())
    }
}
