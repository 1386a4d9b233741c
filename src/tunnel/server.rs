//! The end that listens: one thread accepts, one per connection reads, one reads the device.
//!
//! ```text
//!  accept ─> thread: ClientHello? ─ no ─> silence until the deadline
//!                    └ ServerHello ─> Finished? ─> the client's connection from now on, Config ─> records
//! ```
//!
//! What the configuration says is one value, `Current`, which a reload replaces as a whole. Connections that fit the
//! new one as well notice nothing; the others get a Close.

use super::admission::{Admission, PLACES, Pace};
use super::batch::Batch;
use super::carrier::{self, FrameReader, NoFrame};
use super::clients::{Client, Clients, Connected};
use super::config_record::{NetworkConfig, listed};
use super::connection::{self, End, Inside, MAX_MESSAGE, Patience, close};
use super::key_log::KeyLog;
use super::outbound::{Outbound, count};
use super::status::{Link, Peer, Refusal, Report, Since, Tally};
use super::{device, fresh, fresh_hello, locked, proxy};
use crate::config::settings::ServerSettings;
use crate::fernet::{self, Age};
use crate::os::clock;
use crate::os::log::{self, Seldom};
use crate::os::notify::{self, Pulse, TURN};
use crate::os::signal::{self, Signal};
use crate::os::socket;
use crate::os::tun::Tun;
use crate::os::wake::Wake;
use crate::packet::offload::{Checked, Offload};
use crate::packet::{icmp, ip};
use crate::protocol::handshake::{Capabilities, ClientHello, Offer, Ready, Refused, client_id};
use crate::protocol::key_schedule::Id;
use crate::protocol::limits::{MAX_CONTENT, MAX_HELLO};
use crate::protocol::record::{Kind, Opener};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

/// From accept to Finished, in all.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// The words of a Close when the server stops.
const STOPS: &str = "the server stops";
/// A connection thread's stack.
const STACK: usize = 256 * 1024;
/// A client's clock that differs by more than this is worth a line in the log.
const CLOCK_DIFFERENCE: u64 = 300;

/// One for all handshakes that fail: a flood of strangers fills no disk, but it can hide the line that tells why a
/// real client was refused (the next line that gets through tells how many were kept back).
static STRANGERS: Seldom = Seldom::new(10, Duration::from_secs(10));
static CLOCKS: Seldom = Seldom::new(10, Duration::from_secs(10));
static MESSAGES: Seldom = Seldom::new(10, Duration::from_secs(10));
static ACCEPT: Seldom = Seldom::new(3, Duration::from_secs(10));

/// A running server.
pub struct Server {
    shared: Arc<Shared>,
    listeners: Vec<Arc<TcpListener>>,
    wake: Arc<Wake>,
}

struct Shared {
    current: RwLock<Arc<Current>>,
    device: Option<Tun>,
    admission: Admission,
    key_log: Option<KeyLog>,
    connected: Mutex<usize>,
    fewer_connected: Condvar,
    stopping: AtomicBool,
    failure: Mutex<Option<String>>,
    reloading: Mutex<()>,
    started: Since,
    listen: Vec<SocketAddr>,
    handshakes: Tally,
    /// Packets from the device that had no way to go.
    unrouted: AtomicU64,
}

/// What the configuration says now.
struct Current {
    settings: ServerSettings,
    clients: Clients,
    offer: Offer,
}

