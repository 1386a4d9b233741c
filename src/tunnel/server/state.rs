//! Which state do all threads of a server share?

use super::active_config::ActiveConfig;
use crate::os::clock::Moment;
use crate::os::lock::{Lock, Rank, SharedLock};
use crate::os::log::RateLimitedLog;
use crate::os::notify;
use crate::os::tun::Tun;
use crate::os::wake::Wake;
use crate::packet::ip;
use crate::tunnel::observe::counters::{HandshakeCounters, count};
use crate::tunnel::observe::key_log::KeyLog;
use crate::tunnel::peers::admission::Admission;
use crate::tunnel::peers::registry::Client;
use crate::tunnel::session::dispatch::Router;
use crate::tunnel::session::receiver::{CLOSE_PAUSE, CLOSE_TIME, taken_by_peer};
use crate::tunnel::session::sender::SessionSender;
use std::net::{IpAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar};
use std::time::{Duration, Instant};

/// The text of a Close when the server stops.
pub(super) const STOPS: &str = "the server stops";

/// One limit for all handshakes that fail, so that a flood of strangers fills no disk. It can hide
/// the line that tells why a real client was refused. The next line says how many were left out.
pub(super) static REFUSED_HANDSHAKES: RateLimitedLog =
    RateLimitedLog::new(10, Duration::from_secs(10));

/// The state that all threads share.
pub(super) struct Shared {
    pub(super) active: SharedLock<Arc<ActiveConfig>>,
    pub(super) listeners: Vec<TcpListener>,
    pub(super) device: Option<Tun>,
    pub(super) wake: Wake,
    pub(super) admission: Admission,
    pub(super) key_log: Option<KeyLog>,
    connected: Lock<usize>,
    fewer_connected: Condvar,
    /// How many connected clients systemd was told of last.
    told: AtomicUsize,
    /// In which second after the start.
    told_at: AtomicU64,
    pub(super) stopping: AtomicBool,
    pub(super) failure: Lock<Option<String>>,
    pub(super) reload: Lock<()>,
    pub(super) started: Moment,
    pub(super) handshakes: HandshakeCounters,
    /// Packets from the device that no connected peer should get.
    pub(super) unrouted: AtomicU64,
}

impl Shared {
    pub(super) fn new(
        active: ActiveConfig,
        listeners: Vec<TcpListener>,
        device: Option<Tun>,
        wake: Wake,
        admission: Admission,
        key_log: Option<KeyLog>,
    ) -> Shared {
        Shared {
            active: SharedLock::new(Rank::ActiveConfig, Arc::new(active)),
            listeners,
            device,
            wake,
            admission,
            key_log,
            connected: Lock::new(Rank::ConnectedCount, 0),
            fewer_connected: Condvar::new(),
            told: AtomicUsize::new(0),
            told_at: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            failure: Lock::new(Rank::Failure, None),
            reload: Lock::new(Rank::Reload, ()),
            started: Moment::now(),
            handshakes: HandshakeCounters::default(),
            unrouted: AtomicU64::new(0),
        }
    }

    /// The current configuration.
    pub(super) fn active(&self) -> Arc<ActiveConfig> {
        Arc::clone(&self.active.read())
    }

    /// Whether one more client is too many. A client that is connected already only replaces its
    /// connection.
    pub(super) fn is_full_for(&self, active: &ActiveConfig, client: &Client) -> bool {
        client.connection().is_none() && *self.connected.lock() >= active.settings.max_clients
    }

    /// Takes a place for a connection, unless the server is full for this client. Two handshakes
    /// that finish at once cannot both get the last place.
    pub(super) fn take_place(&self, active: &ActiveConfig, client: &Client) -> bool {
        let is_known = client.connection().is_some();
        let mut connected = self.connected.lock();
        if !is_known && *connected >= active.settings.max_clients {
            return false;
        }
        *connected += 1;
        true
    }

    /// Gives a place back.
    pub(super) fn leave_place(&self) {
        *self.connected.lock() -= 1;
        self.fewer_connected.notify_all();
    }

    /// Tells systemd how many clients are connected, if that has changed and at most once a second.
    /// A client that connects again and again must not cause a datagram each time. An acceptor
    /// calls this at each turn, and so reports the last change later.
    pub(super) fn tell_connected(&self) {
        let connected = *self.connected.lock();
        let second = self.started.elapsed().as_secs() + 1;
        let is_told = self.told.load(Ordering::Relaxed) == connected;
        if is_told || self.told_at.swap(second, Ordering::Relaxed) == second {
            return;
        }
        self.told.store(connected, Ordering::Relaxed);
        notify::status(format_args!("{connected} clients connected"));
    }

    /// Waits until no client is connected, as long as one of these still takes data. The last data
    /// for each is its Close.
    pub(super) fn wait_until_empty(&self, senders: &[Arc<SessionSender>]) {
        let taken = || -> u64 {
            let each = senders.iter().map(|sender| taken_by_peer(&sender.socket));
            each.fold(0, u64::wrapping_add)
        };
        let latest = Instant::now() + CLOSE_TIME;
        let mut before = taken();
        loop {
            let connected = self.connected.lock();
            let connected = connected.wait_while(&self.fewer_connected, CLOSE_PAUSE, |connected| {
                *connected > 0
            });
            if *connected == 0 || Instant::now() >= latest {
                return;
            }
            drop(connected);
            let now = taken();
            if now == before {
                return;
            }
            before = now;
        }
    }
}

impl Router for Shared {
    fn sender_for(&self, destination: IpAddr) -> Option<Arc<SessionSender>> {
        // Packets of the kernel's own link are for no peer.
        if !ip::one_host(destination) {
            return None;
        }
        // The lock is held and the value not cloned. A reload can wait for one packet.
        let active = self.active.read();
        let sender = match active.clients.owner(destination) {
            Some(client) => client.sender(),
            None => None,
        };
        if sender.is_none() {
            count(&self.unrouted);
        }
        sender
    }
}
