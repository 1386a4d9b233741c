//! The end that connects, and connects again.
//!
//! ```text
//!  ┌─> connect ─> ClientHello ─> ServerHello? ─> Finished ─> Config? ─> set up the machine ─> records ─┐
//!  └── pause, longer each time ─── anything fails, or the connection ends ─────────────────────────────┘
//! ```
//!
//! The device and its addresses stay while the connection comes and goes, so connections inside the tunnel survive.

use super::batch::Batch;
use super::carrier::{self, FrameReader, NoFrame};
use super::config_record::{NetworkConfig, listed};
use super::connection::{self, End, Inside, Patience, close, printable};
use super::key_log::KeyLog;
use super::outbound::{Outbound, Traffic, count};
use super::server::{answer_echo, drain};
use super::status::{Link, Peer, Refusal, Report, Since, Tally};
use super::steps::ClientKey;
use super::{device, fresh, fresh_hello, locked};
use crate::config::settings::{ClientSettings, Device};
use crate::config::state_file::{Kept, StateFile, Store};
use crate::os::log;
use crate::os::network::MARK;
use crate::os::notify::{self, Pulse};
use crate::os::socket::{self, Tuning};
use crate::os::tun::Tun;
use crate::os::wake::Wake;
use crate::os::{clock, entropy};
use crate::packet::offload::Checked;
use crate::packet::subnet::Subnet;
use crate::packet::{icmp, ip};
use crate::protocol::handshake::{Agreed, Capabilities, Offer, Refused, client_hello};
use crate::protocol::limits::MAX_HELLO;
use crate::protocol::ratchet::ClientState;
use crate::protocol::record::{Kind, Opener, Sealer, Suite};
use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a connection may take to be made.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long the server may take for each of its hellos.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// How long the server's addresses are tried before its name is looked up again.
const NAME_LIFE: Duration = Duration::from_secs(30);
/// How often the client looks whether its own address is still the right one.
const PATH_CHECK: Duration = Duration::from_secs(2);
/// Pauses between attempts: the first, the longest in the first minute, the longest after that.
const PAUSE: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(2), Duration::from_secs(30)];
/// A session that lasted as long as this was a good one.
const HELD: Duration = Duration::from_secs(10);
/// How long an answer to a Message or a ping through the tunnel may take.
const REPLY_TIME: Duration = Duration::from_secs(5);

/// The machine the client runs on: what it does with the network that the server describes.
pub trait Machine: Send {
    /// Sets the network up, or changes it to this. Returns the device, if there is one; it stays the same.
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
    /// The way to the server while there is one.
    link: Mutex<Option<Arc<Outbound>>>,
    /// The socket of an attempt, so that it can be cut short.
    socket: Mutex<Option<Arc<TcpStream>>>,
    stopped: Mutex<bool>,
    stopping: Condvar,
    wake: Wake,
    replies: Mutex<Option<SyncSender<Reply>>>,
    expects_reply: AtomicBool,
    identifier: u16,
    /// Why it ends, if it was not asked to.
    failure: Mutex<Option<String>>,
    started: Since,
    traffic: Arc<Traffic>,
    handshakes: Tally,
    /// Packets from the device that had no way to go.
    unrouted: AtomicU64,
    /// Of the thread that runs it.
    pulse: Pulse,
    /// The session, for `status`; with what the server said last once it is over.
    session: Mutex<Option<Told>>,
}

/// What the server has told, and how.
struct Told {
    device: Option<String>,
    config: NetworkConfig,
    /// While the session lasts.
    connection: Option<(Arc<TcpStream>, Suite, Since)>,
}

/// What somebody in this program waits for.
enum Reply {
    Message(String),
    Echo { sequence: u16 },
}

/// What came of one attempt.
enum Attempt {
    /// No use in another one.
    GiveUp(String),
    /// There was no session.
    Failed(String),
    /// There was a session and it ended.
    Lost(End),
}

