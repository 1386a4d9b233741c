//! How does a server serve its clients? One thread accepts connections, one per connection reads
//! it, and one reads the device.
//!
//! ```text
//!  accept ─> thread: ClientHello? ─ no ─> silence until the deadline
//!                    └ ServerHello ─> Finished? ─> the client's connection, Config ─> records
//! ```
//!
//! | file | question |
//! |---|---|
//! | `state` | what do all threads share? |
//! | `thread_pool` | which thread has a connection? |
//! | `handshake` | who is let in? |
//! | `session` | what becomes of a client's packets? |
//! | `active_config` | what does the configuration say now? |

mod active_config;
mod handshake;
mod session;
mod state;
mod thread_pool;

use crate::config::settings::ServerSettings;
use crate::os::log::{self, RateLimitedLog};
use crate::os::notify::{Heartbeat, MAX_IDLE_WAIT};
use crate::os::signal::{self, Signal};
use crate::os::socket;
use crate::os::tun::Tun;
use crate::os::wake::Wake;
use crate::tunnel::device;
use crate::tunnel::observe::key_log::KeyLog;
use crate::tunnel::observe::status::{Link, Peer, Report};
use crate::tunnel::peers::admission::{AcceptLimiter, Admission, PLACES};
use crate::tunnel::peers::registry::Client;
use crate::tunnel::session::receiver::close;
use active_config::ActiveConfig;
pub use handshake::HANDSHAKE_TIME;
use state::{STOPS, Shared};
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};
use thread_pool::{Accepted, ThreadPool};

/// How long a thread that cannot accept waits before it tries again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

static ACCEPT: RateLimitedLog = RateLimitedLog::new(3, Duration::from_secs(10));

/// A running server.
pub struct Server(Arc<Shared>);

impl Server {
    /// Starts to serve on `listeners`, with packets to and from `device` if there is one.
    ///
    /// # Errors
    /// Fails if the configuration contradicts itself, or there is no thread or descriptor left.
    pub fn start(
        settings: ServerSettings,
        listeners: Vec<TcpListener>,
        device: Option<Tun>,
    ) -> Result<Server, String> {
        let key_log =
            KeyLog::open(settings.keylog.as_deref()).map_err(|error| error.to_string())?;
        let active = ActiveConfig::new(settings, None)?;
        active.clients.publish_ids();
        let wake = Wake::new().map_err(|error| format!("cannot start: {error}"))?;
        let shared = Arc::new(Shared::new(
            active,
            listeners,
            device,
            wake,
            Admission::new(PLACES),
            key_log,
        ));
        let server = Server(shared);
        server
            .start_threads()
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(server)
    }

    fn start_threads(&self) -> io::Result<()> {
        let pool = ThreadPool::new();
        for at in 0..self.0.listeners.len() {
            let shared = Arc::clone(&self.0);
            let pool = Arc::clone(&pool);
            thread::Builder::new()
                .name("accept".into())
                .spawn(move || run_acceptor(&shared, &pool, &shared.listeners[at]))?;
        }
        let shared = Arc::clone(&self.0);
        thread::Builder::new()
            .name("device".into())
            .spawn(move || run_device_reader(&shared))?;
        Ok(())
    }

    /// The clients of the current configuration.
    pub fn clients(&self) -> Vec<Arc<Client>> {
        self.0.active().clients.all().to_vec()
    }

    /// The current configuration.
    pub fn settings(&self) -> ServerSettings {
        self.0.active().settings.clone()
    }

    /// A report as `text`, `json` or `prometheus`. `None` if it is another format.
    pub fn status(&self, format: &str) -> Option<String> {
        let shared = &self.0;
        let active = shared.active();
        let peer = |client: &Arc<Client>| Peer {
            name: client.name.clone(),
            addresses: client.addresses.clone(),
            traffic: Arc::clone(&client.traffic),
            step: client.step(),
            link: client.connection().map(|connected| Link::of(&connected)),
        };
        let overlaps = active.settings.overlaps();
        let report = Report {
            trouble: None,
            warnings: overlaps.iter().map(ToString::to_string).collect(),
            name: &active.settings.name,
            role: "server",
            started: shared.started,
            device: shared.device.as_ref().map(Tun::name),
            listen: shared
                .listeners
                .iter()
                .filter_map(|listener| listener.local_addr().ok())
                .collect(),
            addresses: &active.settings.addresses,
            handshakes: &shared.handshakes,
            unrouted: shared.unrouted.load(Ordering::Relaxed),
            peers: active.clients.all().iter().map(peer).collect(),
        };
        report.render(format)
    }

