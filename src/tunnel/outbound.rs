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

/// Bytes that may wait for a peer, [`QUEUED`] counted with each record.
const QUEUE_BYTES: usize = 512 * 1024;
/// What a queued record costs without its content, so that empty ones cannot fill the memory.
const QUEUED: usize = size_of::<Queued>();
/// How long a packet may wait before it is dropped.
const QUEUE_TIME: Duration = Duration::from_millis(250);
/// How long the companion stays after its work is done, before it is let go.
const COMPANION_STAYS: Duration = Duration::from_secs(2);
/// A companion's stack: it only seals and sends.
pub(super) const SMALL_STACK: usize = 128 * 1024;

/// Room for any frame, of either suite.
pub const FRAME_ROOM: usize = Suite::Fernet.frame_len(MAX_CONTENT);

/// Frame buffers, shared.
pub static FRAMES: Pool = Pool::new(FRAME_ROOM);

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
    /// A sealed frame of which the socket has taken only `taken` bytes. Nothing else may be sent before its rest.
    partial: Vec<u8>,
    taken: usize,
    queue: VecDeque<Queued>,
    queued_bytes: usize,
    companion: Companion,
    /// Nothing new is taken; after what is there the direction ends.
    closed: bool,
    /// Why, if not on purpose.
    failure: Option<io::Error>,
}

