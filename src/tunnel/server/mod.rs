//! The end that listens: one thread accepts, one per connection reads, one reads the device.
//!
//! ```text
//!  accept ─> thread: ClientHello? ─ no ─> silence until the deadline
//!                    └ ServerHello ─> Finished? ─> the client's connection from now on, Config ─> records
//! ```
//!
//! | file | question |
//! |---|---|
//! | `current` | what does the configuration say now? |
//! | `handshake` | who is let in? |
//! | `session` | what becomes of a client's packets? |
//! | `threads` | which thread has a connection? |

mod current;
mod handshake;
mod session;
mod threads;

use crate::config::settings::ServerSettings;
use crate::os::log::RateLimitedLog;
use crate::os::notify::{Heartbeat, MAX_IDLE_WAIT};
use crate::os::signal::{self, Signal};
use crate::os::socket;
use crate::os::tun::Tun;
use crate::os::wake::Wake;
use crate::tunnel::observe::key_log::KeyLog;
use crate::tunnel::observe::status::{HandshakeCounters, Link, Moment, Peer, Report};
use crate::tunnel::peers::admission::{AcceptLimiter, Admission, PLACES};
use crate::tunnel::peers::registry::Client;
use crate::tunnel::session::receiver::close;
use crate::tunnel::session::sender::{SessionSender, count};
use crate::tunnel::{device, locked};
use current::Current;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};
use threads::Threads;

/// From accept to Finished, in all.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// The words of a Close when the server stops.
const STOPS: &str = "the server stops";

/// One for all handshakes that fail: a flood of strangers fills no disk, but it can hide the line
/// that tells why a real client was refused (the next line that gets through tells how many were
/// kept back).
static REFUSED_HANDSHAKES: RateLimitedLog = RateLimitedLog::new(10, Duration::from_secs(10));
static ACCEPT: RateLimitedLog = RateLimitedLog::new(3, Duration::from_secs(10));

/// A running server.
pub struct Server(Arc<Shared>);

struct Shared {
    current: RwLock<Arc<Current>>,
    listeners: Vec<TcpListener>,
    device: Option<Tun>,
    wake: Wake,
    admission: Admission,
    threads: Arc<Threads>,
    key_log: Option<KeyLog>,
    connected: Mutex<usize>,
    fewer_connected: Condvar,
    stopping: AtomicBool,
    failure: Mutex<Option<String>>,
    reloading: Mutex<()>,
    started: Moment,
    handshakes: HandshakeCounters,
    /// Packets from the device that had no way to go.
    unrouted: AtomicU64,
}

impl Server {
    /// Starts to serve on `listeners`, with packets to and from `device` if there is one.
    ///
    /// # Errors
    /// A sentence: a configuration that contradicts itself, or a thread or descriptor that cannot
    /// be had.
    pub fn start(
        settings: ServerSettings,
        listeners: Vec<TcpListener>,
        device: Option<Tun>,
    ) -> Result<Server, String> {
        let key_log =
            KeyLog::open(settings.keylog.as_deref()).map_err(|error| error.to_string())?;
        let current = Current::new(settings, None)?;
        current.clients.publish_ids();
        let shared = Arc::new(Shared {
            current: RwLock::new(Arc::new(current)),
            listeners,
            device,
            wake: Wake::new().map_err(|error| format!("cannot start: {error}"))?,
            admission: Admission::new(PLACES),
            threads: Arc::default(),
            key_log,
            connected: Mutex::new(0),
            fewer_connected: Condvar::new(),
            stopping: AtomicBool::new(false),
            failure: Mutex::default(),
            reloading: Mutex::default(),
            started: Moment::now(),
            handshakes: HandshakeCounters::default(),
            unrouted: AtomicU64::new(0),
        });
        let server = Server(shared);
        server
            .start_threads()
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(server)
    }

    fn start_threads(&self) -> io::Result<()> {
        for at in 0..self.0.listeners.len() {
            let shared = Arc::clone(&self.0);
            thread::Builder::new()
                .name("accept".into())
                .spawn(move || accept(&shared, &shared.listeners[at]))?;
        }
        let shared = Arc::clone(&self.0);
        thread::Builder::new()
            .name("device".into())
            .spawn(move || {
                let Some(device) = &shared.device else { return };
                if let Err(reason) = device::pump(device, &shared.wake, |destination| {
                    shared.sender_for(destination)
                }) {
                    *locked(&shared.failure) = Some(reason);
                    // Who started the server waits for a signal, and stops it in order.
                    let _ = signal::send(std::process::id(), Signal::Terminate);
                }
            })?;
        Ok(())
    }

    /// The clients, as they are now.
    pub fn clients(&self) -> Vec<Arc<Client>> {
        self.0.current().clients.all().to_vec()
    }

