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
//! | `state` | what do all threads share? |
//! | `lookup` | which addresses has the server? |
//! | `connect` | which of them answers first? |
//! | `handshake` | how is the server reached, and is it the right one? |
//! | `session` | what becomes of the server's packets? |
//! | `tasks` | what does the command line ask for once there is a connection? |

mod connect;
mod handshake;
mod lookup;
mod session;
mod state;
mod tasks;

use crate::config::settings::{ClientSettings, Timeouts};
use crate::os::clock::Moment;
use crate::os::tun::Tun;
use crate::os::{clock, entropy, log, notify, process};
use crate::tunnel::device::{self, LocalStack};
use crate::tunnel::observe::counters::RejectReason;
use crate::tunnel::peers::registry::Connected;
use crate::tunnel::session::dispatch::Batch;
use crate::tunnel::session::frame_reader::FrameReader;
use crate::tunnel::session::receiver::{self, End, close, drain};
use crate::tunnel::session::sender::SessionSender;
use crate::tunnel::wire::network_config::{NetworkConfig, listed};
use handshake::{Session, peer};
use session::FromServer;
pub use state::Client;
use state::{ConnectionState, LEAVES, ServerNetwork};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tasks::print;

/// How often the client looks whether its own address is still the right one.
const PATH_CHECK: Duration = Duration::from_secs(2);
/// The first pause between two attempts. Each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause at first.
const LONGEST_EARLY_PAUSE: Duration = Duration::from_secs(2);
/// For so long after a connection was lost, that one is the longest.
const EARLY: Duration = Duration::from_secs(60);
/// The longest pause after that.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A session that lasted as long as this was a good one.
const HELD: Duration = Duration::from_secs(10);

/// The machine the client runs on: what it does with the network that the server describes.
pub trait Machine: Send {
    /// Sets the network up, or changes it to this. Returns the device, if there is one; it stays
    /// the same. `carrier` is where the connection goes.
    ///
    /// # Errors
    /// A sentence. The client gives up.
    fn set_up(
        &mut self,
        config: &NetworkConfig,
        carrier: SocketAddr,
    ) -> Result<Option<Arc<Tun>>, String>;
}

impl Client {
    /// Asks the server for its hello and goes no further. It proves that the way is free, the
    /// server there and the key known; no session begins and none is replaced, and a ratcheted key
    /// stays where it is. Says what was learnt.
    ///
    /// # Errors
    /// A sentence: whether it is the way, the server or the key, as far as this side can tell.
    pub fn ask(settings: ClientSettings) -> Result<String, String> {
        let name = settings.server.clone();
        let client = Client::that_only_asks(settings)?;
        let socket = client
            .connect()
            .map_err(|reason| format!("there is no way to the server: {reason}"))?;
        let at = peer(&socket);
        let socket = Arc::new(socket);
        let greeting = client
            .greet(&socket, &mut FrameReader::new(Arc::clone(&socket)))
            .map_err(|reason| format!("the way to the server is free, but {at}: {reason}"))?;
        let software = &greeting.agreed.software;
        let suite = greeting.agreed.suite;
        let apart = greeting.agreed.time.abs_diff(clock::unix_seconds());
        let milliseconds = greeting.round_trip.as_secs_f64() * 1e3;
        Ok(format!(
            "{name} is there ({at}, {software}) and knows this key: suite {suite}, \
             round trip {milliseconds:.2} ms, clocks {apart} s apart"
        ))
    }

    /// Connects and stays connected until [`Client::stop`], or until what `once` asks for is done.
    ///
    /// # Errors
    /// A sentence: what made it give up.
    pub fn run(self: &Arc<Client>, machine: &mut dyn Machine) -> Result<(), String> {
        let mut lost_at = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut first = true;
        loop {
            self.heartbeat.beat();
            let began = Instant::now();
            let outcome = self.attempt(machine, &mut first);
            if self.is_stopped() {
                return self.outcome();
            }
            if self.settings.once {
                return Err(match outcome {
                    Ok(end) => format!("the connection was lost: {end}"),
                    Err(reason) => reason,
                });
            }
            let mut at_once = false;
            match outcome {
                Err(reason) => {
                    log::warning("tunnel", "no connection", &[("reason", &reason)]);
                    notify::status(format_args!("no connection: {reason}"));
                    self.lacks_session(reason);
                    notify::tell("READY=1");
                }
                Ok(end) => {
                    let may_at_once = may_come_back_at_once(&end)?;
                    log::warning(
                        "tunnel",
                        "connection lost, connecting again",
                        &[("reason", &end)],
                    );
                    notify::status(format_args!("connection lost: {end}"));
                    self.lacks_session(format!("connection lost: {end}"));
                    // Only a session that held begins the pauses anew: a server that ends each at
                    // once meets growing ones.
                    if began.elapsed() >= HELD {
                        lost_at = Instant::now();
                        pause = FIRST_PAUSE;
                        at_once = may_at_once;
                    }
                }
            }
            if !at_once && self.sleep(jittered(pause)) {
                return self.outcome();
            }
            let longest = if lost_at.elapsed() < EARLY {
                LONGEST_EARLY_PAUSE
            } else {
                LONGEST_PAUSE
            };
            pause = (pause * 2).min(longest);
        }
    }

