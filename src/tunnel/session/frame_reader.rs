//! Which frames arrive? This is the receiving half of the TCP connection that carries the tunnel.
//!
//! ```text
//!  buffer   | done | frame | frame | part of a frame |   free   |
//!                   start                            end
//! ```
//!
//! Before the handshake has finished, the buffer is just as large as a hello. After that it comes
//! from [`READS`], and goes back when all of it is read.

use crate::config::settings::Congestion;
use crate::os::socket;
use crate::protocol::frame::{self, BadLength};
use crate::protocol::limits::{MAX_BODY, MAX_HELLO};
use crate::tunnel::session::buffers::{READ_ROOM, READS};
use crate::tunnel::session::congestion::{self, CongestionSupervisor};
use crate::tunnel::session::path_size::loses_large_segments;
use hmac::digest::zeroize::Zeroize;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the reader checks, while there is traffic, whether large segments pass.
const SIZE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often it checks after the last traffic, so that an idle connection sleeps.
const SIZE_CHECKS: u8 = 2;

/// The result of waiting for data.
#[derive(Debug, PartialEq, Eq)]
pub enum Filled {
    /// The buffer has more data.
    Data,
    /// No data came in time.
    TimedOut,
    /// No data came, and of what this end has sent, only small segments arrive.
    Stuck,
    /// The peer has ended its direction.
    End,
}

/// Why there is no frame.
#[derive(Debug)]
pub enum FrameError {
    /// The stream ended, perhaps in the middle of a frame.
    End,
    /// The frame did not come in time.
    TimedOut,
    /// Its length is out of range.
    BadLength(BadLength),
    /// The bytes that had to come before it are wrong.
    BadPreface(&'static str),
    /// The socket failed.
    Failed(io::Error),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            FrameError::End => write!(f, "the connection ended"),
            FrameError::TimedOut => write!(f, "nothing came in time"),
            FrameError::BadLength(reason) => write!(f, "{reason}"),
            FrameError::BadPreface(reason) => write!(f, "{reason}"),
            FrameError::Failed(error) => write!(f, "{error}"),
        }
    }
}

/// Reads frames from a socket.
pub struct FrameReader {
    socket: Arc<TcpStream>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    established: bool,
    supervisor: Option<CongestionSupervisor>,
    /// When the reader last checked the segment size of the path.
    sized: Instant,
    /// How often it checks now.
    checks_left: u8,
}

impl FrameReader {
    /// A reader whose buffer holds a hello.
    pub fn new(socket: Arc<TcpStream>) -> FrameReader {
        FrameReader {
            socket,
            buffer: vec![0; frame::HEADER + MAX_HELLO],
            start: 0,
            end: 0,
            established: false,
            supervisor: None,
            sized: Instant::now(),
            checks_left: 0,
        }
    }

    /// Adapts the connection to its path. `round_trip` is the handshake's, for systems that do not
    /// report one.
    pub fn tune_for_path(&mut self, congestion: &Congestion, round_trip: Duration) {
        self.supervisor = congestion::tune_for_path(&self.socket, congestion, round_trip);
    }

    /// Allows a large buffer, because the other side has authenticated.
    pub fn establish(&mut self) {
        self.established = true;
    }

