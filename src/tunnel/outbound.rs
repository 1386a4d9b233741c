//! How do records leave, and who waits? The sending half of a session.
//!
//! Whoever has a packet for a peer seals it and hands it to the socket, under one lock, as long as the socket takes
//! data. When it does not, a companion thread is called: it waits for the socket and sends what has queued up, while
//! everybody else only queues or drops. So a stalled peer costs nobody a wait, and an idle one costs no thread.
//!
//! ```text
//!  send ─┬─ nothing queued: seal in place ─> socket ──(takes a part)──> rest of the frame ─┐
//!        └─ something queued: copy into the queue, or drop if it is full ──> queue ─────────┴─> companion ─> socket
//! ```
//!
//! The queue is bounded in bytes and in time, as a router's is: TCP inside the tunnel needs to see its loss soon.

use super::carrier::Pool;
use super::{fresh, locked};
use crate::os::{log, socket};
use crate::protocol::limits::{MAX_CONTENT, REKEY_AFTER_SECONDS};
use crate::protocol::record::{CannotSeal, HEADROOM, Kind, Sealer, Suite};
use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Records that may wait for a peer: at 64 KiB each, what a fast path takes in a few milliseconds and a slow one in
/// [`QUEUE_TIME`].
const QUEUE_RECORDS: usize = 64;
/// Records beyond that for all that is not packets, and is small: an answer, a Ping, a Close.
const QUEUE_SPARE: usize = 256;
/// Content up to which small packets that wait join one record.
const JOINED: usize = 32 * 1024;
/// How long a packet may wait before it is dropped.
const QUEUE_TIME: Duration = Duration::from_millis(60);
/// How long the companion stays after its work is done, before it is let go.
const COMPANION_STAYS: Duration = Duration::from_secs(2);
/// A companion's stack: it only seals and sends.
pub(super) const SMALL_STACK: usize = 128 * 1024;

/// Room for any frame, of either suite.
pub const FRAME_ROOM: usize = Suite::Fernet.frame_len(MAX_CONTENT);

/// Frame buffers, shared.
pub static FRAMES: Pool = Pool::new(FRAME_ROOM, QUEUE_RECORDS);

/// What a connection has carried. Packets are IP packets, a super-packet counts once; bytes are those of packets.
#[derive(Debug, Default)]
pub struct Traffic {
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
}

/// Adds one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The sending half of a session. Shared by everybody who has something for this peer.
pub struct Outbound {
    socket: Arc<TcpStream>,
    /// Whether the peer takes SuperPacket records.
    pub super_packets: bool,
    /// What this peer has received and sent.
    pub traffic: Arc<Traffic>,
    sending: Mutex<Sending>,
    work: Condvar,
}

/// The state behind the lock: a nonce counter has one owner at a time.
struct Sending {
    sealer: Sealer,
    stepped: Instant,
    /// A sealed frame that the socket has not taken whole. Nothing else may be sent before its rest.
    partial: Option<Sealed>,
    queue: VecDeque<Queued>,
    companion: Companion,
    /// Nothing new is taken; after what is there the direction ends.
    closed: bool,
    /// Why, if not on purpose.
    failure: Option<io::Error>,
}

/// The rest of a frame: `bytes[taken..end]`.
struct Sealed {
    bytes: Vec<u8>,
    taken: usize,
    end: usize,
}

/// A record not sealed yet: its content, in a buffer in which it can be sealed.
struct Queued {
    kind: Kind,
    frame: Vec<u8>,
    content: usize,
    since: Instant,
}

#[derive(PartialEq, Eq)]
enum Companion {
    None,
    Idle,
    Working,
}

impl Outbound {
    /// Takes over the socket's sending half. `first` is a frame sealed by `sealer` already (Config) and goes first.
    pub fn new(
        socket: Arc<TcpStream>,
        sealer: Sealer,
        super_packets: bool,
        traffic: Arc<Traffic>,
        first: Vec<u8>,
    ) -> Arc<Outbound> {
        let sending = Sending {
            sealer,
            stepped: Instant::now(),
            partial: Some(Sealed { taken: 0, end: first.len(), bytes: first }),
            queue: VecDeque::new(),
            companion: Companion::None,
            closed: false,
            failure: None,
        };
        let outbound =
            Arc::new(Outbound { socket, super_packets, traffic, sending: Mutex::new(sending), work: Condvar::new() });
        outbound.advance(&mut locked(&outbound.sending));
        outbound
    }

