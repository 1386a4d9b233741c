//! What happens between the handshake and the end? This is the receiving half of a session.
//!
//! ```text
//!  Packets, SuperPacket   SessionHandler::on_packet
//!  Message                SessionHandler::on_message
//!  Ping                   Pong at once
//!  Pong, Rekey            nothing more to do
//!  Close                  the end
//!  silence                for `keepalive`: Ping      for 5 s after a Ping: the peer is dead
//! ```

use crate::config::settings::Timeouts;
use crate::os::{log, process, reason, socket};
use crate::packet::offload::{self, Checked, Offload};
use crate::protocol::frame::BadLength;
use crate::protocol::record::{Opener, RecordError, RecordType};
use crate::tunnel::observe::counters::{TrafficCounters, count};
use crate::tunnel::session::frame_reader::{Filled, FrameReader};
use crate::tunnel::session::sender::SessionSender;
use std::fmt;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the peer may take no data after a Close. Then the connection ends.
pub const CLOSE_PAUSE: Duration = Duration::from_secs(1);
/// How long the end of a connection may take after a Close, in all.
pub const CLOSE_TIME: Duration = Duration::from_secs(10);
/// Why a connection ends on which only small segments arrive.
const LARGE_VANISH: &str = "the path loses large packets and does not say so; the next connection \
                            sends small ones";
/// The most bytes of a Ping.
const MAX_PING: usize = 64;
/// The most bytes of text in a Close.
const MAX_CLOSE: usize = 256;
/// The most bytes of a Message.
pub const MAX_MESSAGE: usize = 4096;

/// The reasons of a Close, PROTOCOL.md section 6.2.
pub mod close {
    /// Somebody stopped the sender.
    pub const LEAVING: u8 = 0;
    /// The server stops.
    pub const STOPPING: u8 = 1;
    /// A newer connection of this client has finished its handshake.
    pub const REPLACED: u8 = 2;
    /// The key is no longer valid.
    pub const REMOVED: u8 = 3;
    /// The configuration changed.
    pub const CONFIGURED: u8 = 4;
}

