//! The end that connects, and connects again.
//!
//! ```text
//!  ┌─> connect ─> ClientHello ─> ServerHello? ─> Finished ─> Config? ─> set up the machine ─> records ─┐
//!  └── pause, longer each time ─── anything fails, or the connection ends ─────────────────────────────┘
//! ```
//!
//! The device and its addresses stay while the connection comes and goes, so connections handler the
//! tunnel survive.
//!
//! | file | question |
//! |---|---|
//! | `lookup` | which addresses has the server? |
//! | `connect` | which of them answers first? |
//! | `handshake` | how is the server reached, and is it the right one? |
//! | `session` | what becomes of the server's packets? |
//! | `tasks` | what does the command line ask for once there is a connection? |

mod connect;
mod handshake;
mod lookup;
mod session;
mod tasks;

use crate::config::settings::{ClientSettings, Device};
use crate::config::state_file::{StateFile, Store, StoredRatchet};
use crate::os::network::MARK;
use crate::os::notify::{self, Heartbeat};
use crate::os::tun::Tun;
use crate::os::wake::Wake;
use crate::os::{clock, entropy, log, process};
use crate::packet::subnet::Subnet;
use crate::tunnel::device::{self, LocalStack};
use crate::tunnel::locked;
use crate::tunnel::observe::key_log::KeyLog;
use crate::tunnel::observe::status::{HandshakeCounters, Link, Moment, Peer, RejectReason, Report};
use crate::tunnel::peers::ratchet_store::ClientKey;
use crate::tunnel::peers::registry::Connected;
use crate::tunnel::session::dispatch::Batch;
use crate::tunnel::session::frame_reader::FrameReader;
use crate::tunnel::session::receiver::{self, End, Timeouts, close, drain};
use crate::tunnel::session::sender::{SessionSender, TrafficCounters, count};
use crate::tunnel::wire::network_config::{NetworkConfig, listed};
use handshake::{Session, peer};
use session::FromServer;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tasks::Reply;

/// How long a connection may take to be made.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long the server may take for each of its hellos.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// How long the server's addresses are tried before its name is looked up again.
const NAME_LIFE: Duration = Duration::from_secs(5);
/// How often the client looks whether its own address is still the right one.
const PATH_CHECK: Duration = Duration::from_secs(2);
/// Pauses between attempts: the first, the longest in the first minute, the longest after that.
const PAUSE: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_secs(2),
    Duration::from_secs(30),
];
/// The words of its Close.
const LEAVES: &str = "the client leaves";
/// A session that lasted as long as this was a good one.
const HELD: Duration = Duration::from_secs(10);

/// The machine the client runs on: what it does with the network that the server describes.
pub trait Machine: Send {
    /// Sets the network up, or changes it to this. Returns the device, if there is one; it stays
    /// the same.
    ///
    /// # Errors
    /// A sentence. The client gives up.
    fn set_up(&mut self, config: &NetworkConfig) -> Result<Option<Arc<Tun>>, String>;
}

/// A client. Shared by the thread that runs it and those that stop it.
pub struct Client {
    settings: ClientSettings,
    /// Of sockets that go around the tunnel, where this machine's packets go through it.
    mark: Option<u32>,
    /// The server's addresses, and when they were looked up.
    server: Mutex<(Vec<SocketAddr>, Instant)>,
    key: Mutex<ClientKey>,
    key_log: Option<KeyLog>,
    carrier: Mutex<ConnectionState>,
    stopped: Mutex<bool>,
    stopping: Condvar,
    wake: Wake,
    replies: Mutex<Option<SyncSender<Reply>>>,
    expects_reply: AtomicBool,
    identifier: u16,
    /// Why it ends, if it was not asked to.
    failure: Mutex<Option<String>>,
    started: Moment,
    traffic: Arc<TrafficCounters>,
    handshakes: HandshakeCounters,
    /// Packets from the device that had no way to go.
    unrouted: AtomicU64,
    /// Of the thread that runs it.
    heartbeat: Heartbeat,
    /// For `status`: the device's name, and what the server has told last.
    told: Mutex<Option<(Option<String>, NetworkConfig)>>,
}

/// The connection to the server, as far as it has come.
enum ConnectionState {
    None,
    /// An attempt, which can be cut short.
    Socket(Arc<TcpStream>),
    /// A session, which ends with a Close.
    Session(Arc<Connected>),
}

