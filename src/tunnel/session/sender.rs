//! How do records leave, and who waits? The sending half of a session.
//!
//! Whoever has something for a peer puts it into the peer's queue, and then sends from it, as long
//! as the socket takes data. When it does not, a flusher thread is called: it waits for the
//! socket and goes on, while everybody else only queues. So a stalled peer costs nobody a wait, and
//! an idle one costs no thread. The flusher also goes on for a reader whose answer has left, and
//! who would otherwise send what others queue meanwhile instead of reading.
//!
//! ```text
//!  put ─> FairQueue (locked for a moment)
//!  send_next ─ the wire is there and the socket not full ─> takes the wire: next of the queue ─> seal ─> socket
//!            └ somebody else has the wire: he looks into the queue again before he puts it down
//!                                     socket full: flusher ─> waits ─> send_next …
//! ```

use crate::os::log::RateLimitedLog;
use crate::os::socket;
use crate::protocol::frame;
use crate::protocol::limits::{MAX_BODY, REKEY_AFTER_SECONDS};
use crate::protocol::record::{RecordType, SealError, Sealer, Suite};
use crate::tunnel::session::fair_queue::{FairQueue, LONG_ROOM, Queued, SHORT_ROOM};
use crate::tunnel::session::frame_reader::{BufferPool, LONG_PATH};
use crate::tunnel::session::path_size::PathSize;
use crate::tunnel::{fresh, locked};
use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

static NO_FLUSHER: RateLimitedLog = RateLimitedLog::new(3, Duration::from_secs(10));

/// How long the flusher stays after its work is done, before it is let go.
const FLUSHER_IDLE_TIME: Duration = Duration::from_secs(2);
/// A flusher's stack: it only seals and sends.
pub(in crate::tunnel) const SMALL_STACK: usize = 128 * 1024;

/// Room for any frame, of any suite.
pub const FRAME_ROOM: usize = frame::HEADER + MAX_BODY;

/// Frame buffers, shared.
pub static FRAMES: BufferPool = BufferPool::new(FRAME_ROOM, 64);

/// What a connection has carried. Packets are IP packets, a super-packet counts once; bytes are
/// those of packets.
#[derive(Debug, Default)]
pub struct TrafficCounters {
    /// Packets sent to the peer.
    pub packets_out: AtomicU64,
    /// Their bytes.
    pub bytes_out: AtomicU64,
    /// Packets received from the peer and passed on.
    pub packets_in: AtomicU64,
    /// Their bytes.
    pub bytes_in: AtomicU64,
    /// Records not sent because the queue was full or too old.
    pub dropped_queue: AtomicU64,
    /// Packets of the peer not passed on: malformed, or with an offload header that does not fit.
    pub dropped_malformed: AtomicU64,
    /// Packets of the peer not passed on: their source is not the peer's.
    pub dropped_source: AtomicU64,
    /// Packets of the peer not passed on: nobody, or nobody allowed, has their destination.
    pub dropped_destination: AtomicU64,
    /// Which packets the path to the peer takes.
    pub path_size: PathSize,
}

/// Adds one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What has come of sending a record.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    /// Nothing is left for the caller to send.
    All,
    /// More waits, and the caller has to send it.
    More,
    /// The socket is full. The caller has to wait for it and [`SessionSender::resume`], or to call a
    /// flusher who does.
    Full,
}

/// The sending half of a session. Shared by everybody who has something for this peer.
pub struct SessionSender {
    /// The connection.
    pub socket: Arc<TcpStream>,
    /// The suite of the session.
    pub suite: Suite,
    /// Whether the peer takes SuperPacket records.
    pub super_packets: bool,
    /// What this peer has received and sent.
    pub traffic: Arc<TrafficCounters>,
    sending: Mutex<Sending>,
    work: Condvar,
}

/// The state behind the lock, which nobody holds while sealing or sending.
struct Sending {
    queue: FairQueue,
    /// Not here while somebody seals and sends with it.
    wire: Option<Box<Wire>>,
    /// The socket takes nothing now. To go on is the flusher's.
    full: bool,
    flusher: bool,
    /// Nothing new is taken; after what is there the direction ends.
    closed: bool,
    /// Why, if not on purpose.
    failure: Option<io::Error>,
}

