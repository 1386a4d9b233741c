//! How is a record told to people? One line each, or all of it.
//!
//! ```text
//!  2026-11-24T15:20:43.123456Z  1 > Packets      105 bytes  0.3 tcp 10.8.0.2:40000 > …
//!  when it was captured   session │ │             frame      │ what is inside
//!                      > by the client              number of Rekeys before it . record
//! ```
//!
//! Text from the capture is escaped, so that it cannot move a terminal's cursor.

use super::inner::Writer;
use super::key_log::Line;
use super::search::Record;
use super::tally::Tally;
use crate::audit::fields;
use crate::fernet::token::{HEADER, Token};
use crate::os::clock;
use crate::packet::offload::{self, Checked, Offload};
use crate::packet::segmentation::segment;
use crate::packet::{ip, protocol};
use crate::protocol::frame;
use crate::protocol::record::RecordType;
use std::io::{self, Write};
use std::net::SocketAddr;

/// Packets of a record that its line names.
const NAMED: usize = 3;

/// Where something was said.
#[derive(Clone, Copy)]
pub struct Place {
    /// The session's number.
    pub session: usize,
    /// By the client, or by the server.
    pub by_client: bool,
}

/// The report of a capture.
pub struct Report<'a> {
    /// The time of the packet that is looked at, in nanoseconds since 1970.
    pub time: u64,
    /// Where the lines go.
    pub out: &'a mut dyn Write,
    /// Where the packets inside go.
    pub inner: Option<Writer<&'a mut dyn Write>>,
    /// Super-packets as they are; otherwise as the packets that they stand for.
    pub whole: bool,
    /// All bytes.
    pub verbose: bool,
    /// How much there was.
    pub counts: Counts,
}

/// How much there was in a capture.
#[derive(Default)]
pub struct Counts {
    sessions: usize,
    frames: u64,
    unopened: u64,
    packets: u64,
    malformed: u64,
}