impl Client {
    /// A client that has not connected yet.
    ///
    /// # Errors
    /// If there are no descriptors left, or the state of a ratcheted key cannot be had.
    pub fn new(settings: ClientSettings) -> io::Result<Arc<Client>> {
        let key = match &settings.ratchet {
            None => ClientKey::new(
                StoredRatchet {
                    key: settings.key.clone(),
                    step: 0,
                    secret: None,
                },
                None,
            ),
            Some(path) => {
                let (file, kept) = StateFile::open(path).map_err(io::Error::other)?;
                ClientKey::new(kept, Some(Box::new(file) as Box<dyn Store>))
            }
        };
        Client::with_key(settings, key)
    }

    fn with_key(settings: ClientSettings, key: ClientKey) -> io::Result<Arc<Client>> {
        Ok(Arc::new(Client {
            mark: matches!(settings.device, Device::Tun(_)).then_some(MARK),
            server: Mutex::new((Vec::new(), Instant::now())),
            key: Mutex::new(key),
            key_log: KeyLog::open(settings.keylog.as_deref())?,
            settings,
            carrier: Mutex::new(ConnectionState::None),
            stopped: Mutex::new(false),
            stopping: Condvar::new(),
            wake: Wake::new()?,
            replies: Mutex::new(None),
            expects_reply: AtomicBool::new(false),
            identifier: u16::from_be_bytes(entropy::array()),
            failure: Mutex::default(),
            started: Moment::now(),
            traffic: Arc::default(),
            handshakes: HandshakeCounters::default(),
            unrouted: AtomicU64::new(0),
            told: Mutex::default(),
            heartbeat: Heartbeat::new("client"),
        }))
    }

    /// Asks the server for its hello and goes no further. It proves that the way is free, the
    /// server there and the key known; no session begins and none is replaced, and a ratcheted key
    /// stays where it is. Says what was learnt.
    ///
    /// # Errors
    /// A sentence: whether it is the way, the server or the key, as far as this side can tell.
    pub fn ask(settings: ClientSettings) -> Result<String, String> {
        let name = settings.server.clone();
        let key = match &settings.ratchet {
            None => ClientKey::new(
                StoredRatchet {
                    key: settings.key.clone(),
                    step: 0,
                    secret: None,
                },
                None,
            ),
            Some(path) => ClientKey::new(StoredRatchet::read(path)?, Some(Box::new(Untouched))),
        };
        let client = Client::with_key(settings, key).map_err(|error| error.to_string())?;
        let socket = client
            .connect()
            .map_err(|reason| format!("there is no way to the server: {reason}"))?;
        let (at, socket) = (peer(&socket), Arc::new(socket));
        let greeting = client.greet(&socket, &mut FrameReader::new(Arc::clone(&socket)));
        let greeting = greeting
            .map_err(|reason| format!("the way to the server is free, but {at}: {reason}"))?;
        let (software, suite) = (&greeting.agreed.software, greeting.agreed.suite);
        let apart = greeting.agreed.time.abs_diff(clock::unix_seconds());
        let milliseconds = greeting.round_trip.as_secs_f64() * 1e3;
        Ok(format!(
            "{name} is there ({at}, {software}) and knows this key: suite {suite}, round trip {milliseconds:.2} ms, clocks \
             {apart} s apart"
        ))
    }

    /// Connects and stays connected until [`Client::stop`], or until what `once` asks for is done.
    ///
    /// # Errors
    /// A sentence: what made it give up.
    pub fn run(self: &Arc<Client>, machine: &mut dyn Machine) -> Result<(), String> {
        let mut lost_at = Instant::now();
        let mut pause = PAUSE[0];
        let mut first = true;
        loop {
            self.heartbeat.beat();
            let began = Instant::now();
            let at_once = match self.attempt(machine, &mut first) {
                _ if self.is_stopped() => return self.outcome(),
                Err(reason) if self.settings.once => return Err(reason),
                Err(reason) => {
                    log::warning("tunnel", "no connection", &[("reason", &reason)]);
                    notify::status(format_args!("no connection: {reason}"));
                    notify::tell("READY=1");
                    false
                }
                Ok(end) if self.settings.once => {
                    return Err(format!("the connection was lost: {end}"));
                }
                Ok(end) => {
                    let at_once = may_come_back_at_once(&end)?;
                    log::warning(
                        "tunnel",
                        "connection lost, connecting again",
                        &[("reason", &end)],
                    );
                    notify::status(format_args!("connection lost: {end}"));
                    // Only a session that held begins the pauses anew: a server that ends each at
                    // once meets growing ones.
                    let held = began.elapsed() >= HELD;
                    if held {
                        (lost_at, pause) = (Instant::now(), PAUSE[0]);
                    }
                    at_once && held
                }
            };
            if !at_once && self.sleep(jittered(pause)) {
                return self.outcome();
            }
            let longest = if lost_at.elapsed() < Duration::from_secs(60) {
                PAUSE[1]
            } else {
                PAUSE[2]
            };
            pause = (pause * 2).min(longest);
        }
    }