    /// Seals and sends, queues or drops a record, and never waits for the socket. `frame` holds [`HEADROOM`] bytes
    /// of anything, then `content` bytes, then room for the suite ([`FRAME_ROOM`] in all is always enough). If the
    /// record has to wait, its buffer is kept and another one put in its place.
    pub fn send(self: &Arc<Outbound>, kind: Kind, frame: &mut Vec<u8>, content: usize) {
        let mut sending = locked(&self.sending);
        if sending.closed {
            return;
        }
        if !sending.is_blocked() && sending.rekey_is_due() {
            match sending.rekey() {
                Ok(mut rekey) => {
                    let end = rekey.len();
                    self.put_on_wire(&mut sending, &mut rekey, end);
                }
                Err(reason) => return self.fail(&mut sending, Some(used_up(reason))),
            }
        }
        if sending.is_blocked() {
            if !sending.queue_up(kind, frame, content, &self.traffic) {
                count(&self.traffic.dropped_queue);
            }
            return;
        }
        match sending.sealer.seal(kind, frame, content, &mut fresh) {
            Ok(end) => self.put_on_wire(&mut sending, frame, end),
            Err(reason) => self.fail(&mut sending, Some(used_up(reason))),
        }
    }

    /// [`Outbound::send`] for a small content that is not in a frame yet.
    pub fn send_content(self: &Arc<Outbound>, kind: Kind, content: &[u8]) {
        let (mut frame, length) = in_a_frame(content);
        self.send(kind, &mut frame, length);
    }

    /// Ends this direction with Close, which goes before anything that has queued up, as soon as the socket takes it.
    pub fn close(self: &Arc<Outbound>, code: u8, text: &str) {
        let mut sending = locked(&self.sending);
        if sending.closed {
            return;
        }
        sending.closed = true;
        sending.queue.clear();
        let (mut frame, content) = in_a_frame(&[&[code], text.as_bytes()].concat());
        sending.queue_up(Kind::Close, &mut frame, content, &self.traffic);
        self.advance(&mut sending);
        self.work.notify_all();
    }

    /// Ends the connection at once, both ways. Its reader wakes up.
    pub fn abort(&self) {
        self.fail(&mut locked(&self.sending), None);
    }

    /// How this direction has ended, if it has: on purpose, or by an error.
    pub fn ended(&self) -> Option<io::Result<()>> {
        let mut sending = locked(&self.sending);
        sending.closed.then(|| sending.failure.take().map_or(Ok(()), Err))
    }

    /// The suite of the session.
    pub fn suite(&self) -> Suite {
        locked(&self.sending).sealer.suite()
    }

    fn fail(&self, sending: &mut Sending, reason: Option<io::Error>) {
        if !sending.closed {
            (sending.closed, sending.failure) = (true, reason);
        }
        sending.partial = None;
        sending.queue.clear();
        self.work.notify_all();
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Hands a sealed frame of `end` bytes to the socket. If the socket does not take it whole, the buffer is kept,
    /// another one put in its place, and the companion called for the rest.
    fn put_on_wire(self: &Arc<Outbound>, sending: &mut MutexGuard<Sending>, frame: &mut Vec<u8>, end: usize) {
        match socket::send_now(&self.socket, &frame[..end]) {
            Ok(taken) if taken == end => {}
            Ok(taken) => {
                let bytes = keep(frame);
                sending.partial = Some(Sealed { bytes, taken, end });
                self.call_companion(sending);
            }
            Err(error) => self.fail(sending, Some(error)),
        }
    }

    /// Sends the rest of a frame and then what has queued, until all is sent (true) or the socket is full (false).
    fn advance(self: &Arc<Outbound>, sending: &mut MutexGuard<Sending>) -> bool {
        let sent_all = loop {
            let Some(mut sealed) = sending.partial.take().or_else(|| self.seal_next(sending)) else {
                break true;
            };
            match socket::send_now(&self.socket, &sealed.bytes[sealed.taken..sealed.end]) {
                Ok(taken) if sealed.taken + taken == sealed.end => FRAMES.give(sealed.bytes),
                Ok(taken) => {
                    sealed.taken += taken;
                    sending.partial = Some(sealed);
                    self.call_companion(sending);
                    break false;
                }
                Err(error) => {
                    self.fail(sending, Some(error));
                    break true;
                }
            }
        };
        if sending.closed && sent_all {
            let _ = self.socket.shutdown(Shutdown::Write);
        }
        sent_all
    }

    /// Seals what is due next, a Rekey or something queued.
    fn seal_next(&self, sending: &mut Sending) -> Option<Sealed> {
        sending.forget_the_old(&self.traffic);
        if sending.queue.is_empty() {
            return None;
        }
        let sealed = if sending.rekey_is_due() {
            sending.rekey().map(|bytes| Sealed { taken: 0, end: bytes.len(), bytes })
        } else {
            let Queued { kind, frame: mut bytes, content, .. } = sending.queue.pop_front()?;
            let sealed = sending.sealer.seal(kind, &mut bytes, content, &mut fresh);
            sealed.map(|end| Sealed { bytes, taken: 0, end })
        };
        sealed.map_err(|reason| self.fail(sending, Some(used_up(reason)))).ok()
    }

    /// Makes sure that a companion waits for the socket.
    fn call_companion(self: &Arc<Outbound>, sending: &mut MutexGuard<Sending>) {
        match sending.companion {
            Companion::Working => return,
            Companion::Idle => self.work.notify_all(),
            Companion::None => {
                let outbound = Arc::clone(self);
                let companion = thread::Builder::new().name("companion".into()).stack_size(SMALL_STACK);
                if let Err(error) = companion.spawn(move || outbound.accompany()) {
                    log::warning("tunnel", "no thread for a full socket", &[("reason", &error)]);
                    return self.fail(sending, Some(error));
                }
            }
        }
        sending.companion = Companion::Working;
    }

    /// The companion's life: wait for the socket, send, stay a little while in case the socket fills up again.
    fn accompany(self: Arc<Outbound>) {
        let mut sending = locked(&self.sending);
        loop {
            if sending.closed && !sending.is_blocked() {
                break;
            }
            if sending.companion == Companion::Working {
                drop(sending);
                let waited = socket::wait_writable(&self.socket, Duration::from_secs(1));
                sending = locked(&self.sending);
                if let Err(error) = waited {
                    self.fail(&mut sending, Some(error));
                } else if self.advance(&mut sending) {
                    sending.companion = Companion::Idle;
                }
                continue;
            }
            let (guard, stay) =
                self.work.wait_timeout(sending, COMPANION_STAYS).unwrap_or_else(PoisonError::into_inner);
            sending = guard;
            if stay.timed_out() && sending.companion == Companion::Idle {
                break;
            }
        }
        sending.companion = Companion::None;
        sending.queue = VecDeque::new(); // an idle connection holds no memory
    }
}

/// Why a connection ends whose key can seal no more.
fn used_up(CannotSeal: CannotSeal) -> io::Error {
    io::Error::other("the key was used up without a Rekey")
}

impl Sending {
    /// Whether something waits that must go before anything new.
    fn is_blocked(&self) -> bool {
        self.partial.is_some() || !self.queue.is_empty()
    }

