//! How does a client reach its server, and is it the right one? PROTOCOL.md section 4, on the
//! client.

use super::connect::connect;
use super::lookup::{host_and_port, lookup};
use super::state::{Client, ServerAddresses};
use crate::os::lock::about_to_wait;
use crate::os::log;
use crate::os::socket::Tuning;
use crate::protocol::handshake::{Agreed, HandshakeError, client_hello};
use crate::protocol::key_schedule::Id;
use crate::protocol::limits::MAX_HELLO;
use crate::protocol::ratchet::ClientState;
use crate::protocol::record::{Opener, Sealer};
use crate::tunnel::session::congestion;
use crate::tunnel::session::frame_reader::{FrameError, FrameReader};
use crate::tunnel::wire::network_config::NetworkConfig;
use crate::tunnel::{fresh, fresh_hello, offer};
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long an attempt to connect may take.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long the server may take for each of its hellos.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// How long the client tries the known addresses before it looks the name up again.
const NAME_LIFE: Duration = Duration::from_secs(5);

/// What both ends agree on after their hellos.
pub(super) struct Greeting {
    pub(super) agreed: Agreed,
    /// How long the server's answer took.
    pub(super) round_trip: Duration,
    /// The step of the ratcheted key.
    id: Id,
}

/// What a handshake has led to.
pub(super) struct Session {
    pub(super) config: NetworkConfig,
    pub(super) sealer: Sealer,
    pub(super) opener: Opener,
    pub(super) super_packets: bool,
    pub(super) software: String,
    pub(super) round_trip: Duration,
    pub(super) key: Id,
}

impl Client {
    /// Looks the server up, unless its addresses are known.
    ///
    /// # Errors
    /// Fails if the lookup fails.
    pub fn find_server(&self) -> Result<(), String> {
        if !self.server.lock().known.is_empty() {
            return Ok(());
        }
        let known = self.look_up()?;
        *self.server.lock() = ServerAddresses {
            known,
            since: Instant::now(),
        };
        Ok(())
    }

    /// The client asks the machine's own resolver, unless the tunnel or a kill switch is in the
    /// way.
    fn look_up(&self) -> Result<Vec<SocketAddr>, String> {
        let name = &self.settings.server;
        let is_between = self.settings.kill_switch || self.network.lock().is_some();
        match self.mark {
            Some(_) if is_between => lookup(name, self.mark),
            None => lookup(name, None),
            // A kill switch may be on: another client's, or that of a client that was killed.
            Some(_) => {
                lookup(name, None).or_else(|reason| lookup(name, self.mark).map_err(|_| reason))
            }
        }
    }

    /// Connects to the address of the server that answers first. The addresses stay known, for the
    /// case that no resolver answers later.
    pub(super) fn connect(&self) -> Result<TcpStream, String> {
        self.find_server()?;
        let known = self.server.lock().known.clone();
        let tuning = Tuning {
            mark: self.mark,
            ..congestion::tuning()
        };
        let (host, _) = host_and_port(&self.settings.server);
        connect(host, &known, CONNECT_TIME, &tuning).map_err(|error| {
            self.refresh_server();
            format!("{error}{}", advice(error.kind()))
        })
    }

    /// Looks for other addresses because the known ones do not answer.
    pub(super) fn refresh_server(&self) {
        if self.server.lock().since.elapsed() < NAME_LIFE {
            return;
        }
        let found = self.look_up();
        let mut server = self.server.lock();
        server.since = Instant::now();
        match found {
            Ok(found) => server.known = found,
            Err(reason) => {
                let known = server.known.len();
                drop(server);
                log::warning("tunnel", &reason, &[("still trying", &known)]);
            }
        }
    }