impl Client {
    /// A client that has not connected yet.
    ///
    /// # Errors
    /// If there are no descriptors left, or the state of a ratcheted key cannot be had.
    pub fn new(settings: ClientSettings) -> io::Result<Arc<Client>> {
        let key = match &settings.ratchet {
            None => ClientKey::new(Kept { key: settings.key.clone(), step: 0, secret: None }, None),
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
            link: Mutex::new(None),
            socket: Mutex::new(None),
            stopped: Mutex::new(false),
            stopping: Condvar::new(),
            wake: Wake::new()?,
            replies: Mutex::new(None),
            expects_reply: AtomicBool::new(false),
            identifier: u16::from_be_bytes(entropy::array()),
            failure: Mutex::default(),
            started: Since::now(),
            traffic: Arc::default(),
            handshakes: Tally::default(),
            unrouted: AtomicU64::new(0),
            session: Mutex::default(),
            pulse: Pulse::new("client"),
        }))
    }

    /// Asks the server for its hello and goes no further. It proves that the way is free, the server there and the key
    /// known; no session begins and none is replaced, and a ratcheted key stays where it is. Says what was learnt.
    ///
    /// # Errors
    /// A sentence: whether it is the way, the server or the key, as far as this side can tell.
    pub fn ask(settings: ClientSettings) -> Result<String, String> {
        let name = settings.server.clone();
        let key = match &settings.ratchet {
            None => ClientKey::new(Kept { key: settings.key.clone(), step: 0, secret: None }, None),
            Some(path) => ClientKey::new(Kept::read(path)?, Some(Box::new(Untouched))),
        };
        let client = Client::with_key(settings, key).map_err(|error| error.to_string())?;
        let socket = client.connect().map_err(|reason| format!("there is no way to the server: {reason}"))?;
        let socket = Arc::new(socket);
        let (agreed, round_trip) = client
            .greet(&socket, &mut FrameReader::new(Arc::clone(&socket)))
            .map_err(|reason| format!("the way to the server is free, but {reason}"))?;
        let (at, software, suite) = (peer(&socket), &agreed.software, agreed.suite);
        let apart = agreed.time.abs_diff(clock::unix_seconds());
        let milliseconds = round_trip.as_secs_f64() * 1e3;
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
        let mut tasks = Some(());
        let mut pumping = false;
        loop {
            self.pulse.beat();
            let began = Instant::now();
            let at_once = match self.attempt(machine, &mut tasks, &mut pumping) {
                _ if self.is_stopped() => return self.outcome(),
                Attempt::GiveUp(reason) => return Err(reason),
                Attempt::Failed(reason) if self.settings.once => return Err(reason),
                Attempt::Failed(reason) => {
                    log::warning("tunnel", "no connection", &[("reason", &reason)]);
                    notify::status(format_args!("no connection: {reason}"));
                    notify::tell("READY=1");
                    false
                }
                Attempt::Lost(end) if self.settings.once => {
                    return Err(format!("the connection was lost: {end}"));
                }
                Attempt::Lost(end) => {
                    let at_once = may_come_back_at_once(&end)?;
                    log::warning("tunnel", "connection lost, connecting again", &[("reason", &end)]);
                    notify::status(format_args!("connection lost: {end}"));
                    // Only a session that held begins the pauses anew: a server that ends each at once meets growing ones.
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
            let longest = if lost_at.elapsed() < Duration::from_secs(60) { PAUSE[1] } else { PAUSE[2] };
            pause = (pause * 2).min(longest);
        }
    }

    /// Ends the session with a Close, and [`Client::run`] with it.
    pub fn stop(&self) {
        *locked(&self.stopped) = true;
        self.stopping.notify_all();
        self.wake.ring();
        if let Some(link) = &*locked(&self.link) {
            return link.close(close::LEAVING, "the client leaves");
        }
        if let Some(socket) = &*locked(&self.socket) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// What it is doing, as `text`, `json` or `prometheus`; nothing if it is another format.
    pub fn status(&self, format: &str) -> Option<String> {
        let told = locked(&self.session);
        let (addresses, server) =
            told.as_ref().map_or((&[][..], &[][..]), |told| (&told.config.addresses, &told.config.server));
        let link = told
            .as_ref()
            .and_then(|told| told.connection.as_ref())
            .and_then(|(socket, suite, since)| Some(Link::of(socket, socket.peer_addr().ok()?, *suite, *since)));
        let host = |address: &IpAddr| Subnet { address: *address, prefix: if address.is_ipv4() { 32 } else { 128 } };
        let peer = Peer {
            name: self.settings.server.clone(),
            addresses: server.iter().map(host).collect(),
            traffic: Arc::clone(&self.traffic),
            step: locked(&self.key).current().1,
            link,
        };
        let report = Report {
            name: &self.settings.name,
            role: "client",
            started: self.started,
            device: told.as_ref().and_then(|told| told.device.as_deref()),
            listen: Vec::new(),
            addresses,
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
        let waited = self.stopping.wait_timeout_while(stopped, time, |stopped| !*stopped);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn attempt(self: &Arc<Client>, machine: &mut dyn Machine, tasks: &mut Option<()>, pumping: &mut bool) -> Attempt {
        let socket = match self.connect() {
            Ok(socket) => Arc::new(socket),
            Err(reason) => return Attempt::Failed(reason),
        };
        *locked(&self.socket) = Some(Arc::clone(&socket));
        if self.is_stopped() {
            return Attempt::Failed("stopped".into());
        }
        let mut reader = FrameReader::new(Arc::clone(&socket));
        let session = self.handshake(&socket, &mut reader);
        *locked(&self.socket) = None; // no attempt any more: from here on `stop` must not cut it, but close the link
        let session = match session {
            Ok(session) => session,
            Err(attempt) => {
                self.handshakes.refuse(Refusal::Incomplete);
                return attempt;
            }
        };
        self.handshakes.accept();
        let Session { config, sealer, mut opener, super_packets, .. } = session;
        let device = match machine.set_up(&config) {
            Ok(device) => device,
            Err(reason) => return Attempt::GiveUp(reason),
        };
        let outbound = Outbound::new(Arc::clone(&socket), sealer, super_packets, Arc::clone(&self.traffic), Vec::new());
        *locked(&self.link) = Some(Arc::clone(&outbound));
        if self.is_stopped() {
            outbound.close(close::LEAVING, "the client leaves");
        }
        if let (Some(device), false) = (&device, *pumping) {
            *pumping = self.start_pump(device);
        }
        let (addresses, suite) = (listed(&config.addresses), opener.suite());
        *locked(&self.session) = Some(Told {
            device: device.as_ref().map(|device| device.name().to_owned()),
            config: config.clone(),
            connection: Some((Arc::clone(&socket), suite, Since::now())),
        });
        let (server, software) = (peer(&socket), &session.software);
        let milliseconds = session.round_trip.as_secs_f64() * 1e3;
        let connected =
            format!("connected: {addresses} via {server} ({software}), suite {suite}, round trip {milliseconds:.2} ms");
        notify::status(&connected);
        notify::tell("READY=1");
        // Where a command runs, stdout is that command's.
        if self.settings.command.is_empty() {
            print(&connected)
        } else {
            eprintln!("{connected}")
        }
        if tasks.take().is_some() {
            self.start_tasks(&outbound, &config);
        }
        let patience = Patience { keepalive: config.keepalive, tick: PATH_CHECK };
        let mut inside = FromServer {
            client: self,
            outbound: &outbound,
            socket: &socket,
            own: config.addresses.iter().map(|own| own.address).collect(),
            device,
            batch: Batch::default(),
            scratch: Vec::new(),
        };
        let end = connection::run(&mut reader, &mut opener, &outbound, patience, &mut inside);
        *locked(&self.link) = None;
        if let Some(told) = &mut *locked(&self.session) {
            told.connection = None;
        }
        if matches!(end, End::Left) {
            drain(&socket);
        }
        outbound.abort();
        Attempt::Lost(end)
    }

    /// Looks the server up, unless that is done.
    ///
    /// # Errors
    /// A sentence.
    pub fn find_server(&self) -> Result<(), String> {
        let (known, at) = &mut *locked(&self.server);
        if known.is_empty() {
            let name = &self.settings.server;
            let found = name.to_socket_addrs().map_err(|error| {
                format!(
                    "cannot find {name}: {error} (is this the right name, and does this machine's resolver answer?)"
                )
            })?;
            (*known, *at) = (found.collect(), Instant::now());
        }
        Ok(())
    }

    /// Connects to the first address of the server that answers. The addresses are kept, because names may have to be
    /// asked through the tunnel which there is not now.
    fn connect(&self) -> Result<TcpStream, String> {
        self.find_server()?;
        let (known, at) = &mut *locked(&self.server);
        let tuning = Tuning { mark: self.mark, ..carrier::tuning() };
        let mut reason = format!("{} has no address", self.settings.server);
        for address in known.iter() {
            match socket::connect(*address, CONNECT_TIME, &tuning) {
                Ok(socket) => return Ok(socket),
                Err(error) => reason = format!("{error}{}", advice(error.kind())),
            }
        }
        if at.elapsed() >= NAME_LIFE {
            *at = Instant::now();
            *known = self.settings.server.to_socket_addrs().map_or(std::mem::take(known), Iterator::collect);
        }
        Err(reason)
    }

    /// ClientHello and ServerHello: what both agree on, and how long the answer took.
    fn greet(&self, socket: &TcpStream, reader: &mut FrameReader) -> Result<(Agreed, Duration), String> {
        let failed = |reason: String| format!("{}: {reason}", peer(socket));
        let offer = Offer {
            suites: self.settings.suites.clone(),
            capabilities: Capabilities { super_packets: true },
            software: super::SOFTWARE.into(),
        };
        let (root, step) = locked(&self.key).current();
        let (frame, await_server_hello) = client_hello(&root, step, offer, fresh_hello());
        let asked = Instant::now();
        (&*socket).write_all(&frame).map_err(|error| failed(format!("cannot send: {error}")))?;
        let body = reader.frame_until(MAX_HELLO, asked + ANSWER_TIME).map_err(|reason| failed(unanswered(&reason)))?;
        let round_trip = asked.elapsed();
        let agreed = await_server_hello.receive(body).map_err(|reason| failed(explained(&reason)))?;
        Ok((agreed, round_trip))
    }

    fn handshake(&self, socket: &Arc<TcpStream>, reader: &mut FrameReader) -> Result<Session, Attempt> {
        let server = peer(socket);
        let failed = |reason: String| Attempt::Failed(format!("{server}: {reason}"));
        let (agreed, round_trip) = self.greet(socket, reader).map_err(Attempt::Failed)?;
        let Agreed { suite, capabilities, .. } = agreed;
        let software = agreed.software.clone();
        // Finished, Config.
        let keep = |next: &ClientState| locked(&self.key).keep(next);
        let (frame, await_config) = agreed.finish(keep, &mut fresh).map_err(|reason| {
            failed(format!(
                "{reason} (a ratcheted key that cannot take its step is not used: make room, allow writing)"
            ))
        })?;
        (&**socket).write_all(&frame).map_err(|error| failed(format!("cannot send: {error}")))?;
        reader.suit(&self.settings.congestion, round_trip);
        reader.establish();
        let body = reader
            .frame_until(suite.max_body(), Instant::now() + ANSWER_TIME)
            .map_err(|reason| failed(format!("the server did not finish the handshake: {reason}")))?;
        let (config, sealer, opener) = await_config.receive(body).map_err(|reason| failed(reason.to_string()))?;
        if let Some(key_log) = &self.key_log {
            key_log.add(&server, suite, sealer.secret(), opener.secret());
        }
        let config = NetworkConfig::decode(&config)
            .map_err(|reason| failed(format!("the server's configuration makes no sense: {reason}")))?;
        Ok(Session { config, sealer, opener, super_packets: capabilities.super_packets, software, round_trip })
    }

    /// Starts the thread that reads the device. It goes on through all connections.
    fn start_pump(self: &Arc<Client>, device: &Arc<Tun>) -> bool {
        let (client, device) = (Arc::clone(self), Arc::clone(device));
        let thread = thread::Builder::new().name("device".into());
        let started = thread.spawn(move || {
            let way = |_| {
                let way = locked(&client.link).clone();
                if way.is_none() {
                    count(&client.unrouted);
                }
                way
            };
            device::pump(&device, &client.wake, way).unwrap_or_else(|reason| client.fail(reason));
        });
        started.inspect_err(|error| log::error("tunnel", "no thread for the device", &[("reason", error)])).is_ok()
    }

    /// Starts the thread that does what the command line asks for after the first connection.
    fn start_tasks(self: &Arc<Client>, outbound: &Arc<Outbound>, config: &NetworkConfig) {
        let (client, outbound, config) = (Arc::clone(self), Arc::clone(outbound), config.clone());
        if client.settings.send.is_none() && client.settings.pings.is_none() {
            return;
        }
        let (sender, replies) = mpsc::sync_channel(16); // a server that sends more than was asked for is not listened to
        *locked(&self.replies) = Some(sender);
        let thread = thread::Builder::new().name("tasks".into());
        let started = thread.spawn(move || {
            let done =
                client.send_message(&outbound, &replies).and_then(|()| client.ping(&outbound, &config, &replies));
            client.expects_reply.store(false, Ordering::Relaxed);
            if let Err(reason) = &done {
                log::error("tunnel", reason, &[]);
            }
            if !client.settings.once && !client.is_stopped() {
                log::info("tunnel", "staying connected until Ctrl-C", &[]);
            }
            match done {
                _ if !client.settings.once => {}
                Ok(()) => client.stop(),
                Err(_) => client.fail("not all replies came".into()),
            }
        });
        if let Err(error) = started {
            log::error("tunnel", "no thread for --send and --ping", &[("reason", &error)]);
        }
    }

    fn send_message(&self, outbound: &Arc<Outbound>, replies: &Receiver<Reply>) -> Result<(), String> {
        let Some(text) = &self.settings.send else { return Ok(()) };
        outbound.send(Kind::Message, text.as_bytes());
        let deadline = Instant::now() + REPLY_TIME;
        loop {
            match replies.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Reply::Message(answer)) => {
                    print(&printable(&answer));
                    return Ok(());
                }
                Ok(Reply::Echo { .. }) => {}
                Err(_) => return Err(format!("no answer to the message within {} s", REPLY_TIME.as_secs())),
            }
        }
    }

    /// Pings the server through the tunnel, once a second.
    fn ping(&self, outbound: &Arc<Outbound>, config: &NetworkConfig, replies: &Receiver<Reply>) -> Result<(), String> {
        let Some(count) = self.settings.pings else { return Ok(()) };
        let pairs = config.addresses.iter().flat_map(|own| config.server.iter().map(move |to| (own.address, *to)));
        let pair = pairs.into_iter().find(|(own, to)| own.is_ipv4() == to.is_ipv4());
        let (own, to) = pair.ok_or("no tunnel address of the server to ping")?;
        self.expects_reply.store(true, Ordering::Relaxed);
        let mut times = Vec::new();
        for sequence in 1..=u16::try_from(count).unwrap_or(u16::MAX) {
            if sequence > 1 && self.sleep(Duration::from_secs(1)) {
                break;
            }
            let mut packet = Vec::new();
            icmp::echo_request(own, to, self.identifier, sequence, b"fernvpn through the tunnel", &mut packet);
            let sent = Instant::now();
            outbound.put(|queue| queue.push_packet(&packet));
            outbound.send_all();
            match wait_for_echo(replies, sequence, sent + REPLY_TIME) {
                Some(()) => {
                    let time = sent.elapsed().as_secs_f64() * 1e3;
                    print(&format!("reply from {to}: seq={sequence} time={time:.3} ms"));
                    times.push(time);
                }
                None => print(&format!("no reply from {to}: seq={sequence}")),
            }
        }
        let (sent, received) = (count, times.len());
        let (least, most) = times.iter().fold((f64::MAX, 0.0), |(a, b), t| (f64::min(a, *t), f64::max(b, *t)));
        if received == 0 {
            return Err(format!("{sent} pings sent through the tunnel, none answered"));
        }
        let average = times.iter().sum::<f64>() / times.len() as f64;
        print(&format!("{sent} pings, {received} replies, min/avg/max {least:.3}/{average:.3}/{most:.3} ms"));
        Ok(())
    }
}

/// Whether a client may connect again without a pause after this, PROTOCOL.md section 6.2.
///
/// # Errors
/// Why it may not connect again at all.
fn may_come_back_at_once(end: &End) -> Result<bool, String> {
    match end {
        End::Closed { code: close::REPLACED, .. } => {
            Err("another program has connected with this key; each client needs its own".into())
        }
        End::Closed { code: close::REMOVED, .. } => Err("the server has removed this client's key".into()),
        End::Closed { code: close::CONFIGURED, .. } | End::GivenUp(_) => Ok(true),
        _ => Ok(false),
    }
}

fn wait_for_echo(replies: &Receiver<Reply>, due: u16, deadline: Instant) -> Option<()> {
    loop {
        match replies.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Reply::Echo { sequence }) if sequence == due => return Some(()),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

/// The state of a ratcheted key that is only looked at.
struct Untouched;

impl Store for Untouched {
    fn save(&mut self, _: &Kept) -> Result<(), String> {
        Err("this state is not to be changed".into())
    }
}

/// What a handshake has led to.
struct Session {
    config: NetworkConfig,
    sealer: Sealer,
    opener: Opener,
    super_packets: bool,
    software: String,
    round_trip: Duration,
}

/// What the server's records lead to.
struct FromServer<'a> {
    client: &'a Client,
    outbound: &'a Arc<Outbound>,
    socket: &'a TcpStream,
    own: Vec<IpAddr>,
    device: Option<Arc<Tun>>,
    batch: Batch,
    scratch: Vec<u8>,
}

impl Inside for FromServer<'_> {
    fn parcel(&mut self, parcel: &Checked) {
        if self.client.expects_reply.load(Ordering::Relaxed)
            && let Some(echo) = icmp::echo_reply(parcel.packet())
            && echo.identifier == self.client.identifier
        {
            return self.reply(Reply::Echo { sequence: echo.sequence });
        }
        let Ok((source, destination)) = ip::addresses(parcel.packet()) else { return };
        match &self.device {
            // Never to what listens for many, or for this machine alone, nor from what could be a router on this link.
            Some(device) if ip::one_host(source) && ip::one_host(destination) => {
                device::deliver(device, parcel, &mut self.scratch)
            }
            None if self.own.contains(&destination) => {
                answer_echo(parcel, &mut self.scratch, &mut self.batch, self.outbound);
            }
            _ => return count(&self.outbound.traffic.dropped_destination),
        }
        let traffic = &self.outbound.traffic;
        count(&traffic.packets_in);
        traffic.bytes_in.fetch_add(parcel.packet().len() as u64, Ordering::Relaxed);
    }

    fn message(&mut self, text: &str) {
        self.reply(Reply::Message(text.to_owned()));
    }

    fn pause(&mut self) {
        self.client.pulse.beat();
        self.batch.send_all();
    }

    /// A machine that has moved to another network keeps a connection that goes nowhere: the kernel would now choose
    /// another address for it.
    fn tick(&mut self) -> Result<(), String> {
        let (Ok(own), Ok(server)) = (self.socket.local_addr(), self.socket.peer_addr()) else {
            return Ok(());
        };
        match source_towards(server, self.client.mark) {
            Some(now) if now != own.ip() => Err(format!("this machine's address is now {now}, no longer {}", own.ip())),
            _ => Ok(()),
        }
    }
}

impl FromServer<'_> {
    fn reply(&self, reply: Reply) {
        if let Some(sender) = &*locked(&self.client.replies) {
            let _ = sender.try_send(reply);
        }
    }
}