impl Server {
    /// Starts to serve on `listeners`, with packets to and from `device` if there is one.
    ///
    /// # Errors
    /// A sentence: a configuration that contradicts itself, or a thread or descriptor that cannot be had.
    pub fn start(settings: ServerSettings, listeners: Vec<TcpListener>, device: Option<Tun>) -> Result<Server, String> {
        let key_log = KeyLog::open(settings.keylog.as_deref()).map_err(|error| error.to_string())?;
        let current = Current::new(settings, None)?;
        current.clients.enrol();
        let shared = Arc::new(Shared {
            current: RwLock::new(Arc::new(current)),
            device,
            admission: Admission::new(PLACES),
            key_log,
            connected: Mutex::new(0),
            fewer_connected: Condvar::new(),
            stopping: AtomicBool::new(false),
            failure: Mutex::default(),
            reloading: Mutex::default(),
            started: Since::now(),
            listen: listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect(),
            handshakes: Tally::default(),
            unrouted: AtomicU64::new(0),
        });
        let wake = Wake::new().map_err(|error| format!("cannot start: {error}"))?;
        let server = Server { shared, listeners: listeners.into_iter().map(Arc::new).collect(), wake: Arc::new(wake) };
        server.start_threads().map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(server)
    }

    fn start_threads(&self) -> io::Result<()> {
        for listener in &self.listeners {
            let (shared, listener) = (Arc::clone(&self.shared), Arc::clone(listener));
            thread::Builder::new().name("accept".into()).spawn(move || accept(&shared, &listener))?;
        }
        if self.shared.device.is_some() {
            let (shared, wake) = (Arc::clone(&self.shared), Arc::clone(&self.wake));
            thread::Builder::new().name("device".into()).spawn(move || {
                let Some(device) = &shared.device else { return };
                if let Err(reason) = device::pump(device, &wake, |destination| shared.way_to(destination)) {
                    *locked(&shared.failure) = Some(reason);
                    // Who started the server waits for a signal, and stops it in order.
                    let _ = signal::send(std::process::id(), Signal::Terminate);
                }
            })?;
        }
        Ok(())
    }

    /// The clients, as they are now.
    pub fn clients(&self) -> Vec<Arc<Client>> {
        self.shared.current().clients.all().to_vec()
    }

    /// The configuration that holds.
    pub fn settings(&self) -> ServerSettings {
        self.shared.current().settings.clone()
    }

    /// What it is doing, as `text`, `json` or `prometheus`; nothing if it is another format.
    pub fn status(&self, format: &str) -> Option<String> {
        let (shared, current) = (&self.shared, self.shared.current());
        let link = |connected: Arc<Connected>| {
            Link::of(&connected.socket, connected.from, connected.outbound.suite, connected.since)
        };
        let peer = |client: &Arc<Client>| Peer {
            name: client.name.clone(),
            addresses: client.addresses.clone(),
            traffic: Arc::clone(&client.traffic),
            step: client.step(),
            link: client.connection().map(link),
        };
        let report = Report {
            name: &current.settings.name,
            role: "server",
            started: shared.started,
            device: shared.device.as_ref().map(Tun::name),
            listen: shared.listen.clone(),
            addresses: &current.settings.addresses,
            handshakes: &shared.handshakes,
            unrouted: shared.unrouted.load(Ordering::Relaxed),
            peers: current.clients.all().iter().map(peer).collect(),
        };
        report.render(format)
    }

