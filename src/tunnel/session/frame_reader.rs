//! Which frames arrive? The receiving half of the TCP connection that carries the tunnel.
//!
//! ```text
//!  buffer   | done | frame | frame | part of a frame |   free   |
//!                   start                            end
//! ```
//!
//! A connection that has nothing to say holds no buffer: large ones are shared, taken when there is
//! something to read and given back when all of it is done. Before the handshake has finished a
//! buffer is just as large as a hello.

use crate::config::settings::Congestion;
use crate::os::log;
use crate::os::socket::{self, Tuning};
use crate::protocol::frame::{self, BadLength};
use crate::protocol::limits::{MAX_BODY, MAX_HELLO};
use crate::tunnel::locked;
use crate::tunnel::session::path_size::loses_large_segments;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Bytes read at once from a busy connection.
const READ: usize = 256 * 1024;

/// From this round trip on, a path counts as long.
pub const LONG_PATH: Duration = Duration::from_millis(5);
/// How often a long path is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// How often a path is looked at while there is traffic, to find out whether large segments pass.
const SIZE_LOOK: Duration = Duration::from_secs(1);
/// How often it is looked at after the last traffic, so that an idle connection sleeps.
const SIZE_LOOKS: u8 = 2;
/// How long after a queue a loss may still come from it.
const QUEUE_GONE: Duration = Duration::from_millis(500);
/// The congestion controls of a long path after its first, after how many losses, and whether those
/// with a queue.
const STEPS: [(&str, u32, bool); 2] = [("cubic", 64, true), ("bbr", 3, false)];
/// bbr has lost its idea of a path when its rate is such a part of what it was, for so long, and
/// too little for what waits.
const COLLAPSE: u64 = 16;
const COLLAPSED: Duration = Duration::from_millis(100);
/// Bytes that a short path's receiver takes before it has passed them on: some super-packets, and
/// what 10 Gbit/s bring in a round trip.
const WINDOW: u128 = 192 * 1024;
/// Bytes that a socket has taken and not sent, beyond which it takes no more; and on a short path.
/// What waits there cannot be passed by others.
const UNSENT: u32 = 128 * 1024;
const SHORT_UNSENT: u32 = 64 * 1024;
/// On a short path nothing is late that comes within this time. TCP's own least is 200 ms, for
/// which everybody in the tunnel would wait.
const RETRANSMIT: Duration = Duration::from_millis(25);

/// How a carrier's socket is set up, at both ends.
pub fn tuning() -> Tuning {
    Tuning {
        user_timeout: Some(Duration::from_secs(10)),
        notsent_lowat_bytes: Some(UNSENT),
        ..Tuning::default()
    }
}

/// What a long path has shown, and with which congestion control its carrier goes on.
///
/// ```text
///  bbr ── much is lost while a queue is full ──> cubic ── something is lost without a queue ──> bbr, for good
/// ```
///
/// It begins with bbr, which keeps its rate where cubic takes each loss for a full queue: TCP
/// handler the tunnel does not see the losses at all. But for bbr, TCP handler is an application that
/// never has enough to send; it then never finds out how much the path carries, and fills its queue
/// again and again. There cubic goes better.
struct CongestionSupervisor {
    looked: Instant,
    retransmitted: u32,
    /// When the round trip was last so long that a queue explains it.
    queued: Option<Instant>,
    /// How many of the steps above are done, and losses that count for the next.
    step: usize,
    losses: u32,
    /// The highest rate since bbr began, and when it last was not far below it.
    most: u64,
    sound: Instant,
}

impl CongestionSupervisor {
    fn new(path: &socket::Path) -> CongestionSupervisor {
        let (looked, retransmitted) = (Instant::now(), path.retransmitted);
        CongestionSupervisor {
            looked,
            retransmitted,
            queued: None,
            step: 0,
            losses: 0,
            most: 0,
            sound: looked,
        }
    }

    /// The congestion control to begin with now, if it is time for one.
    fn look(&mut self, path: &socket::Path) -> Option<&'static str> {
        self.looked = Instant::now();
        let lost = path.retransmitted.saturating_sub(self.retransmitted);
        self.retransmitted = path.retransmitted;
        let queued = path.round_trip > path.shortest * 3 / 2 + Duration::from_millis(1);
        self.queued = if queued {
            Some(self.looked)
        } else {
            self.queued
        };
        if let Some((next, losses, with_queue)) = STEPS.get(self.step) {
            let counts = if *with_queue {
                queued
            } else {
                self.queued.is_none_or(|at| at.elapsed() > QUEUE_GONE)
            };
            self.losses += if counts { lost } else { 0 };
            if self.losses >= *losses {
                (self.step, self.losses, self.most) = (self.step + 1, 0, 0);
                return Some(next);
            }
        }
        // When TCP handler pauses, as its own bbr does every ten seconds, and something is lost
        // meanwhile, bbr takes the little that was sent for all that the path carries, and needs
        // seconds to find out. It begins anew.
        self.most = self.most.max(path.rate);
        if self.step == 1 || path.unsent == 0 || path.rate >= self.most / COLLAPSE {
            self.sound = self.looked;
        }
        if self.sound.elapsed() < COLLAPSED {
            return None;
        }
        (self.most, self.sound) = (0, self.looked);
        Some("bbr")
    }
}