/// The address from which the kernel would now talk to `server`. Connecting a UDP socket sends nothing.
fn source_towards(server: SocketAddr, mark: Option<u32>) -> Option<IpAddr> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    mark.map_or(Ok(()), |mark| socket::mark(&socket, mark)).ok()?;
    socket.connect(server).ok()?;
    socket.local_addr().ok().map(|own| own.ip())
}

fn advice(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::ConnectionRefused => " (nothing listens there: is the server running, and is this its port?)",
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => " (this machine has no way there)",
        ErrorKind::TimedOut => " (no machine there, or a firewall in between)",
        ErrorKind::PermissionDenied => " (a firewall on this machine forbids it; a kill switch ends by fernvpn unlock)",
        _ => "",
    }
}

/// What can be known when there was a connection and no answer.
fn unanswered(reason: &NoFrame) -> String {
    const MEANS: &str = "a server says nothing to a key that it does not know (removed, another server's, or an earlier \
                         step of a ratcheted one) nor, with hello-max-age, to a wrong clock; or this is no fernvpn \
                         server. The server's log says which";
    match reason {
        NoFrame::TimedOut => format!("connected, but no answer for {} s: {MEANS}", ANSWER_TIME.as_secs()),
        NoFrame::BadLength(_) | NoFrame::BadPreface(_) => format!("this is not a fernvpn server ({reason})"),
        _ => format!("connected, but closed without an answer ({reason}): {MEANS}"),
    }
}

fn explained(reason: &Refused) -> String {
    match reason {
        Refused::Token(_) => format!("the answer was not made with this client's key ({reason})"),
        _ => reason.to_string(),
    }
}

fn peer(socket: &TcpStream) -> String {
    socket.peer_addr().map_or_else(|_| "the server".into(), |address| address.to_string())
}

/// A line on stdout. Nobody there to read it is no reason to stop.
fn print(line: &str) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// Between half of `pause` and all of it, so that a thousand clients do not come back in the same moment.
fn jittered(pause: Duration) -> Duration {
    let random = u32::from(u16::from_be_bytes(entropy::array()));
    pause / 2 + pause * random / 65_536 / 2
}
