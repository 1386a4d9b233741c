//! How do records leave, and which thread waits? This is the sending half of a session.
//!
//! A thread that has data for a peer puts it into the peer's queue. Then it sends from the queue as
//! long as the socket takes data. When the socket is full, a flusher thread waits for it and goes
//! on, while all others only queue. So no thread waits for a stalled peer, and an idle peer costs
//! no thread. A reader sends its own answer and leaves the rest to the flusher, because it has to
//! read.
//!
//! ```text
//!  queue_packet ─> FairQueue                               the state is locked for a moment
//!  send_next ─ the writer is there, the socket not full ─> takes the writer, and the next record
//!            │      FrameWriter: seal ─> socket            nothing is locked
//!            │      puts the writer back
//!            ├─ somebody else has the writer               they look into the queue again
//!            └─ the socket is full                         flusher: waits ─> send_next …
//! ```

use crate::os::lock::{Lock, Locked, Rank};
use crate::os::log::RateLimitedLog;
use crate::os::{process, socket};
use crate::protocol::limits::REKEY_AFTER_SECONDS;
use crate::protocol::record::{RecordType, SealError, Sealer, Suite};
use crate::tunnel::fresh;
use crate::tunnel::observe::counters::TrafficCounters;
use crate::tunnel::session::buffers::FRAMES;
use crate::tunnel::session::congestion;
use crate::tunnel::session::fair_queue::{FairQueue, LONG_ROOM, QueuedRecord, SHORT_ROOM};
use crate::tunnel::session::path_size::Limit;
use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar};
use std::thread;
use std::time::{Duration, Instant};

static NO_FLUSHER: RateLimitedLog = RateLimitedLog::new(3, Duration::from_secs(10));

/// How long a flusher stays after its work is done.
const FLUSHER_IDLE_TIME: Duration = Duration::from_secs(2);
/// How long a flusher waits for a full socket before it checks whether the session has ended.
const FLUSHER_POLL: Duration = Duration::from_secs(1);
/// The bytes of a flusher's stack. It only seals and sends.
const FLUSHER_STACK: usize = 128 * 1024;

/// The result of sending a record.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    /// The caller has nothing left to send.
    All,
    /// More waits, and the caller has to send it.
    More,
    /// The socket is full. The caller has to wait for it and call [`SessionSender::resume`], or to
    /// start a flusher.
    Full,
}

/// The sending half of a session. All threads that have data for this peer share it.
pub struct SessionSender {
    /// The connection.
    pub socket: Arc<TcpStream>,
    /// The suite of the session.
    pub suite: Suite,
    /// Whether the peer takes SuperPacket records.
    pub super_packets: bool,
    /// The traffic of this peer.
    pub traffic: Arc<TrafficCounters>,
    state: Lock<SendState>,
    work: Condvar,
}

/// The state behind the lock. No thread holds the lock while it seals or sends.
struct SendState {
    queue: FairQueue,
    /// It is `None` while a thread seals and sends with it.
    writer: Option<Box<FrameWriter>>,
    /// The socket is full. The flusher has to go on.
    socket_full: bool,
    has_flusher: bool,
    /// Nothing new is accepted. The direction ends after what is queued.
    closed: bool,
    /// The reason, if it was an error.
    failure: Option<io::Error>,
}

/// The sealer, and the sealed frames that the socket has not taken whole. A nonce counter has one
/// owner at a time.
struct FrameWriter {
    sealer: Sealer,
    /// The limit of segments on this path.
    limit: Option<Limit>,
    rekeyed: Instant,
    /// The rest of these frames must be sent before anything else.
    pending: VecDeque<PendingFrame>,
}

/// The rest of a frame: `bytes[taken..end]`.
struct PendingFrame {
    bytes: Vec<u8>,
    taken: usize,
    end: usize,
}

impl SessionSender {
    /// Takes over the socket's sending half. `first` is a frame that `sealer` has sealed already
    /// (Config), or empty. The first call that sends also sends that frame.
    pub fn new(
        socket: Arc<TcpStream>,
        sealer: Sealer,
        super_packets: bool,
        traffic: Arc<TrafficCounters>,
        first: Vec<u8>,
    ) -> Arc<SessionSender> {
        let suite = sealer.suite();
        let room = if congestion::is_short(&socket) {
            SHORT_ROOM
        } else {
            LONG_ROOM
        };
        let writer = FrameWriter {
            sealer,
            limit: traffic.path_size.limit(),
            rekeyed: Instant::now(),
            pending: VecDeque::from([PendingFrame::all_of(first)]),
        };
        let state = SendState {
            queue: FairQueue::new(room),
            writer: Some(Box::new(writer)),
            socket_full: false,
            has_flusher: false,
            closed: false,
            failure: None,
        };
        Arc::new(SessionSender {
            socket,
            suite,
            super_packets,
            traffic,
            state: Lock::new(Rank::SendQueue, state),
            work: Condvar::new(),
        })
    }