/// Sets the congestion control. What this system does not have or allow leaves its default in
/// place, with a warning if somebody wished for it.
fn control(socket: &TcpStream, name: &str, is_wish: bool) {
    let tuning = Tuning {
        congestion_control: Some(name.into()),
        ..Tuning::default()
    };
    if let Err(error) = socket::prepare(socket, &tuning)
        && is_wish
    {
        log::warning("tunnel", &error.to_string(), &[]);
    }
}

/// Buffers of one size that connections share.
pub struct BufferPool {
    size: usize,
    most: usize,
    spare: Mutex<Vec<Vec<u8>>>,
}

static READS: BufferPool = BufferPool::new(READ, 8);

impl BufferPool {
    /// A pool of buffers of `size` bytes that keeps at most `most` spare ones. Empty at first.
    pub const fn new(size: usize, most: usize) -> BufferPool {
        BufferPool {
            size,
            most,
            spare: Mutex::new(Vec::new()),
        }
    }

    /// A buffer with any content.
    pub fn take(&self) -> Vec<u8> {
        let spare = locked(&self.spare).pop();
        spare.unwrap_or_else(|| vec![0; self.size])
    }

    /// Gives a buffer back.
    pub fn give(&self, buffer: Vec<u8>) {
        let mut spare = locked(&self.spare);
        if spare.len() < self.most && buffer.len() == self.size {
            spare.push(buffer);
        }
    }
}

/// What came of waiting for data.
#[derive(Debug, PartialEq, Eq)]
pub enum Filled {
    /// There is more in the buffer.
    Data,
    /// Nothing came in time.
    TimedOut,
    /// Nothing came, and what this end has sent does not arrive, but for small segments.
    Stuck,
    /// The peer has ended its direction.
    End,
}

/// Why there is no frame.
#[derive(Debug)]
pub enum NoFrame {
    /// The stream ended, perhaps in the middle of a frame.
    End,
    /// It did not come in time.
    TimedOut,
    /// Its length is out of range.
    BadLength(BadLength),
    /// What had to come before it is not right.
    BadPreface(&'static str),
    /// The socket failed.
    Failed(io::Error),
}

impl fmt::Display for NoFrame {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            NoFrame::End => write!(f, "the connection ended"),
            NoFrame::TimedOut => write!(f, "nothing came in time"),
            NoFrame::BadLength(reason) => write!(f, "{reason}"),
            NoFrame::BadPreface(reason) => write!(f, "{reason}"),
            NoFrame::Failed(error) => write!(f, "{error}"),
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
    /// When the path was last looked at for its size, and how often it still is.
    looked: Instant,
    looks_left: u8,
}

impl FrameReader {
    /// A reader with room for a hello.
    pub fn new(socket: Arc<TcpStream>) -> FrameReader {
        FrameReader {
            socket,
            buffer: vec![0; frame::HEADER + MAX_HELLO],
            start: 0,
            end: 0,
            established: false,
            supervisor: None,
            looked: Instant::now(),
            looks_left: 0,
        }
    }

    /// Suits the connection to its path. `round_trip` is the handshake's, for systems that do not
    /// tell.
    pub fn suit(&mut self, congestion: &Congestion, round_trip: Duration) {
        let path = socket::path(&self.socket);
        let round_trip = path.as_ref().map_or(round_trip, |path| path.shortest);
        let short = round_trip < LONG_PATH;
        if short {
            // What does not fit into a small window waits at the sender, where flows take turns.
            let receive_buffer_bytes = u32::try_from(WINDOW + round_trip.as_nanos() * 5 / 4).ok();
            let (retransmit, notsent_lowat_bytes) = (Some(RETRANSMIT), Some(SHORT_UNSENT));
            let tuning = Tuning {
                receive_buffer_bytes,
                notsent_lowat_bytes,
                retransmit,
                ..Tuning::default()
            };
            let _ = socket::prepare(&self.socket, &tuning); // an older kernel does without
        }
        match congestion {
            Congestion::System => {}
            Congestion::Named(name) => control(&self.socket, name, true),
            Congestion::Auto => {
                control(&self.socket, if short { "cubic" } else { "bbr" }, false);
                self.supervisor = path
                    .ok()
                    .filter(|_| !short)
                    .as_ref()
                    .map(CongestionSupervisor::new);
            }
        }
    }