    /// Ends the session with a Close, and [`Client::run`] with it.
    pub fn stop(&self) {
        *locked(&self.stopped) = true;
        self.stopping.notify_all();
        self.wake.ring();
        match &*locked(&self.carrier) {
            ConnectionState::None => {}
            ConnectionState::Socket(socket) => drop(socket.shutdown(Shutdown::Both)),
            ConnectionState::Session(connected) => connected.sender.close(close::LEAVING, LEAVES),
        }
    }

    /// What it is doing, as `text`, `json` or `prometheus`; nothing if it is another format.
    pub fn status(&self, format: &str) -> Option<String> {
        let told = locked(&self.told);
        let (device, config) = told
            .as_ref()
            .map(|(device, config)| (device.as_deref(), config))
            .unzip();
        let server = config.map_or(&[][..], |config| &config.server);
        let link = match &*locked(&self.carrier) {
            ConnectionState::Session(connected) => Some(Link::of(connected)),
            _ => None,
        };
        let peer = Peer {
            name: self.settings.server.clone(),
            addresses: server.iter().map(|own| Subnet::alone(*own)).collect(),
            traffic: Arc::clone(&self.traffic),
            step: locked(&self.key).current().1,
            link,
        };
        let overlaps = config.map_or(Vec::new(), |config| {
            self.settings.overlaps(&config.addresses, &config.routes)
        });
        let report = Report {
            warnings: overlaps.iter().map(ToString::to_string).collect(),
            name: &self.settings.name,
            role: "client",
            started: self.started,
            device: device.flatten(),
            listen: Vec::new(),
            addresses: config.map_or(&[], |config| &config.addresses),
            handshakes: &self.handshakes,
            unrouted: self.unrouted.load(Ordering::Relaxed),
            peers: vec![peer],
        };
        report.render(format)
    }

    /// Stops because something is wrong that another connection would not help.
    fn fail(&self, reason: String) {
        *locked(&self.failure) = Some(reason); // before `run` can end
        self.stop();
    }

    fn outcome(&self) -> Result<(), String> {
        locked(&self.failure).take().map_or(Ok(()), Err)
    }

    fn is_stopped(&self) -> bool {
        *locked(&self.stopped)
    }

