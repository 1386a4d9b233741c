//! How does a client stay connected?
//!
//! ```text
//!  ┌─> connect ─> ClientHello ─> ServerHello? ─> Finished ─> Config? ─> set up ─> records ─┐
//!  └── pause, longer each time ─── anything fails, or the connection ends ─────────────────┘
//! ```
//!
//! The device and its addresses stay while the connection comes and goes, so connections inside the
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
use crate::tunnel::session::buffers;
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

/// How often the client checks whether its own address is still the right one.
const PATH_CHECK: Duration = Duration::from_secs(2);
/// The first pause between two attempts. Each later pause is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause soon after a connection was lost.
const LONGEST_EARLY_PAUSE: Duration = Duration::from_secs(2);
/// How long after a lost connection `SOON` limits the pauses.
const EARLY: Duration = Duration::from_secs(60);
/// The longest pause later.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A session that lasts this long resets the pauses.
const HELD: Duration = Duration::from_secs(10);

/// The machine on which the client runs. It sets up the network that the server describes.
pub trait Machine: Send {
    /// Sets the network up, or changes an earlier one to this. `carrier` has both ends of the
    /// connection. Returns the device, if there is one. It stays the same for all calls.
    ///
    /// # Errors
    /// Fails if a command fails that the tunnel needs. The client gives up then.
    fn set_up(
        &mut self,
        config: &NetworkConfig,
        carrier: SocketAddr,
    ) -> Result<Option<Arc<Tun>>, String>;
}

impl Client {
    /// Asks the server for its hello, and goes no further. An answer proves that the server can be
    /// reached and knows the key. No session begins or is replaced, and a ratcheted key makes no
    /// step. Returns sentences about the server.
    ///
    /// # Errors
    /// Fails if the path, the server or the key is wrong. It says which, as far as it can
    /// tell.
    pub fn ask(settings: ClientSettings) -> Result<String, String> {
        let name = settings.server.clone();
        let client = Client::that_only_asks(settings)?;
        let socket = client
            .connect()
            .map_err(|reason| format!("the server cannot be reached: {reason}"))?;
        let at = peer(&socket);
        let socket = Arc::new(socket);
        let greeting = client
            .greet(&socket, &mut FrameReader::new(Arc::clone(&socket)))
            .map_err(|reason| format!("the server can be reached, but {at}: {reason}"))?;
        let software = &greeting.agreed.software;
        let suite = greeting.agreed.suite;
        let apart = greeting.agreed.time.abs_diff(clock::unix_seconds());
        let milliseconds = greeting.round_trip.as_secs_f64() * 1e3;
        Ok(format!(
            "{name} is there ({at}, {software}) and knows this key: suite {suite}, \
             round trip {milliseconds:.2} ms, clocks {apart} s apart"
        ))
    }

    /// Connects, and stays connected until [`Client::stop`] or until the tasks of `once` are done.
    ///
    /// # Errors
    /// Fails if the client had to give up. Says why.
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
                    // Only a session that lasted resets the pauses. If a server ends each session
                    // at once, they grow.
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

    /// Runs one connection, from its first packet to its end. Returns why there was no session.
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
        // The attempt is over. From here on, `stop` must close the session and not cut the
        // connection.
        self.set_connection(ConnectionState::None);
        let server = peer(&socket);
        let session = session.map_err(|reason| {
            self.refresh_server(); // the address may belong to another machine by now
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
        self.report_overlaps(&sender, &config);
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
        buffers::wipe();
        Ok(end)
    }

    /// Tells systemd and the user that there is a session.
    fn announce(&self, connected: &str) {
        notify::status(connected);
        notify::tell("READY=1");
        // If a command runs inside the tunnel, stdout belongs to that command.
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

    /// The body of that thread.
    fn run_device_reader(&self, device: &Tun) {
        if let Err(reason) = device::run_device_reader(device, &self.wake, self) {
            self.fail(reason);
        }
    }
}

/// Whether a client may connect again without a pause after this end. PROTOCOL.md section 6.2.
///
/// # Errors
/// Why the client may not connect again at all, if so.
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

/// A random time between half of `pause` and all of it, so that a thousand clients do not come back
/// at once.
fn jittered(pause: Duration) -> Duration {
    let random = u32::from(u16::from_be_bytes(entropy::array()));
    pause / 2 + pause * random / 65_536 / 2
}