/// Handles what a session receives.
pub trait SessionHandler {
    /// A packet from the peer. Its form was checked; its source and destination were not.
    fn on_packet(&mut self, packet: &Checked);
    /// A text from the peer.
    fn on_message(&mut self, text: &str);
    /// Everything that had arrived has been passed on.
    fn on_batch_end(&mut self);
    /// Nothing has come for `tick`. A returned reason ends the connection.
    fn on_tick(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// How a connection ended.
#[derive(Debug)]
pub enum End {
    /// The peer sent Close.
    Closed {
        /// One of [`close`].
        code: u8,
        /// The text, made printable.
        text: String,
    },
    /// This side sent Close, or gave up the connection.
    Left,
    /// The stream ended without a Close: somebody cut it, or the peer died.
    Truncated,
    /// The peer did not answer a Ping for this long.
    Dead(Duration),
    /// A record was refused.
    Refused(RecordError),
    /// A frame's length was out of range.
    BadLength(BadLength),
    /// An authentic record held what it may not hold.
    Content(&'static str),
    /// [`SessionHandler::on_tick`] gave a reason.
    GivenUp(String),
    /// The socket failed.
    Failed(io::Error),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            End::Closed { text, .. } => write!(f, "the peer closed: {text}"),
            End::Left => write!(f, "left"),
            End::Truncated => write!(f, "truncated: the connection ended without a Close"),
            End::Dead(time) => write!(f, "no answer to a Ping for {} s", time.as_secs()),
            End::Refused(reason) => write!(f, "{reason}"),
            End::BadLength(reason) => write!(f, "{reason}"),
            End::Content(reason) => write!(f, "{reason}"),
            End::GivenUp(reason) => write!(f, "{reason}"),
            End::Failed(error) => {
                write!(
                    f,
                    "truncated: the connection failed without a Close: {}",
                    reason(error)
                )
            }
        }
    }
}

/// Receives until the session ends.
pub fn receive_until_end(
    reader: &mut FrameReader,
    opener: &mut Opener,
    sender: &Arc<SessionSender>,
    timeouts: Timeouts,
    handler: &mut dyn SessionHandler,
) -> End {
    let mut heard = Instant::now();
    let mut pinged = false;
    loop {
        if let Err(end) = handle_frames(reader, opener, sender, handler) {
            return end;
        }
        handler.on_batch_end();
        let until_due = if pinged {
            timeouts.answer
        } else {
            timeouts.keepalive
        };
        let due = (heard + until_due).saturating_duration_since(Instant::now());
        let filled = reader.fill(due.min(timeouts.tick));
        // After our own Close, further records are ignored.
        match sender.ended() {
            None => {}
            Some(Ok(())) => return End::Left,
            Some(Err(error)) => return End::Failed(error),
        }
        match filled {
            Ok(Filled::Stuck) if sender.traffic.path_size.suspect() => {
                // Otherwise the peer waits for its keepalive.
                let _ = socket::reset_at_close(&sender.socket);
                return End::Failed(io::Error::other(LARGE_VANISH));
            }
            Ok(Filled::Stuck) => {}
            Ok(Filled::Data) => {
                heard = Instant::now();
                pinged = false;
            }
            Ok(Filled::End) => return End::Truncated,
            Ok(Filled::TimedOut) if heard.elapsed() < until_due => {
                if let Err(reason) = handler.on_tick() {
                    return End::GivenUp(reason);
                }
            }
            Ok(Filled::TimedOut) if pinged => return End::Dead(timeouts.answer),
            Ok(Filled::TimedOut) => {
                sender.send(RecordType::Ping, b"are you there?");
                heard = Instant::now();
                pinged = true;
            }
            Err(error) => return End::Failed(error),
        }
    }
}

/// Handles the frames that have arrived whole.
fn handle_frames(
    reader: &mut FrameReader,
    opener: &mut Opener,
    sender: &Arc<SessionSender>,
    handler: &mut dyn SessionHandler,
) -> Result<(), End> {
    let limit = opener.suite().max_body();
    while let Some(body) = reader.next_frame(limit).map_err(End::BadLength)? {
        handle_record(body, opener, sender, handler)?;
    }
    Ok(())
}

/// Opens one record and does what it asks for. An error ends the session.
fn handle_record(
    body: &mut [u8],
    opener: &mut Opener,
    sender: &Arc<SessionSender>,
    handler: &mut dyn SessionHandler,
) -> Result<(), End> {
    let (kind, content) = opener.open(body).map_err(End::Refused)?;
    match kind {
        // The handshake is over, so the opener refuses these types before.
        RecordType::Finished | RecordType::Config => {
            Err(End::Refused(RecordError::Type(kind.to_byte())))
        }
        // The opener has changed to the next key.
        RecordType::Rekey => {
            process::wipe_stack();
            Ok(())
        }
        RecordType::Packets => unpack_packets(content, &sender.traffic, handler),
        RecordType::SuperPacket => match content.split_first_chunk::<{ offload::LENGTH }>() {
            Some((header, packet)) if sender.super_packets => {
                check_and_pass_on(Offload::from_wire(header), packet, &sender.traffic, handler);
                Ok(())
            }
            _ => Err(End::Content(
                "a SuperPacket that was not agreed on, or without its header",
            )),
        },
        RecordType::Ping if content.len() <= MAX_PING => {
            sender.send(RecordType::Pong, content);
            Ok(())
        }
        RecordType::Ping => Err(End::Content("a Ping of more than 64 bytes")),
        RecordType::Pong if content.len() <= MAX_PING => Ok(()),
        RecordType::Pong => Err(End::Content("a Pong of more than 64 bytes")),
        RecordType::Message => match str::from_utf8(content) {
            Ok(text) if content.len() <= MAX_MESSAGE => {
                handler.on_message(text);
                Ok(())
            }
            _ => Err(End::Content(
                "a Message that is not UTF-8 of at most 4096 bytes",
            )),
        },
        RecordType::Close => Err(read_close(content)),
    }
}

/// Passes on the packets of a Packets record.
fn unpack_packets(
    mut content: &[u8],
    traffic: &TrafficCounters,
    handler: &mut dyn SessionHandler,
) -> Result<(), End> {
    if content.is_empty() {
        return Err(End::Content("a Packets record without a packet"));
    }
    while let Some((length, rest)) = content.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length));
        let Some((packet, rest)) = rest.split_at_checked(length) else {
            return Err(End::Content("a Packets record whose lengths do not add up"));
        };
        check_and_pass_on(Offload::default(), packet, traffic, handler);
        content = rest;
    }
    if content.is_empty() {
        Ok(())
    } else {
        Err(End::Content("a Packets record with a byte left over"))
    }
}

