//! Who is let in? PROTOCOL.md section 4, on the server.
//!
//! A stranger is told nothing. Whatever is wrong, the connection stays open and silent until the
//! deadline, so that nobody can tell from outside which step refused it.

use super::session::{Authenticated, session};
use super::{HANDSHAKE_TIME, REFUSED_HANDSHAKES, Shared};
use crate::fernet::{self, Age};
use crate::os::log::{self, RateLimitedLog};
use crate::os::{clock, process, socket};
use crate::protocol::handshake::{ClientHello, HandshakeError, client_id};
use crate::protocol::limits::MAX_HELLO;
use crate::tunnel::observe::status::RejectReason;
use crate::tunnel::peers::registry::Client;
use crate::tunnel::session::frame_reader::{self, FrameReader, NoFrame};
use crate::tunnel::session::receiver::discard_until;
use crate::tunnel::wire::proxy_header;
use crate::tunnel::{fresh, fresh_hello, locked};
use std::fmt::Display;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A client's clock that differs by more than this is worth a line in the log.
const CLOCK_DIFFERENCE: u64 = 300;

static CLOCKS: RateLimitedLog = RateLimitedLog::new(10, Duration::from_secs(10));

/// How a connection ends that has not authenticated.
enum AfterRefusal {
    /// It stays open until the deadline.
    Keep,
    /// It has ended by itself, or was told a reason because it has a key.
    End,
}

/// A connection that has not authenticated.
struct PendingConnection<'a> {
    shared: &'a Shared,
    socket: Arc<TcpStream>,
    from: SocketAddr,
    deadline: Instant,
}

/// The life of one connection. What it leaves on the stack can be wiped behind it.
#[inline(never)]
pub(super) fn serve(shared: &Shared, socket: TcpStream, from: SocketAddr) {
    let socket = Arc::new(socket);
    let from = SocketAddr::new(from.ip().to_canonical(), from.port()); // on `[::]`, IPv4 in the form people know
    if shared.admission.enter(&socket) {
        shared.handshakes.refuse(RejectReason::Crowded);
        REFUSED_HANDSHAKES.warning(
            "tunnel",
            "too many unauthenticated connections, a random one was ended",
            &[],
        );
    }
    if shared.stopping.load(Ordering::Acquire) {
        return shared.admission.leave(&socket); // it came in too late to be ended with the others
    }
    let mut reader = FrameReader::new(Arc::clone(&socket));
    let mut stranger = PendingConnection {
        shared,
        socket,
        from,
        deadline: Instant::now() + HANDSHAKE_TIME,
    };
    let outcome = stranger
        .find_origin(&mut reader)
        .and_then(|()| stranger.handshake(&mut reader));
    if let Err(AfterRefusal::Keep) = outcome {
        discard_until(&stranger.socket, stranger.deadline);
    }
    shared.admission.leave(&stranger.socket);
    if let Ok(authenticated) = outcome {
        reader.establish();
        process::wipe_stack();
        session(
            shared,
            authenticated,
            stranger.from,
            &stranger.socket,
            &mut reader,
        );
    }
}