struct Queued {
    kind: Kind,
    content: Vec<u8>,
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
            partial: first,
            taken: 0,
            queue: VecDeque::new(),
            queued_bytes: 0,
            companion: Companion::None,
            closed: false,
            failure: None,
        };
        let outbound = Arc::new(Outbound {
            socket,
            super_packets,
            traffic,
            sending: Mutex::new(sending),
            work: Condvar::new(),
        });
        outbound.advance(&mut locked(&outbound.sending));
        outbound
    }

    /// Seals and sends, queues or drops a record, and never waits for the socket. `frame` holds [`HEADROOM`] bytes
    /// of anything, then `content` bytes, then room for the suite ([`FRAME_ROOM`] in all is always enough).
    pub fn send(self: &Arc<Outbound>, kind: Kind, frame: &mut [u8], content: usize) {
        let mut sending = locked(&self.sending);
        if sending.closed {
            return;
        }
        if !sending.is_blocked() && sending.rekey_is_due() {
            match sending.rekey() {
                Ok(rekey) => self.put_on_wire(&mut sending, &rekey),
                Err(reason) => return self.fail(&mut sending, Some(used_up(reason))),
            }
        }
        if sending.is_blocked() {
            if !sending.queue_up(kind, &frame[HEADROOM..HEADROOM + content]) {
                count(&self.traffic.dropped_queue);
            }
            return;
        }
        match sending.sealer.seal(kind, frame, content, &mut fresh) {
            Ok(sealed) => self.put_on_wire(&mut sending, &frame[..sealed]),
            Err(reason) => self.fail(&mut sending, Some(used_up(reason))),
        }
    }

    /// [`Outbound::send`] for a small content that is not in a frame yet.
    pub fn send_content(self: &Arc<Outbound>, kind: Kind, content: &[u8]) {
        let mut frame = vec![0; Suite::Fernet.frame_len(content.len())];
        frame[HEADROOM..HEADROOM + content.len()].copy_from_slice(content);
        self.send(kind, &mut frame, content.len());
    }

    /// Ends this direction with Close, which goes before anything that has queued up, as soon as the socket takes it.
    pub fn close(self: &Arc<Outbound>, code: u8, text: &str) {
        let mut sending = locked(&self.sending);
        if sending.closed {
            return;
        }
        sending.closed = true;
        sending.forget_queue();
        sending.queue_up(Kind::Close, &[&[code], text.as_bytes()].concat());
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
        sending.partial.clear();
        sending.forget_queue();
        self.work.notify_all();
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Hands a sealed frame to the socket, keeps what it did not take, and calls the companion for the rest.
    fn put_on_wire(self: &Arc<Outbound>, sending: &mut MutexGuard<Sending>, sealed: &[u8]) {
        match socket::send_now(&self.socket, sealed) {
            Ok(taken) if taken == sealed.len() => {}
            Ok(taken) => {
                sending.partial.extend_from_slice(&sealed[taken..]);
                self.call_companion(sending);
            }
            Err(error) => self.fail(sending, Some(error)),
        }
    }

    /// Sends the rest of a frame and then what has queued, until all is sent (true) or the socket is full (false).
    fn advance(self: &Arc<Outbound>, sending: &mut MutexGuard<Sending>) -> bool {
        let mut frame = Vec::new();
        let sent_all = loop {
            if sending.partial.is_empty() && !self.seal_next(sending, &mut frame) {
                break true;
            }
            match socket::send_now(&self.socket, &sending.partial[sending.taken..]) {
                Ok(taken) => {
                    sending.taken += taken;
                    if sending.taken < sending.partial.len() {
                        self.call_companion(sending);
                        break false;
                    }
                    sending.taken = 0;
                    sending.partial.clear();
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
        if !frame.is_empty() {
            FRAMES.give(frame);
        }
        sent_all
    }

    /// Seals what is due next, a Rekey or something queued, into `partial`. False if there is nothing.
    fn seal_next(&self, sending: &mut Sending, frame: &mut Vec<u8>) -> bool {
        if sending.queue.is_empty() {
            return false;
        }
        let sealed = if sending.rekey_is_due() {
            sending.rekey().map(|rekey| sending.partial = rekey)
        } else {
            if frame.is_empty() {
                *frame = FRAMES.take();
            }
            let Some((kind, content)) = sending.take_queued(frame, &self.traffic) else { return false };
            let sealed = sending.sealer.seal(kind, frame, content, &mut fresh);
            sealed.map(|length| sending.partial.extend_from_slice(&frame[..length]))
        };
        sealed.map_err(|reason| self.fail(sending, Some(used_up(reason)))).is_ok()
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
        (sending.partial, sending.queue) = (Vec::new(), VecDeque::new()); // an idle connection holds no memory
    }
}

/// Why a connection ends whose key can seal no more.
fn used_up(CannotSeal: CannotSeal) -> io::Error {
    io::Error::other("the key was used up without a Rekey")
}

impl Sending {
    /// Whether something waits that must go before anything new.
    fn is_blocked(&self) -> bool {
        !self.partial.is_empty() || !self.queue.is_empty()
    }

    fn rekey_is_due(&self) -> bool {
        self.sealer.rekey_is_due() || self.stepped.elapsed().as_secs() >= REKEY_AFTER_SECONDS
    }

    fn rekey(&mut self) -> Result<Vec<u8>, CannotSeal> {
        self.stepped = Instant::now();
        self.sealer.rekey(&mut fresh)
    }

    fn forget_queue(&mut self) {
        self.queue.clear();
        self.queued_bytes = 0;
    }

    /// Queues a copy of a record's content. False if there is no room: packets leave some for all else.
    fn queue_up(&mut self, kind: Kind, content: &[u8]) -> bool {
        let room = if is_packet(kind) { QUEUE_BYTES } else { QUEUE_BYTES + MAX_CONTENT };
        let size = QUEUED + content.len();
        if self.queued_bytes + size > room {
            return false;
        }
        self.queued_bytes += size;
        self.queue.push_back(Queued { kind, content: content.to_vec(), since: Instant::now() });
        true
    }

    /// Moves the content of the next record from the queue into `frame`, several Packets as one. Packets that have
    /// waited for too long are dropped.
    fn take_queued(&mut self, frame: &mut [u8], traffic: &Traffic) -> Option<(Kind, usize)> {
        let mut taken: Option<(Kind, usize)> = None;
        while let Some(next) = self.queue.front() {
            let joins = taken.is_none_or(|(kind, _)| (next.kind, kind) == (Kind::Packets, Kind::Packets));
            let (kind, content) = taken.unwrap_or((next.kind, 0));
            if !joins || content + next.content.len() > MAX_CONTENT {
                break;
            }
            let Some(next) = self.queue.pop_front() else { break };
            self.queued_bytes -= QUEUED + next.content.len();
            if is_packet(next.kind) && next.since.elapsed() > QUEUE_TIME {
                count(&traffic.dropped_queue);
                continue;
            }
            frame[HEADROOM + content..HEADROOM + content + next.content.len()].copy_from_slice(&next.content);
            taken = Some((kind, content + next.content.len()));
        }
        taken
    }
}

fn is_packet(kind: Kind) -> bool {
    matches!(kind, Kind::Packets | Kind::SuperPacket)
}