    /// The other side has authenticated: from now on it may have a large buffer.
    pub fn establish(&mut self) {
        self.established = true;
    }

    /// The body of the next frame if all of it is there.
    ///
    /// # Errors
    /// [`BadLength`] if its header announces more than `limit` bytes, or none.
    pub fn frame(&mut self, limit: usize) -> Result<Option<&mut [u8]>, BadLength> {
        let Some(length) = frame::whole(&self.buffer[self.start..self.end], limit)? else {
            return Ok(None);
        };
        let body = self.start + frame::HEADER;
        self.start += length;
        Ok(Some(&mut self.buffer[body..self.start]))
    }

    /// The body of the next frame, waited for until `deadline` in all, however slowly it dribbles
    /// in.
    ///
    /// # Errors
    /// [`NoFrame`].
    pub fn frame_until(&mut self, limit: usize, deadline: Instant) -> Result<&mut [u8], NoFrame> {
        // Looked at twice because a borrow that is returned cannot be given up in the loop.
        while frame::whole(&self.buffer[self.start..self.end], limit)
            .map_err(NoFrame::BadLength)?
            .is_none()
        {
            self.more_until(deadline)?;
        }
        self.frame(limit)
            .map_err(NoFrame::BadLength)?
            .ok_or(NoFrame::End)
    }

    /// What `parse` reads at the start, which is then done with. It returns how much that is, or
    /// none if it needs more, and must not need more than a hello has.
    ///
    /// # Errors
    /// [`NoFrame`].
    pub fn preface_until<T>(
        &mut self,
        parse: impl Fn(&[u8]) -> Result<Option<(usize, T)>, &'static str>,
        deadline: Instant,
    ) -> Result<T, NoFrame> {
        loop {
            if let Some((length, read)) =
                parse(&self.buffer[self.start..self.end]).map_err(NoFrame::BadPreface)?
            {
                self.start += length;
                return Ok(read);
            }
            self.more_until(deadline)?;
        }
    }

    fn more_until(&mut self, deadline: Instant) -> Result<(), NoFrame> {
        match self
            .fill(deadline.saturating_duration_since(Instant::now()))
            .map_err(NoFrame::Failed)?
        {
            Filled::Data => Ok(()),
            Filled::End => Err(NoFrame::End),
            Filled::TimedOut | Filled::Stuck => Err(NoFrame::TimedOut),
        }
    }

    /// Waits for more data, at most `timeout`, and reads what there is.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn fill(&mut self, timeout: Duration) -> io::Result<Filled> {
        self.make_room();
        if let Some(supervisor) = &mut self.supervisor
            && supervisor.looked.elapsed() >= LOOK
            && let Ok(path) = socket::path(&self.socket)
            && let Some(name) = supervisor.look(&path)
        {
            control(&self.socket, "cubic", false); // bbr begins anew only if it comes after another one
            control(&self.socket, name, false);
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

    /// Waits until there is something to read, or says why there is not. While something that was
    /// sent is not acknowledged, and a moment after something came, it wakes up to look after that.
    fn wait(&mut self, timeout: Duration) -> io::Result<Option<Filled>> {
        let deadline = Instant::now() + timeout;
        loop {
            if self.looks_left > 0 && self.looked.elapsed() >= SIZE_LOOK {
                self.looked = Instant::now();
                let path = socket::path(&self.socket).ok();
                if self.established && path.as_ref().is_some_and(loses_large_segments) {
                    return Ok(Some(Filled::Stuck));
                }
                self.looks_left = match path.is_some_and(|path| path.unacked > 0) {
                    true => SIZE_LOOKS,
                    false => self.looks_left - 1,
                };
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let slice = match self.looks_left {
                0 => left,
                _ => left.min(SIZE_LOOK),
            };
            if socket::wait_readable(&self.socket, slice)? {
                self.looks_left = SIZE_LOOKS;
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
            (self.start, self.end) = (0, 0);
            if self.established {
                READS.give(std::mem::take(&mut self.buffer));
            }
        } else if self.established && self.buffer.len() < READ {
            let mut larger = READS.take();
            larger[..waiting.len()].copy_from_slice(&self.buffer[waiting.clone()]);
            (self.buffer, self.start, self.end) = (larger, 0, waiting.len());
        } else if self.buffer.len() - self.start < frame::HEADER + MAX_BODY {
            self.buffer.copy_within(waiting.clone(), 0);
            (self.start, self.end) = (0, waiting.len());
        }
    }
}

impl Drop for FrameReader {
    fn drop(&mut self) {
        READS.give(std::mem::take(&mut self.buffer));
    }
}