    /// Waits, and says whether it was stopped.
    fn sleep(&self, time: Duration) -> bool {
        let stopped = locked(&self.stopped);
        let waited = self
            .stopping
            .wait_timeout_while(stopped, time, |stopped| !*stopped);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// One connection, from its first packet to its end, or why there was no session.
    fn attempt(
        self: &Arc<Client>,
        machine: &mut dyn Machine,
        first: &mut bool,
    ) -> Result<End, String> {
        let socket = Arc::new(self.connect()?);
        *locked(&self.carrier) = ConnectionState::Socket(Arc::clone(&socket));
        if self.is_stopped() {
            return Err("stopped".into());
        }
        let mut reader = FrameReader::new(Arc::clone(&socket));
        let session = self.handshake(&socket, &mut reader);
        process::wipe_stack();
        // No attempt any more: from here on `stop` must not cut it, but close the session.
        *locked(&self.carrier) = ConnectionState::None;
        let server = peer(&socket);
        let session = session.map_err(|reason| {
            self.refresh(); // the address may be somebody else's by now
            self.handshakes.refuse(RejectReason::Incomplete);
            format!("{server}: {reason}")
        })?;
        self.handshakes.accept();
        let Session {
            config,
            sealer,
            mut opener,
            super_packets,
            software,
            round_trip,
            key,
        } = session;
        let device = machine
            .set_up(&config)
            .inspect_err(|reason| self.fail(reason.clone()))?;
        let sender = SessionSender::new(
            socket,
            sealer,
            super_packets,
            Arc::clone(&self.traffic),
            Vec::new(),
        );
        let from = sender
            .socket
            .peer_addr()
            .map_err(|error| format!("{server}: {error}"))?;
        let connected = Connected {
            from,
            sender: Arc::clone(&sender),
            key,
            since: Moment::now(),
        };
        *locked(&self.carrier) = ConnectionState::Session(Arc::new(connected));
        if self.is_stopped() {
            sender.close(close::LEAVING, LEAVES);
        }
        *locked(&self.told) = Some((
            device.as_ref().map(|device| device.name().to_owned()),
            config.clone(),
        ));
        let (addresses, suite, milliseconds) = (
            listed(&config.addresses),
            opener.suite(),
            round_trip.as_secs_f64() * 1e3,
        );
        let connected = format!(
            "connected: {addresses} via {server} ({software}), suite {suite}, round trip {milliseconds:.2} ms"
        );
        notify::status(&connected);
        notify::tell("READY=1");
        // Where a command runs, stdout is that command's.
        if self.settings.command.is_empty() {
            print(&connected)
        } else {
            log::say(&connected)
        }
        if std::mem::take(first) {
            let started = self
                .start_pump(&device)
                .and_then(|()| self.start_tasks(&sender, &config));
            started.unwrap_or_else(|error| self.fail(format!("cannot start a thread: {error}")));
        }
        let mut handler = FromServer {
            client: self,
            sender: &sender,
            own: config.addresses.iter().map(|own| own.address).collect(),
            stack: LocalStack::new(device.as_deref(), &sender),
            batch: Batch::default(),
        };
        let timeouts = Timeouts {
            keepalive: config.keepalive,
            tick: PATH_CHECK,
        };
        let end = receiver::run(&mut reader, &mut opener, &sender, timeouts, &mut handler);
        *locked(&self.carrier) = ConnectionState::None;
        if matches!(end, End::Left) {
            drain(&sender.socket);
        }
        sender.abort();
        Ok(end)
    }

    /// The way to the server while there is one.
    fn sender(&self) -> Option<Arc<SessionSender>> {
        match &*locked(&self.carrier) {
            ConnectionState::Session(connected) => Some(Arc::clone(&connected.sender)),
            _ => None,
        }
    }

    /// Starts the thread that reads the device. It goes on through all connections.
    fn start_pump(self: &Arc<Client>, device: &Option<Arc<Tun>>) -> io::Result<()> {
        let Some(device) = device.clone() else {
            return Ok(());
        };
        let client = Arc::clone(self);
        let started = thread::Builder::new().name("device".into()).spawn(move || {
            let way = |_| {
                client.sender().or_else(|| {
                    count(&client.unrouted);
                    None
                })
            };
            device::pump(&device, &client.wake, way).unwrap_or_else(|reason| client.fail(reason));
        });
        started.map(drop)
    }
}

/// Whether a client may connect again without a pause after this, PROTOCOL.md section 6.2.
///
/// # Errors
/// Why it may not connect again at all.
fn may_come_back_at_once(end: &End) -> Result<bool, String> {
    match end {
        End::Closed {
            code: close::REPLACED,
            ..
        } => Err("another program has connected with this key; each client needs its own".into()),
        End::Closed {
            code: close::REMOVED,
            ..
        } => Err("the server has removed this client's key".into()),
        End::Closed {
            code: close::CONFIGURED,
            ..
        }
        | End::GivenUp(_) => Ok(true),
        _ => Ok(false),
    }
}

/// A line on stdout. Nobody there to read it is no reason to stop.
fn print(line: &str) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// Between half of `pause` and all of it, so that a thousand clients do not come back in the same
/// moment.
fn jittered(pause: Duration) -> Duration {
    let random = u32::from(u16::from_be_bytes(entropy::array()));
    pause / 2 + pause * random / 65_536 / 2
}

/// The state of a ratcheted key that is only looked at.
struct Untouched;

impl Store for Untouched {
    fn save(&mut self, _: &StoredRatchet) -> Result<(), String> {
        Err("this state is not to be changed".into())
    }
}