    fn rekey_is_due(&self) -> bool {
        self.sealer.rekey_is_due() || self.stepped.elapsed().as_secs() >= REKEY_AFTER_SECONDS
    }

    fn rekey(&mut self) -> Result<Vec<u8>, CannotSeal> {
        self.stepped = Instant::now();
        self.sealer.rekey(&mut fresh)
    }

    /// Queues a record. False if there is no room. Small packets join those before them; what is not packets goes
    /// before packets.
    fn queue_up(&mut self, kind: Kind, frame: &mut Vec<u8>, content: usize, traffic: &Traffic) -> bool {
        self.forget_the_old(traffic);
        if let (Kind::Packets, Some(last)) = (kind, self.queue.back_mut())
            && last.kind == Kind::Packets
            && last.frame.len() == FRAME_ROOM
            && last.content + content <= JOINED
        {
            let end = HEADROOM + last.content;
            last.frame[end..end + content].copy_from_slice(&frame[HEADROOM..HEADROOM + content]);
            last.content += content;
            return true;
        }
        let (room, at) = if is_packet(kind) {
            (QUEUE_RECORDS, self.queue.len())
        } else {
            let others = self.queue.iter().take_while(|queued| !is_packet(queued.kind)).count();
            (QUEUE_RECORDS + QUEUE_SPARE, others)
        };
        if self.queue.len() >= room {
            return false;
        }
        self.queue.insert(at, Queued { kind, frame: keep(frame), content, since: Instant::now() });
        true
    }

    /// Drops packets that have waited for too long.
    fn forget_the_old(&mut self, traffic: &Traffic) {
        while let Some(Queued { kind, since, .. }) = self.queue.front() {
            if !is_packet(*kind) || since.elapsed() <= QUEUE_TIME {
                return;
            }
            if let Some(old) = self.queue.pop_front() {
                FRAMES.give(old.frame);
            }
            count(&traffic.dropped_queue);
        }
    }
}

/// Keeps a buffer, and puts another one in its place if it is of those that are used again.
fn keep(frame: &mut Vec<u8>) -> Vec<u8> {
    let other = if frame.len() == FRAME_ROOM { FRAMES.take() } else { Vec::new() };
    std::mem::replace(frame, other)
}

/// A frame buffer just large enough, with `content` in its place.
fn in_a_frame(content: &[u8]) -> (Vec<u8>, usize) {
    let mut frame = vec![0; Suite::Fernet.frame_len(content.len())];
    frame[HEADROOM..HEADROOM + content.len()].copy_from_slice(content);
    (frame, content.len())
}

fn is_packet(kind: Kind) -> bool {
    matches!(kind, Kind::Packets | Kind::SuperPacket)
}