/// What seals and sends: a nonce counter has one owner at a time.
struct Wire {
    sealer: Sealer,
    /// Most bytes of a segment, if the path demands it.
    segment: Option<usize>,
    stepped: Instant,
    /// Sealed frames that the socket has not taken whole. Nothing else may be sent before the rest
    /// of them.
    frames: VecDeque<Sealed>,
}

/// The rest of a frame: `bytes[taken..end]`.
struct Sealed {
    bytes: Vec<u8>,
    taken: usize,
    end: usize,
}

impl SessionSender {
    /// Takes over the socket's sending half. `first` is a frame sealed by `sealer` already (Config)
    /// and goes first.
    pub fn new(
        socket: Arc<TcpStream>,
        sealer: Sealer,
        super_packets: bool,
        traffic: Arc<TrafficCounters>,
        first: Vec<u8>,
    ) -> Arc<SessionSender> {
        let (suite, end) = (sealer.suite(), first.len());
        let short = socket::path(&socket).is_ok_and(|path| path.shortest < LONG_PATH);
        let frames = VecDeque::from([Sealed {
            taken: 0,
            end,
            bytes: first,
        }]);
        let sending = Sending {
            queue: FairQueue::new(if short { SHORT_ROOM } else { LONG_ROOM }),
            wire: Some(Box::new(Wire {
                sealer,
                segment: traffic.path_size.segment(),
                stepped: Instant::now(),
                frames,
            })),
            full: false,
            flusher: false,
            closed: false,
            failure: None,
        };
        let (sending, work) = (Mutex::new(sending), Condvar::new());
        let sender = Arc::new(SessionSender {
            socket,
            suite,
            super_packets,
            traffic,
            sending,
            work,
        });
        sender.send_all();
        sender
    }

    /// Sends what is no packets, now or as soon as the socket takes it. Only that: whoever calls
    /// this has to go on reading, and does not send for others whose packets come meanwhile.
    pub fn send(self: &Arc<SessionSender>, kind: RecordType, content: &[u8]) {
        self.put(|queue| queue.push(kind, content));
        if self.send_next() != Sent::All {
            self.call_flusher();
        }
    }

    /// Puts packets into the queue, from which [`SessionSender::send_next`] sends them. `put` says how
    /// many records that has displaced.
    pub fn put(&self, put: impl FnOnce(&mut FairQueue) -> u64) {
        let mut sending = locked(&self.sending);
        if !sending.closed {
            let dropped = put(&mut sending.queue);
            self.traffic
                .dropped_queue
                .fetch_add(dropped, Ordering::Relaxed);
        }
    }

    /// Sends one record, and never waits for the socket.
    pub fn send_next(&self) -> Sent {
        let mut sending = locked(&self.sending);
        if sending.full {
            return Sent::All;
        }
        let Some(mut wire) = sending.wire.take() else {
            return Sent::All;
        };
        let (next, dropped) = if wire.frames.is_empty() {
            sending.queue.pop()
        } else {
            (None, 0)
        };
        drop(sending);
        self.traffic
            .dropped_queue
            .fetch_add(dropped, Ordering::Relaxed);
        let sent = wire.send(&self.socket, next);
        let mut sending = locked(&self.sending);
        sending.wire = Some(wire);
        match sent {
            Ok(true) => {}
            Ok(false) => {
                sending.full = true;
                return Sent::Full;
            }
            Err(error) => self.fail(&mut sending, Some(error)),
        }
        if !sending.queue.is_empty() {
            return Sent::More;
        }
        if sending.closed {
            let _ = self.socket.shutdown(Shutdown::Write);
        }
        Sent::All
    }

    /// Sends all that the socket takes, and leaves the rest to a flusher.
    pub fn send_all(self: &Arc<SessionSender>) {
        loop {
            match self.send_next() {
                Sent::All => return,
                Sent::More => {}
                Sent::Full => return self.call_flusher(),
            }
        }
    }

    /// The socket takes data again. Whoever has waited for it has to send.
    pub fn resume(&self) {
        locked(&self.sending).full = false;
    }

    /// Ends this direction with Close, which goes before anything that has queued up, as soon as
    /// the socket takes it.
    pub fn close(self: &Arc<SessionSender>, code: u8, text: &str) {
        let mut sending = locked(&self.sending);
        if sending.closed {
            return;
        }
        sending.closed = true;
        sending.queue.clear();
        sending
            .queue
            .push(RecordType::Close, &[&[code], text.as_bytes()].concat());
        drop(sending);
        self.send_all();
    }