fn check_and_pass_on(
    offload: Offload,
    packet: &[u8],
    traffic: &TrafficCounters,
    handler: &mut dyn SessionHandler,
) {
    match offload.check(packet) {
        Ok(packet) => handler.on_packet(&packet),
        Err(_) => count(&traffic.dropped_malformed),
    }
}

/// The end of a session by the peer's Close.
fn read_close(content: &[u8]) -> End {
    match content.split_first() {
        Some((code, text)) if text.len() <= MAX_CLOSE => match str::from_utf8(text) {
            Ok(text) => End::Closed {
                code: *code,
                text: log::printable(text),
            },
            Err(_) => End::Content("a Close whose text is not UTF-8"),
        },
        _ => End::Content("a Close without a code, or of more than 256 bytes"),
    }
}

/// Reads and forgets what a peer sends, until the deadline, however fast it comes. Returns whether
/// the connection ended before.
pub fn discard_until(socket: &TcpStream, deadline: Instant) -> bool {
    let mut forgotten = [0; 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        match socket::wait_readable(socket, left) {
            Ok(true) => {}
            Ok(false) => return false,
            Err(_) => return true,
        }
        match socket::receive_now(socket, &mut forgotten) {
            Ok(0) => return true,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return true,
            _ => {}
        }
    }
}

/// Reads on after a Close of ours, until the peer ends its half as well. To end with bytes unread
/// would reset the connection, and the reset can overtake the Close. The peer may have to take much
/// data before the Close, so this waits as long as the peer takes some.
pub fn drain(socket: &TcpStream) {
    let latest = Instant::now() + CLOSE_TIME;
    let mut taken = taken_by_peer(socket);
    while !discard_until(socket, latest.min(Instant::now() + CLOSE_PAUSE)) {
        let before = taken;
        taken = taken_by_peer(socket);
        if taken == before || Instant::now() >= latest {
            return;
        }
    }
}

/// The bytes that the peer has acknowledged. It is 0 if the system does not report them.
pub fn taken_by_peer(socket: &TcpStream) -> u64 {
    socket::path(socket).map_or(0, |path| path.acked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener};
    use std::thread;

    /// A connection whose sending half was filled with data and then ended.
    fn stalled() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        while (&near).write(&[7; 65536]).is_ok() {}
        near.set_nonblocking(false).unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        (near, far)
    }

    #[test]
    fn a_close_is_waited_for_while_the_peer_takes_data() {
        let (near, mut far) = stalled();
        let slow = thread::spawn(move || {
            let began = Instant::now();
            let mut piece = vec![0; 1 << 18];
            // The path is slow, because this tests the pace.
            while began.elapsed() < CLOSE_PAUSE * 2 {
                far.read_exact(&mut piece).unwrap();
                thread::sleep(CLOSE_PAUSE / 4);
            }
            far.read_to_end(&mut piece).expect("all of it, and the end")
        });
        drain(&near);
        drop(near);
        assert!(slow.join().unwrap() > 0, "there was more to take");
    }

    #[test]
    fn a_peer_that_takes_nothing_is_not_waited_for() {
        let (near, _far) = stalled();
        let began = Instant::now();
        drain(&near);
        assert!(began.elapsed() < CLOSE_PAUSE * 3);
    }
}