impl PendingConnection<'_> {
    /// Where it really comes from: a load balancer says whom it speaks for, before anything else.
    fn find_origin(&mut self, reader: &mut FrameReader) -> Result<(), AfterRefusal> {
        if self
            .shared
            .current()
            .settings
            .balancers
            .iter()
            .any(|network| network.contains(self.from.ip()))
        {
            let told = reader.preface_until(proxy_header::header, self.deadline);
            self.from = told
                .map_err(|reason| self.no_frame(&reason))?
                .unwrap_or(self.from);
        }
        Ok(())
    }

    #[inline(never)] // the same
    fn handshake(&self, reader: &mut FrameReader) -> Result<Authenticated, AfterRefusal> {
        let shared = self.shared;
        let current = shared.current();
        socket::prepare(&self.socket, &frame_reader::tuning()).map_err(|_| AfterRefusal::End)?;

        // ClientHello: the id, then the token, then whether it is new.
        let body = reader
            .frame_until(MAX_HELLO, self.deadline)
            .map_err(|reason| self.no_frame(&reason))?;
        let id = client_id(body).ok_or_else(|| {
            self.refuse(RejectReason::NoHello, &HandshakeError::Length(body.len()))
        })?;
        let (client, root) = current.clients.by_id(&id).ok_or_else(|| {
            let reason =
                "no client has this key: it was removed, or belongs to another server, or this is no fernvpn client";
            self.refuse(RejectReason::UnknownKey, &reason)
        })?;
        let named = |refusal, why: &dyn Display| {
            self.refuse(refusal, &format_args!("client {}: {why}", client.name))
        };
        let root = root.ok_or_else(|| {
            let reason =
                "an earlier step of its ratcheted key: a recording, or a copy or backup in use (fernvpn reset-client)";
            named(RejectReason::EarlierStep, &reason)
        })?;
        let now = clock::unix_seconds();
        let age = current.settings.hello_max_age.map(|ttl| Age { now, ttl });
        let hello = ClientHello::receive(&root, body, age).map_err(|reason| {
            let of_time = matches!(
                reason,
                HandshakeError::Token(fernet::TokenError::Expired | fernet::TokenError::Future)
            );
            let advice = if of_time {
                " (see hello-max-age, and the clocks of both sides: timedatectl)"
            } else {
                ""
            };
            named(RejectReason::Hello, &format_args!("{reason}{advice}"))
        })?;
        let number = client.begin(&hello.nonce).ok_or_else(|| {
            named(
                RejectReason::Replay,
                &"this hello was answered before: a replay",
            )
        })?;
        if hello.time.abs_diff(now) > CLOCK_DIFFERENCE {
            let (client, theirs) = (&client.name, clock::utc(hello.time));
            CLOCKS.warning(
                "tunnel",
                "clocks differ (which does no harm)",
                &[("client", client), ("theirs", &theirs)],
            );
        }

        // ServerHello, or a reason for one who has the key.
        if current.is_full_for(&client, *locked(&shared.connected)) {
            let _ = self.send(&hello.refuse("the server is full", fresh()));
            let _ = named(RejectReason::Full, &"the server is full (max-clients)");
            return Err(AfterRefusal::End);
        }
        let ratchet = match current.clients.sync_ratchet(&client, id) {
            Ok(ratchet) => ratchet,
            Err(reason) => {
                let _ = self.send(
                    &hello.refuse("the server cannot keep the ratcheted key's step", fresh()),
                );
                return Err(self.not_kept(&client, &reason));
            }
        };
        let (frame, answer) = hello.answer(&current.offer, ratchet.as_ref(), fresh_hello());
        let answered = Instant::now();
        self.send(&frame)
            .map_err(|_| self.incomplete(&"cannot answer"))?;
        let await_finished = answer.map_err(|reason| {
            let _ = named(RejectReason::Agreement, &reason);
            AfterRefusal::End
        })?;

        // Finished.
        let limit = await_finished.suite.frame_len(0);
        let body = reader
            .frame_until(limit, self.deadline)
            .map_err(|reason| self.no_frame(&reason))?;
        let round_trip = answered.elapsed();
        let super_packets = await_finished.capabilities.super_packets;
        let ready = await_finished
            .receive(body)
            .map_err(|reason| named(RejectReason::Finished, &reason))?;
        let step = ratchet.map(|state| state.step);
        current
            .clients
            .advance_ratchet(&client, step)
            .map_err(|reason| self.not_kept(&client, &reason))?;
        reader.suit(&current.settings.congestion, round_trip);
        Ok(Authenticated {
            current,
            client,
            key: id,
            number,
            ready,
            super_packets,
        })
    }

    /// Sends a hello: small, into an empty socket.
    fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket
            .set_write_timeout(Some(Duration::from_secs(1)))?;
        (&*self.socket).write_all(frame)
    }

    /// What a stranger sends is no handshake. It may be tried at will, so that it may not fill the
    /// log.
    fn refuse(&self, refusal: RejectReason, reason: &dyn Display) -> AfterRefusal {
        self.shared.handshakes.refuse(refusal);
        REFUSED_HANDSHAKES.warning(
            "tunnel",
            "handshake refused",
            &[("from", &self.from), ("reason", reason)],
        );
        AfterRefusal::Keep
    }

    fn no_frame(&self, reason: &NoFrame) -> AfterRefusal {
        match reason {
            NoFrame::BadLength(_) | NoFrame::BadPreface(_) => self.refuse(
                RejectReason::NoHello,
                &format_args!("not a hello: {reason}"),
            ),
            _ => self.incomplete(reason),
        }
    }

    fn incomplete(&self, reason: &dyn Display) -> AfterRefusal {
        self.shared.handshakes.refuse(RejectReason::Incomplete);
        log::debug(
            "tunnel",
            "no handshake",
            &[("from", &self.from), ("reason", reason)],
        );
        AfterRefusal::End
    }

    /// Without a durable step there is no session: better none than one that is not ratcheted.
    fn not_kept(&self, client: &Client, reason: &dyn Display) -> AfterRefusal {
        self.shared.handshakes.refuse(RejectReason::State);
        log::error(
            "tunnel",
            "handshake refused",
            &[("client", &client.name), ("reason", reason)],
        );
        AfterRefusal::End
    }
}
