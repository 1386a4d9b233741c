//! The end that listens: one thread accepts, one per connection reads, one reads the device.
//!
//! ```text
//!  accept ─> thread: ClientHello? ─ no ─> silence until the deadline
//!                    └ ServerHello ─> Finished? ─> the client's connection from now on, Config ─> records
//! ```

use super::admission::{Admission, PLACES};
use super::batch::Batch;
use super::carrier::{self, FrameReader, NoFrame};
use super::clients::{Client, Clients, Connected};
use super::config_record::{NetworkConfig, listed};
use super::connection::{self, End, Inside, MAX_MESSAGE, Patience, close};
use super::key_log::KeyLog;
use super::outbound::{Outbound, count};
use super::{device, fresh, fresh_hello, locked};
use crate::config::settings::ServerSettings;
use crate::fernet::Age;
use crate::os::clock;
use crate::os::log::{self, Seldom};
use crate::os::signal::{self, Signal};
use crate::os::socket;
use crate::os::tun::Tun;
use crate::os::wake::Wake;
use crate::packet::offload::{Checked, Offload};
use crate::packet::{icmp, ip};
use crate::protocol::handshake::{Capabilities, ClientHello, Offer, Ready, Refused, client_id};
use crate::protocol::limits::{MAX_CONTENT, MAX_HELLO};
use crate::protocol::record::{Kind, Opener};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
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
    settings: ServerSettings,
    clients: Clients,
    device: Option<Tun>,
    admission: Admission,
    offer: Offer,
    key_log: Option<KeyLog>,
    connected: Mutex<usize>,
    fewer_connected: Condvar,
    stopping: AtomicBool,
    failure: Mutex<Option<String>>,
}