    /// The configuration that holds.
    pub fn settings(&self) -> ServerSettings {
        self.0.current().settings.clone()
    }

    /// What it is doing, as `text`, `json` or `prometheus`; nothing if it is another format.
    pub fn status(&self, format: &str) -> Option<String> {
        let (shared, current) = (&self.0, self.0.current());
        let peer = |client: &Arc<Client>| Peer {
            name: client.name.clone(),
            addresses: client.addresses.clone(),
            traffic: Arc::clone(&client.traffic),
            step: client.step(),
            link: client.connection().map(|connected| Link::of(&connected)),
        };
        let overlaps = current.settings.overlaps();
        let report = Report {
            warnings: overlaps.iter().map(ToString::to_string).collect(),
            name: &current.settings.name,
            role: "server",
            started: shared.started,
            device: shared.device.as_ref().map(Tun::name),
            listen: shared
                .listeners
                .iter()
                .filter_map(|listener| listener.local_addr().ok())
                .collect(),
            addresses: &current.settings.addresses,
            handshakes: &shared.handshakes,
            unrouted: shared.unrouted.load(Ordering::Relaxed),
            peers: current.clients.all().iter().map(peer).collect(),
        };
        report.render(format)
    }

    /// Takes up a new configuration, of which what is in use by whoever started the server must be
    /// the same (listeners, device, addresses). `meanwhile` is done when all is known to be right,
    /// and before it holds. Returns what was done, in words. Clients to whom it says nothing new
    /// notice nothing.
    ///
    /// # Errors
    /// A sentence. Then nothing has changed.
    pub fn reload(
        &self,
        settings: ServerSettings,
        meanwhile: impl FnOnce(&ServerSettings) -> Result<(), String>,
    ) -> Result<String, String> {
        let _alone = locked(&self.0.reloading);
        let old = self.0.current();
        let new = Arc::new(Current::new(settings, Some(&old.clients))?);
        meanwhile(&new.settings)?;
        new.clients.publish_ids();
        *self
            .0
            .current
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::clone(&new);
        // Whoever finishes a handshake by the old one from now on looks again afterwards.
        let (mut removed, mut changed) = (0, 0);
        for client in old.clients.all() {
            let Some(connection) = client.connection() else {
                continue;
            };
            match new.revalidate(&old, client, &connection) {
                Ok(()) => {}
                Err(close::REMOVED) => removed += 1,
                Err(_) => changed += 1,
            }
        }
        let clients = new.clients.all().len();
        Ok(format!(
            "{clients} clients; cut off, since their key is gone: {removed}; told to connect again: {changed}"
        ))
    }

    /// Why it cannot go on, if so: its device is gone.
    pub fn failure(&self) -> Option<String> {
        locked(&self.0.failure).clone()
    }

    /// Stops: no new connections, Close to every client, and at most a second for them to go.
    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::Release);
        for listener in &self.0.listeners {
            let _ = socket::stop_listening(listener);
        }
        self.0.admission.end_all();
        for client in self.clients() {
            if let Some(way) = client.sender() {
                way.close(close::STOPPING, STOPS);
            }
        }
        self.0.wake.ring();
        let connected = locked(&self.0.connected);
        let waited = self.0.fewer_connected.wait_timeout_while(
            connected,
            Duration::from_secs(1),
            |connected| *connected > 0,
        );
        drop(waited);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The way to the client that has this address, if it is connected.
    fn sender_for(&self, destination: IpAddr) -> Option<Arc<SessionSender>> {
        // Not cloned: this is for one packet, and a reload can wait so long.
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let way = current
            .clients
            .owner(destination)
            .and_then(|client| client.sender());
        if way.is_none() {
            count(&self.unrouted);
        }
        way
    }
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    let heartbeat = Heartbeat::new("accept");
    let mut limiter = AcceptLimiter::default();
    loop {
        heartbeat.beat();
        if let Ok(false) = socket::wait_to_accept(listener, MAX_IDLE_WAIT) {
            continue;
        }
        let accepted = listener
            .accept()
            .map_err(|error| ("cannot accept a connection (see ulimit -n)", error));
        let served = accepted.and_then(|(socket, from)| {
            let served = shared.threads.serve((Arc::clone(shared), socket, from));
            served.map_err(|error| {
                (
                    "no thread for a connection (see TasksMax, ulimit -u, vm.max_map_count)",
                    error,
                )
            })
        });
        match served {
            Ok(()) => thread::sleep(limiter.after(Instant::now())),
            Err(_) if shared.stopping.load(Ordering::Acquire) => return,
            Err((what, error)) => {
                ACCEPT.warning("tunnel", what, &[("reason", &error)]);
                // Until a descriptor is free, accept fails at once.
                shared.admission.make_room();
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}