    /// Sends ClientHello and reads ServerHello.
    pub(super) fn greet(
        &self,
        socket: &TcpStream,
        reader: &mut FrameReader,
    ) -> Result<Greeting, String> {
        let (root, step) = self.key.lock().current();
        let (frame, await_server_hello) =
            client_hello(&root, step, offer(&self.settings.suites), fresh_hello());
        let asked = Instant::now();
        send(socket, &frame)?;
        let body = reader
            .frame_until(MAX_HELLO, asked + ANSWER_TIME)
            .map_err(|reason| unanswered(&reason))?;
        let round_trip = asked.elapsed();
        let agreed = await_server_hello
            .receive(body)
            .map_err(|reason| match reason {
                HandshakeError::Token(_) => {
                    format!("the answer was not made with this client's key ({reason})")
                }
                _ => reason.to_string(),
            })?;
        Ok(Greeting {
            agreed,
            round_trip,
            id: root.id(),
        })
    }

    /// The whole handshake. It is a function of its own so that its stack can be wiped afterwards.
    #[inline(never)]
    pub(super) fn handshake(
        &self,
        socket: &TcpStream,
        reader: &mut FrameReader,
    ) -> Result<Session, String> {
        let Greeting {
            agreed,
            round_trip,
            id,
        } = self.greet(socket, reader)?;
        let suite = agreed.suite;
        let software = agreed.software.clone();
        let super_packets = agreed.capabilities.super_packets;
        // Finished, Config.
        let keep = |next: &ClientState| self.key.lock().keep(next);
        let advice = "a ratcheted key is not used until its step is stored. \
             Try: free disk space, or allow writing";
        let finished = agreed
            .finish(keep, &mut fresh)
            .map_err(|reason| format!("{reason} ({advice})"));
        let (frame, await_config) = finished?;
        send(socket, &frame)?;
        reader.tune_for_path(&self.settings.congestion, round_trip);
        reader.establish();
        let body = reader
            .frame_until(suite.max_body(), Instant::now() + ANSWER_TIME)
            .map_err(|reason| format!("the server did not finish the handshake: {reason}"))?;
        let (config, sealer, opener) = await_config
            .receive(body)
            .map_err(|reason| reason.to_string())?;
        if let Some(key_log) = &self.key_log {
            key_log.add(&peer(socket), suite, sealer.secret(), opener.secret());
        }
        let config = NetworkConfig::decode(&config)
            .map_err(|reason| format!("the server's configuration makes no sense: {reason}"))?;
        Ok(Session {
            config,
            sealer,
            opener,
            super_packets,
            software,
            round_trip,
            key: id,
        })
    }
}

/// The peer's name, address and software, for the log.
pub(super) fn peer(socket: &TcpStream) -> String {
    socket
        .peer_addr()
        .map_or_else(|_| "the server".into(), |address| address.to_string())
}

fn send(mut socket: &TcpStream, frame: &[u8]) -> Result<(), String> {
    about_to_wait("a hello");
    socket
        .write_all(frame)
        .map_err(|error| format!("cannot send: {error}"))
}

fn advice(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::ConnectionRefused => {
            " (nothing listens there. Try: start the server, or correct the port)"
        }
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => {
            " (this machine has no route there)"
        }
        ErrorKind::TimedOut => " (no such machine, or a firewall in between)",
        ErrorKind::PermissionDenied => {
            " (a firewall on this machine forbids it. If it is a kill switch, try: fernvpn unlock)"
        }
        _ => "",
    }
}

/// The possible reasons why a server connects and does not answer.
fn unanswered(reason: &FrameError) -> String {
    const MEANS: &str = "a server does not answer a key that it does not know (a removed one, \
                         another server's, or an earlier step of a ratcheted one). With \
                         hello-max-age, it does not answer a wrong clock. Or this is no fernvpn \
                         server. The server's log has the reason";
    match reason {
        FrameError::TimedOut => format!(
            "connected, but no answer for {} s: {MEANS}",
            ANSWER_TIME.as_secs()
        ),
        FrameError::BadLength(_) | FrameError::BadPreface(_) => {
            format!("this is not a fernvpn server ({reason})")
        }
        _ => format!("connected, but closed without an answer ({reason}): {MEANS}"),
    }
}