    /// Takes up a new configuration, of which what is in use by whoever started the server must be the same (listeners,
    /// device, addresses). `meanwhile` is done when all is known to be right, and before it holds. Returns what was done, in
    /// words. Clients to whom it says nothing new notice nothing.
    ///
    /// # Errors
    /// A sentence. Then nothing has changed.
    pub fn reload(
        &self,
        settings: ServerSettings,
        meanwhile: impl FnOnce(&ServerSettings) -> Result<(), String>,
    ) -> Result<String, String> {
        let _alone = locked(&self.shared.reloading);
        let old = self.shared.current();
        let new = Arc::new(Current::new(settings, Some(&old.clients))?);
        meanwhile(&new.settings)?;
        new.clients.enrol();
        *self.shared.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&new);
        // Whoever finishes a handshake by the old one from now on looks again afterwards.
        let (mut removed, mut changed) = (0, 0);
        for client in old.clients.all() {
            let Some(connection) = client.connection() else { continue };
            match new.judge(&old, client, &connection) {
                Ok(()) => {}
                Err(close::REMOVED) => removed += 1,
                Err(_) => changed += 1,
            }
        }
        let clients = new.clients.all().len();
        Ok(format!("{clients} clients; cut off, since their key is gone: {removed}; told to connect again: {changed}"))
    }

    /// Why it cannot go on, if so: its device is gone.
    pub fn failure(&self) -> Option<String> {
        locked(&self.shared.failure).clone()
    }

    /// Stops: no new connections, Close to every client, and at most a second for them to go.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        for listener in &self.listeners {
            let _ = socket::stop_listening(listener);
        }
        self.shared.admission.end_all();
        for client in self.clients() {
            if let Some(way) = client.way() {
                way.close(close::STOPPING, STOPS);
            }
        }
        self.wake.ring();
        let connected = locked(&self.shared.connected);
        let _ = self
            .shared
            .fewer_connected
            .wait_timeout_while(connected, Duration::from_secs(1), |connected| *connected > 0)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Current {
    fn new(settings: ServerSettings, before: Option<&Clients>) -> Result<Current, String> {
        let clients = Clients::after(before, &settings)?;
        let offer = Offer {
            suites: settings.suites.clone(),
            capabilities: Capabilities { super_packets: true },
            software: super::SOFTWARE.into(),
        };
        let current = Current { settings, clients, offer };
        for client in current.clients.all() {
            // Otherwise every client would refuse it, each time it connects.
            let config = current.config_for(client).encode();
            if config.len() > MAX_CONTENT || NetworkConfig::decode(&config).is_err() {
                return Err("too many routes or resolvers to push: at most 1000 of each, and 64 KiB in all".into());
            }
        }
        current.clients.open_states()?;
        Ok(current)
    }

    fn config_for(&self, client: &Client) -> NetworkConfig {
        NetworkConfig {
            addresses: client.addresses.clone(),
            server: self.settings.addresses.iter().map(|own| own.address).collect(),
            mtu: self.settings.mtu,
            routes: self.settings.push_routes.clone(),
            dns: self.settings.push_dns.clone(),
            keepalive: Duration::from_secs(self.settings.keepalive.into()),
        }
    }

    /// Ends a connection that was made, or would be made, by an older configuration unless it fits this one as well: its
    /// key must be somebody's, and it must have been told what it would be told now.
    ///
    /// # Errors
    /// The code of the Close.
    fn judge(&self, then: &Current, client: &Client, connection: &Connected) -> Result<(), u8> {
        let (code, words) = match self.clients.holder(client, &connection.key) {
            Some(now) if now.name == client.name && self.config_for(now) == then.config_for(client) => return Ok(()),
            Some(_) => (close::CONFIGURED, "the server's configuration has changed"),
            None => (close::REMOVED, "this key was removed"),
        };
        connection.outbound.close(code, words);
        log::info("tunnel", words, &[("client", &client.name), ("from", &connection.from)]);
        Err(code)
    }

    /// Whether one more is too many. Who is connected already only changes its connection.
    fn is_full_for(&self, client: &Client, connected: usize) -> bool {
        connected >= self.settings.max_clients && client.connection().is_none()
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.settings.addresses.iter().any(|own| own.address == address)
    }
}

