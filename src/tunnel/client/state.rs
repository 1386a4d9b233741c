//! Which state do all threads of a client share?

use crate::config::settings::{ClientSettings, Device};
use crate::config::state_file::{StateFile, Store, StoredRatchet};
use crate::os::clock::Moment;
use crate::os::entropy;
use crate::os::lock::{Lock, Rank};
use crate::os::network::MARK;
use crate::os::notify::Heartbeat;
use crate::os::tun::Tun;
use crate::os::wake::Wake;
use crate::packet::ip;
use crate::packet::subnet::Subnet;
use crate::tunnel::observe::counters::{HandshakeCounters, TrafficCounters, count};
use crate::tunnel::observe::key_log::KeyLog;
use crate::tunnel::observe::status::{Link, Peer, Report};
use crate::tunnel::peers::ratchet_store::ClientKey;
use crate::tunnel::peers::registry::Connected;
use crate::tunnel::session::dispatch::Router;
use crate::tunnel::session::receiver::close;
use crate::tunnel::session::sender::SessionSender;
use crate::tunnel::wire::network_config::NetworkConfig;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar};
use std::time::{Duration, Instant};

/// The text of its Close.
pub(super) const LEAVES: &str = "the client leaves";

/// A client. The thread that runs it shares it with those that stop it.
pub struct Client {
    pub(super) settings: ClientSettings,
    /// The mark of sockets that go around the tunnel, if this machine's packets go through it.
    pub(super) mark: Option<u32>,
    pub(super) server: Lock<ServerAddresses>,
    pub(super) key: Lock<ClientKey>,
    pub(super) key_log: Option<KeyLog>,
    connection: Lock<ConnectionState>,
    stopped: Lock<bool>,
    stopping: Condvar,
    pub(super) wake: Wake,
    pub(super) replies: Lock<Option<SyncSender<Reply>>>,
    pub(super) expects_reply: AtomicBool,
    pub(super) identifier: u16,
    /// Why it ends, unless somebody stopped it.
    failure: Lock<Option<String>>,
    /// Why there is no session now, if there is none.
    trouble: Lock<Option<String>>,
    started: Moment,
    pub(super) traffic: Arc<TrafficCounters>,
    pub(super) handshakes: HandshakeCounters,
    /// Packets from the device that were dropped because there was no connection.
    unrouted: AtomicU64,
    /// Wakes the thread that runs it.
    pub(super) heartbeat: Heartbeat,
    pub(super) network: Lock<Option<ServerNetwork>>,
}

/// The server's addresses.
pub(super) struct ServerAddresses {
    pub(super) known: Vec<SocketAddr>,
    /// When they were looked up last.
    pub(super) since: Instant,
}

/// The state of the connection to the server.
#[derive(Clone)]
pub(super) enum ConnectionState {
    None,
    /// An attempt to connect, which `stop` cuts.
    Attempt(Arc<TcpStream>),
    /// A session, which `stop` ends with a Close.
    Session(Arc<Connected>),
}

/// The network as the server described it last.
#[derive(Clone)]
pub(super) struct ServerNetwork {
    /// The device on which it is set up, if there is one.
    pub(super) device: Option<String>,
    pub(super) config: NetworkConfig,
}

/// The replies that the command line's tasks wait for.
pub(super) enum Reply {
    Message(String),
    Echo { sequence: u16 },
}

impl Client {
    /// A client that has not connected yet.
    ///
    /// # Errors
    /// If there are no descriptors left, or the state of a ratcheted key cannot be opened.
    pub fn new(settings: ClientSettings) -> io::Result<Arc<Client>> {
        let key = match &settings.ratchet {
            None => static_key(&settings),
            Some(path) => {
                let (file, stored) = StateFile::open(path)
                    .map_err(|reason| io::Error::other(String::from(reason)))?;
                ClientKey::new(stored, Some(Box::new(file) as Box<dyn Store>))
            }
        };
        Client::with_key(settings, key)
    }

    /// A client that changes no state: it does not finish a handshake.
    pub(super) fn that_only_asks(settings: ClientSettings) -> Result<Arc<Client>, String> {
        let key = match &settings.ratchet {
            None => static_key(&settings),
            Some(path) => ClientKey::new(StoredRatchet::read(path)?, Some(Box::new(ReadOnly))),
        };
        Client::with_key(settings, key).map_err(|error| error.to_string())
    }

