//! Who is let in? PROTOCOL.md section 4, on the server.
//!
//! The server tells a stranger nothing. Whatever is wrong, the connection stays open and silent
//! until the deadline. So nobody can tell from outside which step refused it.

use super::active_config::ActiveConfig;
use super::session::{Authenticated, run_session};
use super::state::{REFUSED_HANDSHAKES, Shared};
use crate::fernet::{self, Age};
use crate::os::lock::about_to_wait;
use crate::os::log::{self, RateLimitedLog};
use crate::os::{clock, process, socket};
use crate::protocol::frame;
use crate::protocol::handshake::{AwaitFinished, ClientHello, HandshakeError, client_id};
use crate::protocol::key_schedule::{Id, Root};
use crate::protocol::limits::MAX_HELLO;
use crate::tunnel::observe::counters::RejectReason;
use crate::tunnel::peers::registry::Client;
use crate::tunnel::session::congestion;
use crate::tunnel::session::frame_reader::{FrameError, FrameReader};
use crate::tunnel::session::receiver::discard_until;
use crate::tunnel::wire::proxy_header::{self, Origin};
use crate::tunnel::{fresh, fresh_hello};
use std::fmt::Display;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The time from accept to Finished.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How long the server may take to write a hello into its empty socket.
const HELLO_WRITE_TIME: Duration = Duration::from_secs(1);
/// If a client's clock differs by more seconds than this, the log has a line about it.
const CLOCK_DIFFERENCE: u64 = 300;

static CLOCKS: RateLimitedLog = RateLimitedLog::new(10, Duration::from_secs(10));

/// What happens to a connection whose handshake was refused.
enum AfterRefusal {
    /// It stays open and silent until the deadline.
    HoldOpen,
    /// It ends at once: it has failed by itself, or its peer has a key and was told the reason.
    Close,
}

/// A connection that has not authenticated.
struct PendingConnection<'a> {
    shared: &'a Shared,
    socket: Arc<TcpStream>,
    from: SocketAddr,
    deadline: Instant,
}

/// An authentic ClientHello that nobody has answered before.
struct Greeted {
    client: Arc<Client>,
    id: Id,
    number: u64,
    hello: ClientHello,
}

/// A client whose hello was answered.
struct Answered {
    client: Arc<Client>,
    id: Id,
    number: u64,
    await_finished: AwaitFinished,
    /// The step of a ratcheted key.
    step: Option<u64>,
    at: Instant,
}

/// Serves one connection. It is a function of its own so that its stack can be wiped afterwards.
#[inline(never)]
pub(super) fn serve(shared: &Shared, socket: TcpStream, from: SocketAddr) {
    let socket = Arc::new(socket);
    // On `[::]`, IPv4 addresses arrive as IPv6 addresses that contain them. The log shows the IPv4
    // form.
    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
    if shared.admission.enter(&socket) {
        shared.handshakes.reject(RejectReason::Crowded);
        REFUSED_HANDSHAKES.warning(
            "tunnel",
            "too many unauthenticated connections, a random one was ended",
            &[],
        );
    }
    if shared.stopping.load(Ordering::Acquire) {
        // It came too late to be ended with the others.
        return shared.admission.leave(&socket);
    }
    let mut reader = FrameReader::new(Arc::clone(&socket));
    let mut pending = PendingConnection {
        shared,
        socket,
        from,
        deadline: Instant::now() + HANDSHAKE_TIME,
    };
    let outcome = pending.authenticate(&mut reader);
    if let Err(AfterRefusal::HoldOpen) = outcome {
        discard_until(&pending.socket, pending.deadline);
    }
    shared.admission.leave(&pending.socket);
    if let Ok(authenticated) = outcome {
        reader.establish();
        process::wipe_stack();
        run_session(shared, authenticated, &pending.socket, &mut reader);
    }
}