impl Shared {
    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The way to the client that has this address, if it is connected.
    fn way_to(&self, destination: IpAddr) -> Option<Arc<Outbound>> {
        // Not cloned: this is for one packet, and a reload can wait so long.
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let way = current.clients.owner(destination).and_then(|client| client.way());
        if way.is_none() {
            count(&self.unrouted);
        }
        way
    }
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    let pulse = Pulse::new("accept");
    let mut pace = Pace::default();
    loop {
        pulse.beat();
        if let Ok(false) = socket::wait_to_accept(listener, TURN) {
            continue;
        }
        match listener.accept() {
            Ok((socket, from)) => {
                let server = Arc::clone(shared);
                let thread = thread::Builder::new().name("connection".into()).stack_size(STACK);
                if let Err(error) = thread.spawn(move || serve(&server, socket, from)) {
                    shared.admission.make_room();
                    ACCEPT.warning(
                        "tunnel",
                        "no thread for a connection (see TasksMax, ulimit -u, vm.max_map_count)",
                        &[("from", &from), ("reason", &error)],
                    );
                }
                thread::sleep(pace.after(Instant::now()));
            }
            Err(_) if shared.stopping.load(Ordering::Acquire) => return,
            Err(error) => {
                ACCEPT.warning("tunnel", "cannot accept a connection (see ulimit -n)", &[("reason", &error)]);
                // Out of descriptors: until one is free, accept fails at once.
                shared.admission.make_room();
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// The life of one connection.
fn serve(shared: &Arc<Shared>, socket: TcpStream, from: SocketAddr) {
    let socket = Arc::new(socket);
    let from = SocketAddr::new(from.ip().to_canonical(), from.port()); // on `[::]`, IPv4 in the form people know
    if shared.admission.enter(&socket) {
        shared.handshakes.refuse(Refusal::Crowded);
        STRANGERS.warning("tunnel", "too many unauthenticated connections, a random one was ended", &[]);
    }
    if shared.stopping.load(Ordering::Acquire) {
        return shared.admission.leave(&socket); // it came in too late to be ended with the others
    }
    let mut reader = FrameReader::new(Arc::clone(&socket));
    let deadline = Instant::now() + HANDSHAKE_TIME;
    let origin = origin(shared, from, &mut reader, deadline);
    let from = *origin.as_ref().unwrap_or(&from);
    let outcome = origin.and_then(|from| handshake(shared, &socket, from, &mut reader, deadline));
    if let Err(Silence::Keep) = outcome {
        keep_silent(&socket, deadline);
    }
    shared.admission.leave(&socket);
    if let Ok(authenticated) = outcome {
        reader.establish();
        session(shared, authenticated, from, &socket, &mut reader);
    }
}

/// What a connection is after Finished.
struct Authenticated {
    /// The configuration by which it began.
    current: Arc<Current>,
    client: Arc<Client>,
    key: Id,
    number: u64,
    ready: Ready,
    super_packets: bool,
}

/// How a connection ends that has not authenticated.
enum Silence {
    /// It stays open until the deadline, so that nobody can tell from outside what was wrong.
    Keep,
    /// It has ended by itself, or was told a reason because it has a key.
    End,
}

/// Where a connection really comes from: a load balancer says whom it speaks for, before anything else.
fn origin(
    shared: &Shared,
    from: SocketAddr,
    reader: &mut FrameReader,
    deadline: Instant,
) -> Result<SocketAddr, Silence> {
    if !shared.current().settings.balancers.iter().any(|network| network.contains(from.ip())) {
        return Ok(from);
    }
    let told = reader.preface_until(proxy::header, deadline).map_err(|reason| no_frame(shared, from, &reason))?;
    Ok(told.unwrap_or(from))
}

/// What a stranger sends is no handshake. It may be tried at will, so that it may not fill the log.
fn refuse(shared: &Shared, from: SocketAddr, refusal: Refusal, reason: &dyn std::fmt::Display) -> Silence {
    shared.handshakes.refuse(refusal);
    STRANGERS.warning("tunnel", "handshake refused", &[("from", &from), ("reason", reason)]);
    Silence::Keep
}

fn no_frame(shared: &Shared, from: SocketAddr, reason: &NoFrame) -> Silence {
    match reason {
        NoFrame::BadLength(_) | NoFrame::BadPreface(_) => {
            refuse(shared, from, Refusal::NoHello, &format_args!("not a hello: {reason}"))
        }
        _ => {
            shared.handshakes.refuse(Refusal::Incomplete);
            log::debug("tunnel", "no handshake", &[("from", &from), ("reason", reason)]);
            Silence::End
        }
    }
}

fn handshake(
    shared: &Shared,
    socket: &Arc<TcpStream>,
    from: SocketAddr,
    reader: &mut FrameReader,
    deadline: Instant,
) -> Result<Authenticated, Silence> {
    socket::prepare(socket, &carrier::tuning()).map_err(|_| Silence::End)?;
    let refuse = |refusal, reason: &dyn std::fmt::Display| refuse(shared, from, refusal, reason);
    let no_frame = |reason| no_frame(shared, from, &reason);

    let current = shared.current();

    // ClientHello: the id, then the token, then whether it is new.
    let body = reader.frame_until(MAX_HELLO, deadline).map_err(no_frame)?;
    let id = client_id(body).ok_or_else(|| refuse(Refusal::NoHello, &Refused::Length(body.len())))?;
    let (client, root) = current.clients.by_id(&id).ok_or_else(|| {
        let reason =
            "no client has this key: it was removed, or belongs to another server, or this is no fernvpn client";
        refuse(Refusal::UnknownKey, &reason)
    })?;
    let named =
        |refusal, reason: &dyn std::fmt::Display| refuse(refusal, &format_args!("client {}: {reason}", client.name));
    let root = root.ok_or_else(|| {
        let reason =
            "an earlier step of its ratcheted key: a recording, or a copy or backup in use (fernvpn reset-client)";
        named(Refusal::EarlierStep, &reason)
    })?;
    let now = clock::unix_seconds();
    let age = current.settings.hello_max_age.map(|ttl| Age { now, ttl });
    let hello = ClientHello::receive(&root, body, age).map_err(|reason| match reason {
        Refused::Token(fernet::Refusal::Expired | fernet::Refusal::Future) => {
            let advice = "see hello-max-age, and the clocks of both sides: timedatectl";
            named(Refusal::Hello, &format_args!("{reason} ({advice})"))
        }
        _ => named(Refusal::Hello, &reason),
    })?;
    let number = client
        .begin(&hello.nonce)
        .ok_or_else(|| named(Refusal::Replay, &"this hello was answered before: a replay"))?;
    if hello.time.abs_diff(now) > CLOCK_DIFFERENCE {
        let (client, theirs) = (&client.name, clock::utc(hello.time));
        CLOCKS.warning("tunnel", "clocks differ (which does no harm)", &[("client", client), ("theirs", &theirs)]);
    }

    // ServerHello, or a reason for one who has the key.
    if current.is_full_for(&client, *locked(&shared.connected)) {
        let _ = send(socket, &hello.refuse("the server is full", fresh()));
        let _ = named(Refusal::Full, &"the server is full (max-clients)");
        return Err(Silence::End);
    }
    let ratchet = match current.clients.meet(&client, id) {
        Ok(ratchet) => ratchet,
        Err(reason) => {
            let _ = send(socket, &hello.refuse("the server cannot keep the ratcheted key's step", fresh()));
            return Err(not_kept(shared, &client, &reason));
        }
    };
    let (frame, answer) = hello.answer(&current.offer, ratchet.as_ref(), fresh_hello());
    let answered = Instant::now();
    send(socket, &frame).map_err(|_| {
        shared.handshakes.refuse(Refusal::Incomplete);
        Silence::End
    })?;
    let await_finished = answer.map_err(|reason| {
        let _ = named(Refusal::Agreement, &reason);
        Silence::End
    })?;

    // Finished.
    let limit = await_finished.suite.frame_len(0);
    let body = reader.frame_until(limit, deadline).map_err(no_frame)?;
    let round_trip = answered.elapsed();
    let super_packets = await_finished.capabilities.super_packets;
    let ready = await_finished.receive(body).map_err(|reason| named(Refusal::Finished, &reason))?;
    let step = ratchet.map(|state| state.step);
    current.clients.finish(&client, step).map_err(|reason| not_kept(shared, &client, &reason))?;
    reader.suit(&current.settings.congestion, round_trip);
    Ok(Authenticated { current, client, key: id, number, ready, super_packets })
}

/// Without a durable step there is no session: better none than one that is not ratcheted.
fn not_kept(shared: &Shared, client: &Client, reason: &dyn std::fmt::Display) -> Silence {
    shared.handshakes.refuse(Refusal::State);
    log::error("tunnel", "handshake refused", &[("client", &client.name), ("reason", reason)]);
    Silence::End
}

/// A session from Finished to its end.
fn session(
    shared: &Arc<Shared>,
    Authenticated { current, client, key, number, ready, super_packets }: Authenticated,
    from: SocketAddr,
    socket: &Arc<TcpStream>,
    reader: &mut FrameReader,
) {
    let config = current.config_for(&client).encode();
    let Ok((frame, sealer, mut opener)) = ready.configure(&config, &mut fresh) else {
        return log::error("tunnel", "too many routes for one Config", &[("client", &client.name)]);
    };
    let suite = sealer.suite();
    if let Some(key_log) = &shared.key_log {
        key_log.add(&client.name, suite, opener.secret(), sealer.secret());
    }
    let connect = || {
        let traffic = Arc::clone(&client.traffic);
        let outbound = Outbound::new(Arc::clone(socket), sealer, super_packets, traffic, frame);
        Connected { from, outbound, socket: Arc::clone(socket), key, since: Since::now() }
    };
    // Counted and finished in one, so that handshakes at the same time do not all take the last place.
    let mut connected = locked(&shared.connected);
    if current.is_full_for(&client, *connected) {
        shared.handshakes.refuse(Refusal::Full);
        return STRANGERS.warning("tunnel", "the server is full (max-clients)", &[("client", &client.name)]);
    }
    let Ok((connection, replaced)) = client.finish(number, connect) else {
        shared.handshakes.refuse(Refusal::Superseded);
        let fields: log::Fields = &[("client", &client.name), ("from", &from)];
        return log::warning("tunnel", "a handshake came too late: a newer one has finished", fields);
    };
    let outbound = &connection.outbound;
    *connected += 1;
    notify::status(format_args!("{connected} clients connected"));
    drop(connected);
    shared.handshakes.accept();
    let addresses = listed(&client.addresses);
    log::info(
        "tunnel",
        "client connected",
        &[("client", &client.name), ("from", &from), ("suite", &suite), ("addresses", &addresses)],
    );
    if let Some(old) = replaced {
        old.outbound.close(close::REPLACED, "a newer connection of this client has taken its place");
        log::info("tunnel", "replaced an older connection", &[("client", &client.name), ("old", &old.from)]);
    }
    if shared.stopping.load(Ordering::Acquire) {
        // `stop` may have asked this client for its connection before there was one.
        outbound.close(close::STOPPING, STOPS);
    }
    // So may a reload, in vain.
    let _ = shared.current().judge(&current, &client, &connection);
    let keepalive = Duration::from_secs(current.settings.keepalive.into());
    drop(current);
    let end = receive(shared, &client, outbound, keepalive, reader, &mut opener);
    client.end(outbound);
    if matches!(end, End::Left) {
        drain(socket);
    }
    outbound.abort();
    let mut connected = locked(&shared.connected);
    *connected -= 1;
    notify::status(format_args!("{connected} clients connected"));
    drop(connected);
    shared.fewer_connected.notify_all();
    let fields: log::Fields = &[("client", &client.name), ("from", &from), ("reason", &end)];
    match end {
        End::Closed { .. } | End::Left => log::info("tunnel", "client disconnected", fields),
        _ => log::warning("tunnel", "client lost", fields),
    }
}

fn receive(
    shared: &Arc<Shared>,
    client: &Arc<Client>,
    outbound: &Arc<Outbound>,
    keepalive: Duration,
    reader: &mut FrameReader,
    opener: &mut Opener,
) -> End {
    let mut inside =
        FromClient { shared, current: None, client, outbound, batch: Batch::default(), scratch: Vec::new() };
    connection::run(reader, opener, outbound, Patience { keepalive, tick: keepalive }, &mut inside)
}

/// What a client's records lead to.
struct FromClient<'a> {
    shared: &'a Shared,
    /// The configuration, for what arrives together; an idle connection keeps no old one.
    current: Option<Arc<Current>>,
    client: &'a Client,
    outbound: &'a Arc<Outbound>,
    batch: Batch,
    scratch: Vec<u8>,
}

impl Inside for FromClient<'_> {
    /// Routes a packet: only with the client's own source, and to nobody it may not reach.
    fn parcel(&mut self, parcel: &Checked) {
        let traffic = &self.client.traffic;
        let current = self.current.get_or_insert_with(|| self.shared.current());
        let Ok((source, destination)) = ip::addresses(parcel.packet()) else { return };
        let Current { settings, clients, .. } = &**current;
        if !clients.may_send(self.client, source) {
            return count(&traffic.dropped_source);
        }
        match (&self.shared.device, clients.owner(destination)) {
            // Another client, if they may talk to each other.
            (_, Some(owner)) => match owner.way() {
                Some(to) if settings.client_to_client && owner.name != self.client.name => {
                    self.batch.push(&to, parcel);
                }
                _ => return count(&traffic.dropped_destination),
            },
            // The kernel: the server itself, or a host in the world behind it. Never an address of the tunnel that
            // nobody has, nor one at which whatever listens on this machine would hear it.
            (Some(device), None)
                if current.is_own(destination) || !clients.is_inside(destination) && ip::one_host(destination) =>
            {
                device::deliver(device, parcel, &mut self.scratch);
            }
            // Without a device, the server answers pings itself.
            (None, None) if current.is_own(destination) => {
                answer_echo(parcel, &mut self.scratch, &mut self.batch, self.outbound);
            }
            _ => return count(&traffic.dropped_destination),
        }
        count(&traffic.packets_in);
        traffic.bytes_in.fetch_add(parcel.packet().len() as u64, Ordering::Relaxed);
    }

    fn message(&mut self, text: &str) {
        MESSAGES.info("tunnel", "message", &[("client", &self.client.name), ("text", &text)]);
        let mut answer = format!("Hello, {}! Your {} bytes have arrived: {text}", self.client.name, text.len());
        while answer.len() > MAX_MESSAGE {
            answer.pop();
        }
        self.outbound.send(Kind::Message, answer.as_bytes());
    }

    fn pause(&mut self) {
        self.batch.send_all();
        self.current = None;
    }
}

/// Answers an echo request through `batch`; anything else is lost.
pub(super) fn answer_echo(parcel: &Checked, scratch: &mut Vec<u8>, batch: &mut Batch, peer: &Arc<Outbound>) {
    scratch.clear();
    scratch.extend_from_slice(parcel.packet());
    if icmp::answer_echo(scratch)
        && let Ok(reply) = Offload::default().check(scratch)
    {
        batch.push(peer, &reply);
    }
}

/// Sends a hello: small, into an empty socket.
fn send(socket: &TcpStream, frame: &[u8]) -> io::Result<()> {
    socket.set_write_timeout(Some(Duration::from_secs(1)))?;
    (&*socket).write_all(frame)
}

/// Reads and forgets what a stranger sends, until the deadline, however fast it comes in.
fn keep_silent(socket: &TcpStream, deadline: Instant) {
    let mut forgotten = [0; 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !matches!(socket::wait_readable(socket, left), Ok(true)) {
            return;
        }
        match socket::receive_now(socket, &mut forgotten) {
            Ok(0) => return,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
            _ => {}
        }
    }
}

/// After a Close of ours: reads on for a moment, because closing a socket with unread data resets the connection,
/// and the reset can overtake the Close.
pub(super) fn drain(socket: &TcpStream) {
    keep_silent(socket, Instant::now() + Duration::from_secs(1));
}