impl Report<'_> {
    /// A session is found; its number.
    ///
    /// # Errors
    /// Those of the output, here and below.
    pub fn begin(&mut self, client: SocketAddr, server: SocketAddr) -> io::Result<usize> {
        self.counts.sessions += 1;
        let session = self.counts.sessions;
        self.note(
            Place {
                session,
                by_client: true,
            },
            &format!("session {session}: {client} > {server}"),
        )?;
        Ok(session)
    }

    /// A line of the key log opens a session.
    ///
    /// # Errors
    /// Those of the output.
    pub fn opened(&mut self, place: Place, line: &Line) -> io::Result<()> {
        self.note(
            place,
            &format!(
                "opened by line {} of the key log, suite {}",
                line.number, line.suite
            ),
        )
    }

    /// What is not a frame.
    ///
    /// # Errors
    /// Those of the output.
    pub fn note(&mut self, place: Place, text: &str) -> io::Result<()> {
        let begin = self.beginning(place);
        writeln!(self.out, "{begin} -- {text}")
    }

    /// A frame. Its body begins with an id of `id` bytes, and then is a token, or not.
    ///
    /// # Errors
    /// Those of the output.
    pub fn frame(
        &mut self,
        place: Place,
        name: &str,
        frame: &[u8],
        id: usize,
        text: &str,
    ) -> io::Result<()> {
        self.counts.frames += 1;
        let (header, body) = frame.split_at(frame::HEADER);
        let (id, sealed) = body.split_at(id);
        let mut line = format!(
            "{} {name:<11} {:>6} bytes  {text}",
            self.beginning(place),
            frame.len()
        );
        if !id.is_empty() {
            line += &format!(
                "id {} ",
                id.iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect::<String>()
            );
        }
        let mut decoded = sealed.to_vec();
        let token = Token::decode(&mut decoded);
        if let (Ok(token), true) = (&token, text.is_empty()) {
            line += &format!("token made at {}", clock::utc(token.time));
        }
        writeln!(self.out, "{line}")?;
        self.field("length", header)?;
        self.field("id", id)?;
        match token {
            Ok(Token { signed, mac, .. }) => {
                for (name, bytes) in [
                    ("version", &signed[..1]),
                    ("timestamp", &signed[1..9]),
                    ("IV", &signed[9..HEADER]),
                ] {
                    self.field(name, bytes)?;
                }
                self.field("ciphertext", &signed[HEADER..])?;
                self.field("HMAC", mac)
            }
            Err(_) => {
                let (ciphertext, tag) = sealed.split_at(sealed.len().saturating_sub(16));
                self.field("ciphertext", ciphertext)?;
                self.field("tag", tag)
            }
        }
    }

    /// A record that stays closed, and why.
    ///
    /// # Errors
    /// Those of the output.
    pub fn unopened(&mut self, place: Place, frame: &[u8], reason: &str) -> io::Result<()> {
        self.counts.unopened += 1;
        self.frame(place, "record", frame, 0, reason)
    }

    /// A record that opens.
    ///
    /// # Errors
    /// Those of the outputs.
    pub fn record(&mut self, place: Place, frame: &[u8], record: &Record) -> io::Result<()> {
        let Record {
            kind,
            step,
            counter,
            content,
        } = record;
        let known = RecordType::from_byte(*kind);
        let packets = self.packets(known, content)?;
        let said = match (known, content.split_first()) {
            (Some(RecordType::Packets | RecordType::SuperPacket), _) => {
                let named: Vec<&str> = packets
                    .iter()
                    .take(NAMED)
                    .map(|(name, _)| &name[..])
                    .collect();
                let more = packets.len() - named.len();
                named.join("; ")
                    + &if more > 0 {
                        format!("; and {more} more")
                    } else {
                        String::new()
                    }
            }
            (Some(RecordType::Close), Some((code, words))) => {
                format!("code {code}, {}", text(words))
            }
            (_, None) => String::new(),
            _ => text(content),
        };
        self.frame(
            place,
            &fields::name_of(*kind),
            frame,
            0,
            &format!("{step}.{counter} {said}"),
        )?;
        self.field("type", &[*kind])?;
        if packets.is_empty() {
            return self.field("content", content);
        }
        packets
            .iter()
            .try_for_each(|(name, packet)| self.field(name, packet))
    }

    /// What was in all of it, and what was passed over.
    ///
    /// # Errors
    /// Those of the outputs.
    pub fn finish(&mut self, tally: &Tally, with_keys: bool) -> io::Result<()> {
        let Counts {
            sessions,
            frames,
            unopened,
            packets,
            malformed,
        } = self.counts;
        for line in tally.lines(sessions, with_keys) {
            writeln!(self.out, "{line}")?;
        }
        writeln!(
            self.out,
            "{sessions} sessions, {frames} frames, {unopened} of them not opened"
        )?;
        writeln!(
            self.out,
            "{packets} packets inside, {malformed} malformed ones besides"
        )?;
        self.inner.as_mut().map_or(Ok(()), Writer::finish)?;
        self.out.flush()
    }

    /// The packets of a record, each with its summary. They go into the inner file.
    fn packets(
        &mut self,
        kind: Option<RecordType>,
        mut rest: &[u8],
    ) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut packets = Vec::new();
        if kind == Some(RecordType::SuperPacket)
            && let Some((header, packet)) = rest.split_first_chunk::<{ offload::LENGTH }>()
        {
            packets.push((
                self.packet(Offload::from_wire(header), packet)?,
                packet.to_vec(),
            ));
        }
        while kind == Some(RecordType::Packets)
            && let Some((length, after)) = rest.split_first_chunk::<2>()
        {
            let (packet, after) = after
                .split_at_checked(u16::from_be_bytes(*length).into())
                .unwrap_or((after, &[]));
            packets.push((self.packet(Offload::default(), packet)?, packet.to_vec()));
            rest = after;
        }
        Ok(packets)
    }

    /// One packet: into the inner file, and in words.
    fn packet(&mut self, offload: Offload, packet: &[u8]) -> io::Result<String> {
        let checked = match offload.check(packet) {
            Ok(checked) => checked,
            Err(reason) => {
                self.counts.malformed += 1;
                return Ok(format!("malformed: {reason}"));
            }
        };
        let time = self.time;
        let mut done = Ok(());
        let mut add = |packet: &[u8]| {
            self.counts.packets += 1;
            if let (Ok(()), Some(inner)) = (&done, &mut self.inner) {
                done = inner.packet(time, packet);
            }
        };
        if self.whole {
            add(packet)
        } else {
            _ = segment(&checked, &mut Vec::new(), add)
        }
        done.map(|()| summary(&checked))
    }

    fn beginning(&self, place: Place) -> String {
        let second = clock::utc(self.time / 1_000_000_000);
        let microsecond = self.time / 1000 % 1_000_000;
        let by = if place.by_client { '>' } else { '<' };
        format!(
            "{}.{microsecond:06}Z {:>2} {by}",
            second.trim_end_matches('Z'),
            place.session
        )
    }

    /// All bytes of a field, if they are wanted.
    fn field(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if !self.verbose || bytes.is_empty() {
            return Ok(());
        }
        writeln!(self.out, "      {name}: {} bytes", bytes.len())?;
        (0_usize..)
            .step_by(16)
            .zip(bytes.chunks(16))
            .try_for_each(|(at, line)| {
                let shown: String = line
                    .iter()
                    .map(|b| {
                        if b.is_ascii_graphic() {
                            char::from(*b)
                        } else {
                            '.'
                        }
                    })
                    .collect();
                let digits: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
                writeln!(self.out, "      {at:6x}  {:<47}  {shown}", digits.join(" "))
            })
    }
}

/// A packet in words: protocol, sender, receiver, length.
fn summary(checked: &Checked) -> String {
    let packet = checked.packet();
    let header = match ip::parse(packet) {
        Ok(header) => header,
        Err(reason) => return reason.to_string(),
    };
    let mut from = header.source.to_string();
    let mut to = header.destination.to_string();
    let name = match header.protocol {
        protocol::TCP => "tcp",
        protocol::UDP => "udp",
        protocol::ICMP => "icmp",
        protocol::ICMPV6 => "icmpv6",
        _ => "protocol",
    };
    match packet
        .get(header.transport..)
        .and_then(|transport| transport.first_chunk())
    {
        Some([a, b, c, d])
            if matches!(header.protocol, protocol::TCP | protocol::UDP) && !header.fragment =>
        {
            from = SocketAddr::new(header.source, u16::from_be_bytes([*a, *b])).to_string();
            to = SocketAddr::new(header.destination, u16::from_be_bytes([*c, *d])).to_string();
        }
        _ => {}
    }
    let number = if name == "protocol" {
        format!(" {}", header.protocol)
    } else {
        String::new()
    };
    let fragment = if header.fragment { ", a fragment" } else { "" };
    let segments = match checked.segments() {
        1 => String::new(),
        n => format!(" in {n} segments"),
    };
    format!(
        "{name}{number} {from} > {to}, {} bytes{segments}{fragment}",
        packet.len()
    )
}

/// Text of a peer, on one line and escaped.
fn text(content: &[u8]) -> String {
    format!(
        "{:?}",
        String::from_utf8_lossy(content)
            .trim_end()
            .replace('\n', " ")
    )
}