    /// Ends the connection at once, both ways. Its reader wakes up.
    pub fn abort(&self) {
        self.fail(&mut locked(&self.sending), None);
    }

    /// How this direction has ended, if it has: on purpose, or by an error.
    pub fn ended(&self) -> Option<io::Result<()>> {
        let mut sending = locked(&self.sending);
        sending
            .closed
            .then(|| sending.failure.take().map_or(Ok(()), Err))
    }

    fn fail(&self, sending: &mut Sending, reason: Option<io::Error>) {
        if !sending.closed {
            (sending.closed, sending.failure) = (true, reason);
        }
        sending.full = false;
        sending.queue.clear();
        self.work.notify_all();
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Leaves the rest to a flusher that waits for the socket, which is full.
    pub fn call_flusher(self: &Arc<SessionSender>) {
        let mut sending = locked(&self.sending);
        self.work.notify_all();
        if !sending.flusher {
            let sender = Arc::clone(self);
            let flusher = thread::Builder::new()
                .name("flusher".into())
                .stack_size(SMALL_STACK);
            match flusher.spawn(move || sender.flush_until_idle()) {
                Ok(_) => sending.flusher = true,
                Err(error) if sending.closed => self.fail(&mut sending, Some(error)),
                Err(error) => {
                    NO_FLUSHER.warning(
                        "tunnel",
                        "no thread for a full socket",
                        &[("reason", &error)],
                    );
                    sending.full = false; // whoever comes with the next record tries again, the keepalive if nobody else
                }
            }
        }
    }

    /// The flusher's life: wait for the socket, send what is left, stay a little while in case
    /// there is more.
    fn flush_until_idle(self: Arc<SessionSender>) {
        let mut sending = locked(&self.sending);
        loop {
            let mut ready = sending.wire.is_some() && !sending.queue.is_empty();
            if sending.full {
                drop(sending);
                let waited = socket::wait_writable(&self.socket, Duration::from_secs(1));
                sending = locked(&self.sending);
                match waited {
                    Ok(writable) => sending.full &= !writable,
                    Err(error) => self.fail(&mut sending, Some(error)),
                }
                ready = !sending.full;
            } else if !ready && sending.closed {
                break;
            } else if !ready {
                let waited = self
                    .work
                    .wait_timeout(sending, FLUSHER_IDLE_TIME)
                    .unwrap_or_else(PoisonError::into_inner);
                sending = waited.0;
                if waited.1.timed_out() && !sending.full && sending.queue.is_empty() {
                    break;
                }
            }
            if ready {
                drop(sending);
                self.send_all();
                sending = locked(&self.sending);
            }
        }
        sending.flusher = false;
    }
}

impl Wire {
    /// Seals the next record, if there is one, and sends it, after what is still there. False if
    /// the socket is full.
    fn send(&mut self, socket: &TcpStream, next: Option<Queued>) -> io::Result<bool> {
        if let Some(Queued {
            kind,
            frame: mut bytes,
            content,
            ..
        }) = next
        {
            if self.sealer.rekey_is_due() || self.stepped.elapsed().as_secs() >= REKEY_AFTER_SECONDS
            {
                self.stepped = Instant::now();
                let rekey = self.sealer.rekey(&mut fresh).map_err(used_up)?;
                self.frames.push_back(Sealed {
                    taken: 0,
                    end: rekey.len(),
                    bytes: rekey,
                });
            }
            let end = self
                .sealer
                .seal(kind, &mut bytes, content, &mut fresh)
                .map_err(used_up)?;
            self.frames.push_back(Sealed {
                bytes,
                taken: 0,
                end,
            });
        }
        while let Some(frame) = self.frames.front_mut() {
            let rest = &frame.bytes[frame.taken..frame.end];
            frame.taken += match self.segment {
                None => socket::send_now(socket, rest)?,
                Some(most) => socket::send_segments_now(socket, rest, most)?,
            };
            if frame.taken < frame.end {
                return Ok(false);
            }
            FRAMES.give(
                self.frames
                    .pop_front()
                    .map_or(Vec::new(), |sent| sent.bytes),
            );
        }
        Ok(true)
    }
}

/// Why a connection ends whose key can seal no more.
fn used_up(reason: SealError) -> io::Error {
    io::Error::other(reason)
}