    /// Changes to a new configuration. Its listeners, device and addresses must be those that the
    /// server was started with. `meanwhile` runs when the configuration is known to be right, and
    /// before it applies. Returns sentences about the change. A client notices it only if its own
    /// settings change.
    ///
    /// # Errors
    /// Fails if the new configuration cannot hold. Nothing has changed then.
    pub fn reload(
        &self,
        settings: ServerSettings,
        meanwhile: impl FnOnce(&ServerSettings) -> Result<(), String>,
    ) -> Result<String, String> {
        let _alone = self.0.reload.lock();
        let old = self.0.active();
        let new = Arc::new(ActiveConfig::new(settings, Some(&old.clients))?);
        meanwhile(&new.settings)?;
        new.clients.publish_ids();
        self.0.active.replace(Arc::clone(&new));
        // A connection that finishes its handshake under the old configuration checks the new one
        // afterwards.
        let mut removed = 0;
        let mut changed = 0;
        for client in old.clients.all() {
            let is_removed = |now: &Arc<Client>| now.name != client.name;
            if new.clients.all().iter().all(is_removed) {
                log::info("tunnel", "client removed", &[("client", &client.name)]);
            }
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
            "{clients} clients; disconnected because their key is gone: {removed}; \
             told to connect again: {changed}"
        ))
    }

    /// Why it cannot go on, if its device is gone.
    pub fn failure(&self) -> Option<String> {
        self.0.failure.lock().clone()
    }

    /// Stops. It accepts no connection, sends Close to every client, and waits at most a second for
    /// them to leave.
    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::Release);
        for listener in &self.0.listeners {
            let _ = socket::stop_listening(listener);
        }
        self.0.admission.end_all();
        let clients = self.clients();
        let senders: Vec<_> = clients
            .iter()
            .filter_map(|client| client.sender())
            .collect();
        for sender in &senders {
            sender.close(close::STOPPING, STOPS);
        }
        self.0.wake.ring();
        self.0.wait_until_empty(&senders);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The body of a thread that accepts connections.
fn run_acceptor(shared: &Arc<Shared>, pool: &Arc<ThreadPool>, listener: &TcpListener) {
    let heartbeat = Heartbeat::new("accept");
    let mut limiter = AcceptLimiter::default();
    loop {
        heartbeat.beat();
        shared.tell_connected();
        if shared.stopping.load(Ordering::Acquire) {
            return;
        }
        match accept(shared, pool, listener) {
            Ok(true) => thread::sleep(limiter.after(Instant::now())),
            Ok(false) => {}
            Err(_) if shared.stopping.load(Ordering::Acquire) => return,
            Err((what, error)) => {
                ACCEPT.warning("tunnel", what, &[("reason", &error)]);
                // As long as no descriptor is free, accept fails at once.
                shared.admission.make_room();
                thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

/// Accepts one connection and gives it to a thread. False if none came.
fn accept(
    shared: &Arc<Shared>,
    pool: &Arc<ThreadPool>,
    listener: &TcpListener,
) -> Result<bool, (&'static str, io::Error)> {
    let accepted = socket::accept(listener, MAX_IDLE_WAIT)
        .map_err(|error| ("cannot accept a connection (see ulimit -n)", error))?;
    let Some((socket, from)) = accepted else {
        return Ok(false);
    };
    let accepted = Accepted {
        shared: Arc::clone(shared),
        socket,
        from,
    };
    let served = pool.serve(accepted).map(|()| true);
    served.map_err(|error| {
        let what = "no thread for a connection (see TasksMax, ulimit -u, vm.max_map_count)";
        (what, error)
    })
}

/// The body of the thread that reads the device, if there is one.
fn run_device_reader(shared: &Shared) {
    let Some(device) = &shared.device else { return };
    if let Err(reason) = device::run_device_reader(device, &shared.wake, shared) {
        *shared.failure.lock() = Some(reason);
        // The code that started the server waits for a signal, and then stops it in order.
        let _ = signal::send(std::process::id(), Signal::Terminate);
    }
}