    /// Puts a packet into the queue, from which [`SessionSender::send_next`] sends it.
    pub fn queue_packet(&self, packet: &[u8]) {
        if let Some(mut state) = self.open() {
            let dropped = state.queue.push_packet(packet);
            self.count_dropped(dropped);
        }
    }

    /// The same for the SuperPacket record that stands in `frame`, a buffer of [`FRAMES`].
    pub fn queue_super_packet(&self, frame: &mut Vec<u8>, content: usize) {
        if let Some(mut state) = self.open() {
            let dropped = state.queue.push_super_packet(frame, content);
            self.count_dropped(dropped);
        }
    }

    /// The same for a record that is not packets.
    pub fn queue_record(&self, kind: RecordType, content: &[u8]) {
        if let Some(mut state) = self.open() {
            let dropped = state.queue.push(kind, content);
            self.count_dropped(dropped);
        }
    }

    /// Sends a record that is not packets, now or as soon as the socket takes it. It sends only
    /// that. The caller has to go on reading, and does not send packets that other threads add
    /// meanwhile.
    pub fn send(self: &Arc<SessionSender>, kind: RecordType, content: &[u8]) {
        self.queue_record(kind, content);
        if self.send_next() != Sent::All {
            self.call_flusher();
        }
    }

    /// The state, unless this direction has ended.
    fn open(&self) -> Option<Locked<'_, SendState>> {
        let state = self.state.lock();
        (!state.closed).then_some(state)
    }

    /// Counts records that the queue has dropped.
    fn count_dropped(&self, records: u64) {
        if records > 0 {
            self.traffic
                .dropped_queue
                .fetch_add(records, Ordering::Relaxed);
        }
    }

    /// Sends one record, and never waits for the socket.
    pub fn send_next(&self) -> Sent {
        let mut state = self.state.lock();
        if state.socket_full {
            return Sent::All;
        }
        let Some(mut writer) = state.writer.take() else {
            return Sent::All;
        };
        let (next, dropped) = if writer.pending.is_empty() {
            state.queue.pop()
        } else {
            (None, 0)
        };
        drop(state);
        self.count_dropped(dropped);
        let sent = writer.seal_and_send(&self.socket, next);
        let mut state = self.state.lock();
        state.writer = Some(writer);
        match sent {
            Ok(true) => {}
            Ok(false) => {
                state.socket_full = true;
                return Sent::Full;
            }
            Err(error) => self.fail(&mut state, Some(error)),
        }
        if !state.queue.is_empty() {
            return Sent::More;
        }
        if state.closed {
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

    /// Notes that the socket takes data again. The thread that has waited for it has to send.
    pub fn resume(&self) {
        self.state.lock().socket_full = false;
    }

    /// Leaves the rest to a flusher, which waits for the full socket.
    pub fn call_flusher(self: &Arc<SessionSender>) {
        let mut state = self.state.lock();
        self.work.notify_all();
        if state.has_flusher {
            return;
        }
        state.has_flusher = true;
        drop(state);
        let sender = Arc::clone(self);
        let started = thread::Builder::new()
            .name("flusher".into())
            .stack_size(FLUSHER_STACK)
            .spawn(move || sender.flush_until_idle());
        if let Err(error) = started {
            self.do_without_flusher(error);
        }
    }

    /// Handles that no thread is left for a flusher.
    fn do_without_flusher(&self, error: io::Error) {
        let mut state = self.state.lock();
        state.has_flusher = false;
        if state.closed {
            return self.fail(&mut state, Some(error));
        }
        // The next record tries again. At the latest, that is a keepalive.
        state.socket_full = false;
        drop(state);
        NO_FLUSHER.warning(
            "tunnel",
            "no thread for a full socket",
            &[("reason", &error)],
        );
    }

    /// The flusher's body: waits for the socket, sends what is left, and stays a little while in
    /// case there is more.
    fn flush_until_idle(self: Arc<SessionSender>) {
        let mut state = self.state.lock();
        loop {
            let is_ready = if state.socket_full {
                drop(state);
                let waited = socket::wait_writable(&self.socket, FLUSHER_POLL);
                state = self.state.lock();
                match waited {
                    Ok(writable) => state.socket_full &= !writable,
                    Err(error) => self.fail(&mut state, Some(error)),
                }
                !state.socket_full
            } else {
                state.writer.is_some() && !state.queue.is_empty()
            };
            if is_ready {
                drop(state);
                self.send_all();
                state = self.state.lock();
            } else if state.socket_full {
                // It waits again.
            } else if state.closed {
                break;
            } else {
                let (again, timed_out) = state.wait(&self.work, FLUSHER_IDLE_TIME);
                state = again;
                if timed_out && !state.socket_full && state.queue.is_empty() {
                    break;
                }
            }
        }
        state.has_flusher = false;
    }

    /// Ends this direction with Close as soon as the socket takes it. The Close overtakes
    /// everything in the queue.
    pub fn close(self: &Arc<SessionSender>, code: u8, text: &str) {
        let Some(mut state) = self.open() else { return };
        state.closed = true;
        state.queue.clear();
        let content = [&[code], text.as_bytes()].concat();
        state.queue.push(RecordType::Close, &content);
        drop(state);
        self.send_all();
    }

    /// Ends the connection at once, in both directions. Its reader wakes up.
    pub fn abort(&self) {
        self.fail(&mut self.state.lock(), None);
    }

    /// How this direction has ended, if it has: on purpose or by an error.
    pub fn ended(&self) -> Option<io::Result<()>> {
        let mut state = self.state.lock();
        if !state.closed {
            return None;
        }
        match state.failure.take() {
            None => Some(Ok(())),
            Some(error) => Some(Err(error)),
        }
    }

    fn fail(&self, state: &mut SendState, reason: Option<io::Error>) {
        if !state.closed {
            state.closed = true;
            state.failure = reason;
        }
        state.socket_full = false;
        state.queue.clear();
        self.work.notify_all();
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl FrameWriter {
    /// Sends the rest of earlier frames, then seals and sends the next record, if any. Returns
    /// false if the socket is full.
    fn seal_and_send(
        &mut self,
        socket: &TcpStream,
        next: Option<QueuedRecord>,
    ) -> io::Result<bool> {
        if let Some(record) = next {
            self.rekey_if_due()?;
            self.seal(record)?;
        }
        while let Some(frame) = self.pending.front_mut() {
            let rest = &frame.bytes[frame.taken..frame.end];
            frame.taken += match self.limit.filter(|limit| Instant::now() < limit.until) {
                None => socket::send_now(socket, rest)?,
                Some(limit) => socket::send_segments_now(socket, rest, limit.segment)?,
            };
            if frame.taken < frame.end {
                return Ok(false);
            }
            if let Some(sent) = self.pending.pop_front() {
                FRAMES.give(sent.bytes);
            }
        }
        Ok(true)
    }

    fn rekey_if_due(&mut self) -> io::Result<()> {
        let is_old = self.rekeyed.elapsed().as_secs() >= REKEY_AFTER_SECONDS;
        if self.sealer.rekey_is_due() || is_old {
            self.rekeyed = Instant::now();
            let rekey = self.sealer.rekey(&mut fresh).map_err(used_up)?;
            process::wipe_stack();
            self.pending.push_back(PendingFrame::all_of(rekey));
        }
        Ok(())
    }

    /// Turns a record into a frame, in the same buffer.
    fn seal(&mut self, record: QueuedRecord) -> io::Result<()> {
        let mut bytes = record.frame;
        let end = self
            .sealer
            .seal(record.kind, &mut bytes, record.content, &mut fresh)
            .map_err(used_up)?;
        self.pending.push_back(PendingFrame {
            bytes,
            taken: 0,
            end,
        });
        Ok(())
    }
}

impl PendingFrame {
    fn all_of(bytes: Vec<u8>) -> PendingFrame {
        PendingFrame {
            end: bytes.len(),
            taken: 0,
            bytes,
        }
    }
}

/// Why a connection ends when its key can seal no more.
fn used_up(reason: SealError) -> io::Error {
    io::Error::other(reason)
}