    /// Waits for more data, at most `timeout`, and reads it.
    ///
    /// # Errors
    /// The errors of the socket.
    pub fn fill(&mut self, timeout: Duration) -> io::Result<Filled> {
        self.make_room();
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.check(&self.socket);
        }
        if let Some(nothing) = self.wait(timeout)? {
            return Ok(nothing);
        }
        if self.buffer.is_empty() {
            self.buffer = READS.take();
        }
        match socket::receive_now(&self.socket, &mut self.buffer[self.end..]) {
            Ok(0) => Ok(Filled::End),
            Ok(n) => {
                self.end += n;
                Ok(Filled::Data)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Filled::TimedOut),
            Err(error) => Err(error),
        }
    }

    /// Waits until there is something to read, or returns why there is not. It wakes up from time
    /// to time while sent data is unacknowledged, and soon after data came, to check the path.
    fn wait(&mut self, timeout: Duration) -> io::Result<Option<Filled>> {
        let deadline = Instant::now() + timeout;
        loop {
            if self.checks_left > 0 && self.sized.elapsed() >= SIZE_CHECK_INTERVAL {
                self.sized = Instant::now();
                let path = socket::path(&self.socket).ok();
                if self.established && path.as_ref().is_some_and(loses_large_segments) {
                    return Ok(Some(Filled::Stuck));
                }
                self.checks_left = match path.is_some_and(|path| path.unacked > 0) {
                    true => SIZE_CHECKS,
                    false => self.checks_left - 1,
                };
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let slice = match self.checks_left {
                0 => left,
                _ => left.min(SIZE_CHECK_INTERVAL),
            };
            if socket::wait_readable(&self.socket, slice)? {
                self.checks_left = SIZE_CHECKS;
                return Ok(None);
            }
            if slice == left {
                return Ok(Some(Filled::TimedOut));
            }
        }
    }

    /// Makes sure that a whole frame fits behind `start`.
    fn make_room(&mut self) {
        let waiting = self.start..self.end;
        if waiting.is_empty() {
            self.start = 0;
            self.end = 0;
            if self.established {
                READS.give(std::mem::take(&mut self.buffer));
            }
        } else if self.established && self.buffer.len() < READ_ROOM {
            let mut larger = READS.take();
            larger[..waiting.len()].copy_from_slice(&self.buffer[waiting.clone()]);
            self.buffer = larger;
            self.start = 0;
            self.end = waiting.len();
        } else if self.buffer.len() - self.start < frame::HEADER + MAX_BODY {
            self.buffer.copy_within(waiting.clone(), 0);
            self.start = 0;
            self.end = waiting.len();
        }
    }

    /// The body of the next frame, if all of it is there.
    ///
    /// # Errors
    /// [`BadLength`] if its header announces more than `limit` bytes, or none.
    pub fn next_frame(&mut self, limit: usize) -> Result<Option<&mut [u8]>, BadLength> {
        let Some(length) = frame::whole(&self.buffer[self.start..self.end], limit)? else {
            return Ok(None);
        };
        let body = self.start + frame::HEADER;
        self.start += length;
        Ok(Some(&mut self.buffer[body..self.start]))
    }

    /// The body of the next frame. Waits for it until `deadline`, however slowly its bytes arrive.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn frame_until(
        &mut self,
        limit: usize,
        deadline: Instant,
    ) -> Result<&mut [u8], FrameError> {
        // The frame is parsed twice, because the loop cannot end a borrow that it may return.
        while frame::whole(&self.buffer[self.start..self.end], limit)
            .map_err(FrameError::BadLength)?
            .is_none()
        {
            self.more_until(deadline)?;
        }
        self.next_frame(limit)
            .map_err(FrameError::BadLength)?
            .ok_or(FrameError::End)
    }

    /// Waits until there is anything to read.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn data_until(&mut self, deadline: Instant) -> Result<(), FrameError> {
        match self.start < self.end {
            true => Ok(()),
            false => self.more_until(deadline),
        }
    }

    /// Reads a value with `parse` and consumes its bytes. `parse` returns their number with the
    /// value, or `None` if it needs more. It must not need more bytes than a hello has.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn preface_until<T>(
        &mut self,
        parse: impl Fn(&[u8]) -> Result<Option<(usize, T)>, &'static str>,
        deadline: Instant,
    ) -> Result<T, FrameError> {
        loop {
            if let Some((length, read)) =
                parse(&self.buffer[self.start..self.end]).map_err(FrameError::BadPreface)?
            {
                self.start += length;
                return Ok(read);
            }
            self.more_until(deadline)?;
        }
    }

    fn more_until(&mut self, deadline: Instant) -> Result<(), FrameError> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.fill(left) {
            Ok(Filled::Data) => Ok(()),
            Ok(Filled::End) => Err(FrameError::End),
            Ok(Filled::TimedOut | Filled::Stuck) => Err(FrameError::TimedOut),
            Err(error) => Err(FrameError::Failed(error)),
        }
    }
}

impl Drop for FrameReader {
    fn drop(&mut self) {
        // Packets stand there as they came in, opened.
        self.buffer.as_mut_slice().zeroize();
        READS.give(std::mem::take(&mut self.buffer));
    }
}