    /// One connection, from its first packet to its end, or why there was no session.
    fn attempt(
        self: &Arc<Client>,
        machine: &mut dyn Machine,
        first: &mut bool,
    ) -> Result<End, String> {
        let socket = Arc::new(self.connect()?);
        self.set_connection(ConnectionState::Attempt(Arc::clone(&socket)));
        if self.is_stopped() {
            return Err("stopped".into());
        }
        let mut reader = FrameReader::new(Arc::clone(&socket));
        let session = self.handshake(&socket, &mut reader);
        process::wipe_stack();
        // No attempt any more: from here on `stop` must not cut it, but close the session.
        self.set_connection(ConnectionState::None);
        let server = peer(&socket);
        let session = session.map_err(|reason| {
            self.refresh_server(); // the address may be somebody else's by now
            self.handshakes.reject(RejectReason::Incomplete);
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
        let from = socket
            .peer_addr()
            .map_err(|error| format!("{server}: {error}"))?;
        let device = machine
            .set_up(&config, from)
            .inspect_err(|reason| self.fail(reason.clone()))?;
        let traffic = Arc::clone(&self.traffic);
        let sender = SessionSender::new(socket, sealer, super_packets, traffic, Vec::new());
        self.set_connection(ConnectionState::Session(Arc::new(Connected {
            from,
            sender: Arc::clone(&sender),
            key,
            since: Moment::now(),
        })));
        if self.is_stopped() {
            sender.close(close::LEAVING, LEAVES);
        }
        *self.network.lock() = Some(ServerNetwork {
            device: device.as_ref().map(|device| device.name().to_owned()),
            config: config.clone(),
        });
        let addresses = listed(&config.addresses);
        let suite = opener.suite();
        let milliseconds = round_trip.as_secs_f64() * 1e3;
        self.announce(&format!(
            "connected: {addresses} via {server} ({software}), suite {suite}, \
             round trip {milliseconds:.2} ms"
        ));
        if std::mem::take(first) {
            let started = self
                .start_device_reader(&device)
                .and_then(|()| self.start_tasks(&sender, &config));
            if let Err(error) = started {
                self.fail(format!("cannot start a thread: {error}"));
            }
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
            ..self.settings.timeouts
        };
        let end =
            receiver::receive_until_end(&mut reader, &mut opener, &sender, timeouts, &mut handler);
        self.set_connection(ConnectionState::None);
        if matches!(end, End::Left) {
            drain(&sender.socket);
        }
        sender.abort();
        Ok(end)
    }

    /// Says that there is a session: to systemd, and to whoever started this.
    fn announce(&self, connected: &str) {
        notify::status(connected);
        notify::tell("READY=1");
        // Where a command runs, stdout is that command's.
        if self.settings.command.is_empty() {
            print(connected);
        } else {
            log::say(connected);
        }
    }

    /// Starts the thread that reads the device. It goes on through all connections.
    fn start_device_reader(self: &Arc<Client>, device: &Option<Arc<Tun>>) -> io::Result<()> {
        let Some(device) = device.clone() else {
            return Ok(());
        };
        let client = Arc::clone(self);
        thread::Builder::new()
            .name("device".into())
            .spawn(move || client.run_device_reader(&device))
            .map(drop)
    }

    /// The life of that thread.
    fn run_device_reader(&self, device: &Tun) {
        if let Err(reason) = device::run_device_reader(device, &self.wake, self) {
            self.fail(reason);
        }
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

/// Between half of `pause` and all of it, so that a thousand clients do not come back in the same
/// moment.
fn jittered(pause: Duration) -> Duration {
    let random = u32::from(u16::from_be_bytes(entropy::array()));
    pause / 2 + pause * random / 65_536 / 2
}