impl Server {
    /// Starts to serve on `listeners`, with packets to and from `device` if there is one.
    ///
    /// # Errors
    /// A sentence: a configuration that contradicts itself, or a thread or descriptor that cannot be had.
    pub fn start(settings: ServerSettings, listeners: Vec<TcpListener>, device: Option<Tun>) -> Result<Server, String> {
        let clients = Clients::new(&settings)?;
        clients.open_states(&settings)?;
        let key_log = KeyLog::open(settings.keylog.as_deref()).map_err(|error| error.to_string())?;
        let offer = Offer {
            suites: settings.suites.clone(),
            capabilities: Capabilities { super_packets: true },
            software: super::SOFTWARE.into(),
        };
        let shared = Arc::new(Shared {
            settings,
            clients,
            device,
            admission: Admission::new(PLACES),
            offer,
            key_log,
            connected: Mutex::new(0),
            fewer_connected: Condvar::new(),
            stopping: AtomicBool::new(false),
            failure: Mutex::default(),
        });
        for client in shared.clients.all() {
            // Otherwise every client would refuse it, each time it connects.
            let config = shared.config_for(client).encode();
            if config.len() > MAX_CONTENT || NetworkConfig::decode(&config).is_err() {
                return Err("too many routes or resolvers to push: at most 1000 of each, and 64 KiB in all".into());
            }
        }
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

    /// The clients.
    pub fn clients(&self) -> &Clients {
        &self.shared.clients
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
        for client in self.shared.clients.all() {
            if let Some(connection) = client.connection() {
                connection.outbound.close(close::STOPPING, STOPS);
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

impl Shared {
    /// The way to the client that has this address, if it is connected.
    fn way_to(&self, destination: IpAddr) -> Option<Arc<Outbound>> {
        self.clients.owner(destination)?.connection().map(|connection| connection.outbound)
    }

    /// Whether one more is too many. Who is connected already only changes its connection.
    fn is_full_for(&self, client: &Client, connected: usize) -> bool {
        connected >= self.settings.max_clients && client.connection().is_none()
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.settings.addresses.iter().any(|own| own.address == address)
    }
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    loop {
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
        STRANGERS.warning("tunnel", "too many unauthenticated connections, a random one was ended", &[]);
    }
    if shared.stopping.load(Ordering::Acquire) {
        return shared.admission.leave(&socket); // it came in too late to be ended with the others
    }
    let mut reader = FrameReader::new(Arc::clone(&socket));
    let deadline = Instant::now() + HANDSHAKE_TIME;
    let outcome = handshake(shared, &socket, from, &mut reader, deadline);
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
    client: Arc<Client>,
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

fn handshake(
    shared: &Shared,
    socket: &Arc<TcpStream>,
    from: SocketAddr,
    reader: &mut FrameReader,
    deadline: Instant,
) -> Result<Authenticated, Silence> {
    socket::prepare(socket, &carrier::tuning()).map_err(|_| Silence::End)?;
    let refuse = |reason: &dyn std::fmt::Display| {
        STRANGERS.warning("tunnel", "handshake refused", &[("from", &from), ("reason", reason)]);
        Silence::Keep
    };
    let no_frame = |reason: NoFrame| match reason {
        NoFrame::BadLength(_) => refuse(&format_args!("not a hello: {reason}")),
        _ => {
            log::debug("tunnel", "no handshake", &[("from", &from), ("reason", &reason)]);
            Silence::End
        }
    };

    // ClientHello: the id, then the token, then whether it is new.
    let body = reader.frame_until(MAX_HELLO, deadline).map_err(no_frame)?;
    let id = client_id(body).ok_or_else(|| refuse(&Refused::Length(body.len())))?;
    let (client, root) = shared.clients.by_id(&id).ok_or_else(|| {
        refuse(&"no client has this key: it was removed, or belongs to another server, or this is no fernvpn client")
    })?;
    let named = |reason: &dyn std::fmt::Display| refuse(&format_args!("client {}: {reason}", client.name));
    let root = root.ok_or_else(|| {
        named(&"an earlier step of its ratcheted key: a recording, or a copy or backup in use (fernvpn reset-client)")
    })?;
    let now = clock::unix_seconds();
    let age = shared.settings.hello_max_age.map(|ttl| Age { now, ttl });
    let hello = ClientHello::receive(&root, body, age).map_err(|reason| named(&reason))?;
    let number = client.begin(&hello.nonce).ok_or_else(|| named(&"this hello was answered before: a replay"))?;
    if hello.time.abs_diff(now) > CLOCK_DIFFERENCE {
        let (client, theirs) = (&client.name, clock::utc(hello.time));
        CLOCKS.warning("tunnel", "clocks differ (which does no harm)", &[("client", client), ("theirs", &theirs)]);
    }

    // ServerHello, or a reason for one who has the key.
    if shared.is_full_for(&client, *locked(&shared.connected)) {
        let _ = send(socket, &hello.refuse("the server is full", fresh()));
        let _ = named(&"the server is full (max-clients)");
        return Err(Silence::End);
    }
    let ratchet = match shared.clients.meet(&client, id) {
        Ok(ratchet) => ratchet,
        Err(reason) => {
            let _ = send(socket, &hello.refuse("the server cannot keep the ratcheted key's step", fresh()));
            return Err(not_kept(&client, &reason));
        }
    };
    let (frame, answer) = hello.answer(&shared.offer, ratchet.as_ref(), fresh_hello());
    let answered = Instant::now();
    send(socket, &frame).map_err(|_| Silence::End)?;
    let await_finished = answer.map_err(|reason| {
        let _ = named(&reason);
        Silence::End
    })?;

    // Finished.
    let limit = await_finished.suite.frame_len(0);
    let body = reader.frame_until(limit, deadline).map_err(no_frame)?;
    let round_trip = answered.elapsed();
    let super_packets = await_finished.capabilities.super_packets;
    let ready = await_finished.receive(body).map_err(|reason| named(&reason))?;
    let step = ratchet.map(|state| state.step);
    shared.clients.finish(&client, step).map_err(|reason| not_kept(&client, &reason))?;
    carrier::suit(socket, &shared.settings.congestion, round_trip);
    Ok(Authenticated { client, number, ready, super_packets })
}

/// Without a durable step there is no session: better none than one that is not ratcheted.
fn not_kept(client: &Client, reason: &dyn std::fmt::Display) -> Silence {
    log::error("tunnel", "handshake refused", &[("client", &client.name), ("reason", reason)]);
    Silence::End
}

/// A session from Finished to its end.
fn session(
    shared: &Arc<Shared>,
    Authenticated { client, number, ready, super_packets }: Authenticated,
    from: SocketAddr,
    socket: &Arc<TcpStream>,
    reader: &mut FrameReader,
) {
    let config = shared.config_for(&client).encode();
    let Ok((frame, sealer, mut opener)) = ready.configure(&config, &mut fresh) else {
        return log::error("tunnel", "too many routes for one Config", &[("client", &client.name)]);
    };
    let suite = sealer.suite();
    if let Some(key_log) = &shared.key_log {
        key_log.add(&client.name, suite, opener.secret(), sealer.secret());
    }
    let connect = || {
        let traffic = Arc::clone(&client.traffic);
        Connected { from, outbound: Outbound::new(Arc::clone(socket), sealer, super_packets, traffic, frame) }
    };
    // Counted and finished in one, so that handshakes at the same time do not all take the last place.
    let mut connected = locked(&shared.connected);
    if shared.is_full_for(&client, *connected) {
        return STRANGERS.warning("tunnel", "the server is full (max-clients)", &[("client", &client.name)]);
    }
    let Ok((Connected { outbound, .. }, replaced)) = client.finish(number, connect) else {
        let fields: log::Fields = &[("client", &client.name), ("from", &from)];
        return log::warning("tunnel", "a handshake came too late: a newer one has finished", fields);
    };
    *connected += 1;
    drop(connected);
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
    let end = receive(shared, &client, &outbound, reader, &mut opener);
    client.end(&outbound);
    if matches!(end, End::Left) {
        drain(socket);
    }
    outbound.abort();
    *locked(&shared.connected) -= 1;
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
    reader: &mut FrameReader,
    opener: &mut Opener,
) -> End {
    let keepalive = Duration::from_secs(shared.settings.keepalive.into());
    let mut inside = FromClient { shared, client, outbound, batch: Batch::new(), scratch: Vec::new() };
    connection::run(reader, opener, outbound, Patience { keepalive, tick: keepalive }, &mut inside)
}

impl Shared {
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
}

/// What a client's records lead to.
struct FromClient<'a> {
    shared: &'a Shared,
    client: &'a Client,
    outbound: &'a Arc<Outbound>,
    batch: Batch,
    scratch: Vec<u8>,
}

impl Inside for FromClient<'_> {
    /// Routes a packet: only with the client's own source, and to nobody it may not reach.
    fn parcel(&mut self, parcel: &Checked) {
        let traffic = &self.client.traffic;
        let Ok((source, destination)) = ip::addresses(parcel.packet()) else { return };
        if !self.shared.clients.may_send(self.client, source) {
            return count(&traffic.dropped_source);
        }
        count(&traffic.packets_in);
        traffic.bytes_in.fetch_add(parcel.packet().len() as u64, Ordering::Relaxed);
        let shared = self.shared;
        match (&shared.device, shared.clients.owner(destination)) {
            // Another client, if they may talk to each other.
            (_, Some(owner)) => match owner.connection() {
                Some(to) if shared.settings.client_to_client && owner.name != self.client.name => {
                    self.batch.push(&to.outbound, parcel);
                }
                _ => count(&traffic.dropped_destination),
            },
            // The kernel: the server itself, or a host in the world behind it. Never an address of the tunnel that
            // nobody has, nor one at which whatever listens on this machine would hear it.
            (Some(device), None)
                if shared.is_own(destination)
                    || !shared.clients.is_inside(destination) && ip::one_host(destination) =>
            {
                device::deliver(device, parcel, &mut self.scratch);
            }
            // Without a device, the server answers pings itself.
            (None, None) if shared.is_own(destination) => {
                answer_echo(parcel, &mut self.scratch, &mut self.batch, self.outbound);
            }
            _ => count(&traffic.dropped_destination),
        }
    }

    fn message(&mut self, text: &str) {
        MESSAGES.info("tunnel", "message", &[("client", &self.client.name), ("text", &text)]);
        let mut answer = format!("Hello, {}! Your {} bytes have arrived: {text}", self.client.name, text.len());
        while answer.len() > MAX_MESSAGE {
            answer.pop();
        }
        self.outbound.send_content(Kind::Message, answer.as_bytes());
    }

    fn pause(&mut self) {
        self.batch.rest();
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