    fn with_key(settings: ClientSettings, key: ClientKey) -> io::Result<Arc<Client>> {
        let nowhere = ServerAddresses {
            known: Vec::new(),
            since: Instant::now(),
        };
        // Without a device nothing of this machine goes through the tunnel, and nothing has a mark.
        let goes_through_tunnel =
            matches!(settings.device, Device::Tun(_)) && Tun::check_system().is_ok();
        Ok(Arc::new(Client {
            mark: goes_through_tunnel.then_some(MARK),
            server: Lock::new(Rank::ServerAddresses, nowhere),
            key: Lock::new(Rank::ClientKey, key),
            key_log: KeyLog::open(settings.keylog.as_deref())?,
            settings,
            connection: Lock::new(Rank::ConnectionState, ConnectionState::None),
            stopped: Lock::new(Rank::Stopped, false),
            stopping: Condvar::new(),
            wake: Wake::new()?,
            replies: Lock::new(Rank::Replies, None),
            expects_reply: AtomicBool::new(false),
            identifier: u16::from_be_bytes(entropy::array()),
            failure: Lock::new(Rank::Failure, None),
            trouble: Lock::new(Rank::Trouble, None),
            started: Moment::now(),
            traffic: Arc::default(),
            handshakes: HandshakeCounters::default(),
            unrouted: AtomicU64::new(0),
            network: Lock::new(Rank::ServerNetwork, None),
            heartbeat: Heartbeat::new("client"),
        }))
    }

    /// Ends the session with a Close, and `Client::run` with it.
    pub fn stop(&self) {
        *self.stopped.lock() = true;
        self.stopping.notify_all();
        self.wake.ring();
        match self.connection() {
            ConnectionState::None => {}
            ConnectionState::Attempt(socket) => drop(socket.shutdown(Shutdown::Both)),
            ConnectionState::Session(connected) => connected.sender.close(close::LEAVING, LEAVES),
        }
    }

    /// A report as `text`, `json` or `prometheus`. `None` if it is another format.
    pub fn status(&self, format: &str) -> Option<String> {
        let (device, config) = match self.network.lock().clone() {
            Some(network) => (network.device, Some(network.config)),
            None => (None, None),
        };
        let server = config.as_ref().map_or(&[][..], |config| &config.server);
        let peer = Peer {
            name: self.settings.server.clone(),
            addresses: server.iter().map(|own| Subnet::alone(*own)).collect(),
            traffic: Arc::clone(&self.traffic),
            // There is no step while the key waits for the disk.
            step: self.key.try_lock().and_then(|key| key.step()),
            link: match self.connection() {
                ConnectionState::Session(connected) => Some(Link::of(&connected)),
                _ => None,
            },
        };
        let overlaps = config.as_ref().map_or(Vec::new(), |config| {
            self.settings.overlaps(&config.addresses, &config.routes)
        });
        let trouble = self.trouble.lock().clone();
        let report = Report {
            trouble: trouble.filter(|_| peer.link.is_none()),
            warnings: overlaps.iter().map(ToString::to_string).collect(),
            name: &self.settings.name,
            role: "client",
            started: self.started,
            device: device.as_deref(),
            listen: Vec::new(),
            addresses: config.as_ref().map_or(&[], |config| &config.addresses),
            handshakes: &self.handshakes,
            unrouted: self.unrouted.load(Ordering::Relaxed),
            peers: vec![peer],
        };
        report.render(format)
    }

    /// Remembers for `status` why there is no session.
    pub(super) fn lacks_session(&self, reason: String) {
        *self.trouble.lock() = Some(reason);
    }

    /// Stops because of an error that another connection would not repair.
    pub(super) fn fail(&self, reason: String) {
        *self.failure.lock() = Some(reason); // before `run` can end
        self.stop();
    }

    /// The result, once the client has stopped.
    pub(super) fn outcome(&self) -> Result<(), String> {
        match self.failure.lock().take() {
            None => Ok(()),
            Some(reason) => Err(reason),
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.stopped.lock()
    }

    /// Waits. Returns whether the client was stopped.
    pub(super) fn sleep(&self, time: Duration) -> bool {
        let stopped = self.stopped.lock();
        *stopped.wait_while(&self.stopping, time, |stopped| !*stopped)
    }

    pub(super) fn connection(&self) -> ConnectionState {
        self.connection.lock().clone()
    }

    pub(super) fn set_connection(&self, state: ConnectionState) {
        let before = std::mem::replace(&mut *self.connection.lock(), state);
        drop(before); // without the lock
    }
}

impl Router for Client {
    /// All packets go to the server while there is a session. Packets of the kernel's own link
    /// (MLD, neighbour discovery) do not: the server would drop them and count them as errors.
    fn sender_for(&self, destination: IpAddr) -> Option<Arc<SessionSender>> {
        if !ip::one_host(destination) {
            return None;
        }
        if let ConnectionState::Session(connected) = &*self.connection.lock() {
            return Some(Arc::clone(&connected.sender));
        }
        count(&self.unrouted);
        None
    }
}

fn static_key(settings: &ClientSettings) -> ClientKey {
    let stored = StoredRatchet {
        key: settings.key.clone(),
        step: 0,
        secret: None,
    };
    ClientKey::new(stored, None)
}

/// The state of a ratcheted key that may only be read.
struct ReadOnly;

impl Store for ReadOnly {
    fn save(&mut self, _: &StoredRatchet) -> Result<(), String> {
        Err("this state is not to be changed".into())
    }
}