impl PendingConnection<'_> {
    /// The whole handshake.
    #[inline(never)] // the same
    fn authenticate(&mut self, reader: &mut FrameReader) -> Result<Authenticated, AfterRefusal> {
        self.find_origin(&self.shared.active(), reader)?;
        let active = self.shared.active();
        socket::prepare(&self.socket, &congestion::tuning()).map_err(|_| AfterRefusal::Close)?;
        let greeted = self.receive_hello(&active, reader)?;
        let answered = self.answer_hello(&active, greeted)?;
        self.receive_finished(active, answered, reader)
    }

    /// Where the client really is. A load balancer sends this first.
    fn find_origin(
        &mut self,
        active: &ActiveConfig,
        reader: &mut FrameReader,
    ) -> Result<(), AfterRefusal> {
        let balancers = &active.settings.balancers;
        if !balancers.iter().any(|own| own.contains(self.from.ip())) {
            return Ok(());
        }
        reader
            .data_until(self.deadline)
            .map_err(|reason| self.no_client(&reason))?;
        match reader.preface_until(proxy_header::header, self.deadline) {
            Ok(Origin::Client(origin)) => self.from = origin,
            Ok(Origin::Unknown) => {}
            Ok(Origin::Balancer) => reader
                .data_until(self.deadline)
                .map_err(|reason| self.no_client(&reason))?,
            Err(reason) => return Err(self.no_frame(&reason)),
        }
        Ok(())
    }

    /// Reads ClientHello: checks the id, then the token, then whether it is new.
    fn receive_hello(
        &self,
        active: &ActiveConfig,
        reader: &mut FrameReader,
    ) -> Result<Greeted, AfterRefusal> {
        let body = reader
            .frame_until(MAX_HELLO, self.deadline)
            .map_err(|reason| self.no_frame(&reason))?;
        let Some(id) = client_id(body) else {
            return Err(self.refuse(RejectReason::NoHello, &HandshakeError::Length(body.len())));
        };
        let (client, root) = self.find_client(active, &id)?;
        let now = clock::unix_seconds();
        let age = active.settings.hello_max_age.map(|ttl| Age { now, ttl });
        let hello = ClientHello::receive(&root, body, age).map_err(|reason| {
            let advice = match reason {
                HandshakeError::Token(fernet::TokenError::Expired | fernet::TokenError::Future) => {
                    " (see hello-max-age, and the clocks of both sides: timedatectl)"
                }
                _ => "",
            };
            let reason = format_args!("{reason}{advice}");
            self.refuse_client(&client, RejectReason::Hello, &reason)
        })?;
        let Some(number) = client.begin(&hello.nonce) else {
            let reason = "this hello was answered before: a replay";
            return Err(self.refuse_client(&client, RejectReason::Replay, &reason));
        };
        if hello.time.abs_diff(now) > CLOCK_DIFFERENCE {
            let theirs = clock::utc(hello.time);
            CLOCKS.warning(
                "tunnel",
                "clocks differ (which does no harm)",
                &[("client", &client.name), ("theirs", &theirs)],
            );
        }
        Ok(Greeted {
            client,
            id,
            number,
            hello,
        })
    }

    /// The client that an id names, and its key.
    fn find_client(
        &self,
        active: &ActiveConfig,
        id: &Id,
    ) -> Result<(Arc<Client>, Root), AfterRefusal> {
        match active.clients.by_id(id) {
            Some((client, Some(root))) => Ok((client, root)),
            Some((client, None)) => {
                let reason = "an earlier step of its ratcheted key: a recording, or a copy or \
                              backup in use (fernvpn reset-client)";
                Err(self.refuse_client(&client, RejectReason::EarlierStep, &reason))
            }
            None => {
                let reason = "no client has this key: it was removed, or belongs to another \
                              server, or this is no fernvpn client";
                Err(self.refuse(RejectReason::UnknownKey, &reason))
            }
        }
    }

    /// Sends ServerHello, or the reason for a refusal to a client that has the key.
    fn answer_hello(
        &self,
        active: &ActiveConfig,
        greeted: Greeted,
    ) -> Result<Answered, AfterRefusal> {
        let Greeted {
            client,
            id,
            number,
            hello,
        } = greeted;
        if self.shared.is_full_for(active, &client) {
            let _ = self.send(&hello.refuse("the server is full", fresh()));
            let reason = "the server is full (max-clients)";
            let _ = self.refuse_client(&client, RejectReason::Full, &reason);
            return Err(AfterRefusal::Close);
        }
        let ratchet = match active.clients.sync_ratchet(&client, id) {
            Ok(ratchet) => ratchet,
            Err(reason) => {
                let told = "the server cannot keep the ratcheted key's step";
                let _ = self.send(&hello.refuse(told, fresh()));
                return Err(self.not_kept(&client, &reason));
            }
        };
        let (frame, answer) = hello.answer(&active.offer, ratchet.as_ref(), fresh_hello());
        let at = Instant::now();
        self.send(&frame)
            .map_err(|_| self.incomplete(&"cannot answer"))?;
        match answer {
            Ok(await_finished) => Ok(Answered {
                client,
                id,
                number,
                await_finished,
                step: ratchet.map(|state| state.step),
                at,
            }),
            Err(reason) => {
                let _ = self.refuse_client(&client, RejectReason::Agreement, &reason);
                Err(AfterRefusal::Close)
            }
        }
    }

    /// Reads Finished, which proves that the client is there now.
    fn receive_finished(
        &self,
        active: Arc<ActiveConfig>,
        answered: Answered,
        reader: &mut FrameReader,
    ) -> Result<Authenticated, AfterRefusal> {
        let Answered {
            client,
            id,
            number,
            await_finished,
            step,
            at,
        } = answered;
        let limit = await_finished.suite.frame_len(0) - frame::HEADER;
        let body = reader
            .frame_until(limit, self.deadline)
            .map_err(|reason| self.no_frame(&reason))?;
        let round_trip = at.elapsed();
        let super_packets = await_finished.capabilities.super_packets;
        let ready = await_finished
            .receive(body)
            .map_err(|reason| self.refuse_client(&client, RejectReason::Finished, &reason))?;
        active
            .clients
            .advance_ratchet(&client, step)
            .map_err(|reason| self.not_kept(&client, &reason))?;
        reader.tune_for_path(&active.settings.congestion, round_trip);
        Ok(Authenticated {
            active,
            client,
            from: self.from,
            key: id,
            number,
            ready,
            super_packets,
        })
    }

    /// Sends a hello, which is small, into an empty socket.
    fn send(&self, frame: &[u8]) -> io::Result<()> {
        about_to_wait("a hello");
        self.socket.set_write_timeout(Some(HELLO_WRITE_TIME))?;
        (&*self.socket).write_all(frame)
    }

    /// Logs that a stranger's bytes are no handshake. Strangers may try at will, so these lines are
    /// limited.
    fn refuse(&self, refusal: RejectReason, reason: &dyn Display) -> AfterRefusal {
        self.shared.handshakes.reject(refusal);
        REFUSED_HANDSHAKES.warning(
            "tunnel",
            "handshake refused",
            &[("from", &self.from), ("reason", reason)],
        );
        AfterRefusal::HoldOpen
    }

    /// The same for a hello that names a client.
    fn refuse_client(
        &self,
        client: &Client,
        refusal: RejectReason,
        reason: &dyn Display,
    ) -> AfterRefusal {
        self.refuse(refusal, &format_args!("client {}: {reason}", client.name))
    }

    /// A balancer that hangs up before it names a client has only checked that the server is there.
    /// That is no handshake, and is not counted as one.
    fn no_client(&self, reason: &FrameError) -> AfterRefusal {
        match reason {
            FrameError::End | FrameError::Failed(_) => {
                log::debug("tunnel", "health check", &[("from", &self.from)]);
                AfterRefusal::Close
            }
            _ => self.no_frame(reason),
        }
    }

    fn no_frame(&self, reason: &FrameError) -> AfterRefusal {
        match reason {
            FrameError::BadLength(_) | FrameError::BadPreface(_) => self.refuse(
                RejectReason::NoHello,
                &format_args!("not a hello: {reason}"),
            ),
            _ => self.incomplete(reason),
        }
    }

    fn incomplete(&self, reason: &dyn Display) -> AfterRefusal {
        self.shared.handshakes.reject(RejectReason::Incomplete);
        log::debug(
            "tunnel",
            "no handshake",
            &[("from", &self.from), ("reason", reason)],
        );
        AfterRefusal::Close
    }

    /// Without a stored step there is no session: better none than one that is not ratcheted.
    fn not_kept(&self, client: &Client, reason: &dyn Display) -> AfterRefusal {
        self.shared.handshakes.reject(RejectReason::State);
        log::error(
            "tunnel",
            "handshake refused",
            &[("client", &client.name), ("reason", reason)],
        );
        AfterRefusal::Close
    }
}
