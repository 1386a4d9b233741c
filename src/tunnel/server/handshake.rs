//! Who is let in? PROTOCOL.md section 4, on the server.
//!
//! A stranger is told nothing. Whatever is wrong, the connection stays open and silent until the
//! deadline, so that nobody can tell from outside which step refused it.

use super::session::{Authenticated, session};
use super::{HANDSHAKE_TIME, STRANGERS, Shared};
use crate::fernet::{self, Age};
use crate::os::log::{self, Seldom};
use crate::os::{clock, process, socket};
use crate::protocol::handshake::{ClientHello, HandshakeError, client_id};
use crate::protocol::limits::MAX_HELLO;
use crate::tunnel::observe::status::Refusal;
use crate::tunnel::peers::registry::Client;
use crate::tunnel::session::frame_reader::{self, FrameReader, NoFrame};
use crate::tunnel::session::receiver::keep_silent;
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

static CLOCKS: Seldom = Seldom::new(10, Duration::from_secs(10));

/// How a connection ends that has not authenticated.
enum Silence {
    /// It stays open until the deadline.
    Keep,
    /// It has ended by itself, or was told a reason because it has a key.
    End,
}

/// A connection that has not authenticated.
struct Stranger<'a> {
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
        shared.handshakes.refuse(Refusal::Crowded);
        STRANGERS.warning(
            "tunnel",
            "too many unauthenticated connections, a random one was ended",
            &[],
        );
    }
    if shared.stopping.load(Ordering::Acquire) {
        return shared.admission.leave(&socket); // it came in too late to be ended with the others
    }
    let mut reader = FrameReader::new(Arc::clone(&socket));
    let mut stranger = Stranger {
        shared,
        socket,
        from,
        deadline: Instant::now() + HANDSHAKE_TIME,
    };
    let outcome = stranger
        .find_origin(&mut reader)
        .and_then(|()| stranger.handshake(&mut reader));
    if let Err(Silence::Keep) = outcome {
        keep_silent(&stranger.socket, stranger.deadline);
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

impl Stranger<'_> {
    /// Where it really comes from: a load balancer says whom it speaks for, before anything else.
    fn find_origin(&mut self, reader: &mut FrameReader) -> Result<(), Silence> {
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
    fn handshake(&self, reader: &mut FrameReader) -> Result<Authenticated, Silence> {
        let shared = self.shared;
        let current = shared.current();
        socket::prepare(&self.socket, &frame_reader::tuning()).map_err(|_| Silence::End)?;

        // ClientHello: the id, then the token, then whether it is new.
        let body = reader
            .frame_until(MAX_HELLO, self.deadline)
            .map_err(|reason| self.no_frame(&reason))?;
        let id = client_id(body)
            .ok_or_else(|| self.refuse(Refusal::NoHello, &HandshakeError::Length(body.len())))?;
        let (client, root) = current.clients.by_id(&id).ok_or_else(|| {
            let reason =
                "no client has this key: it was removed, or belongs to another server, or this is no fernvpn client";
            self.refuse(Refusal::UnknownKey, &reason)
        })?;
        let named = |refusal, why: &dyn Display| {
            self.refuse(refusal, &format_args!("client {}: {why}", client.name))
        };
        let root = root.ok_or_else(|| {
            let reason =
                "an earlier step of its ratcheted key: a recording, or a copy or backup in use (fernvpn reset-client)";
            named(Refusal::EarlierStep, &reason)
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
            named(Refusal::Hello, &format_args!("{reason}{advice}"))
        })?;
        let number = client
            .begin(&hello.nonce)
            .ok_or_else(|| named(Refusal::Replay, &"this hello was answered before: a replay"))?;
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
            let _ = named(Refusal::Full, &"the server is full (max-clients)");
            return Err(Silence::End);
        }
        let ratchet = match current.clients.meet(&client, id) {
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
            let _ = named(Refusal::Agreement, &reason);
            Silence::End
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
            .map_err(|reason| named(Refusal::Finished, &reason))?;
        let step = ratchet.map(|state| state.step);
        current
            .clients
            .finish(&client, step)
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
    fn refuse(&self, refusal: Refusal, reason: &dyn Display) -> Silence {
        self.shared.handshakes.refuse(refusal);
        STRANGERS.warning(
            "tunnel",
            "handshake refused",
            &[("from", &self.from), ("reason", reason)],
        );
        Silence::Keep
    }

    fn no_frame(&self, reason: &NoFrame) -> Silence {
        match reason {
            NoFrame::BadLength(_) | NoFrame::BadPreface(_) => {
                self.refuse(Refusal::NoHello, &format_args!("not a hello: {reason}"))
            }
            _ => self.incomplete(reason),
        }
    }

    fn incomplete(&self, reason: &dyn Display) -> Silence {
        self.shared.handshakes.refuse(Refusal::Incomplete);
        log::debug(
            "tunnel",
            "no handshake",
            &[("from", &self.from), ("reason", reason)],
        );
        Silence::End
    }

    /// Without a durable step there is no session: better none than one that is not ratcheted.
    fn not_kept(&self, client: &Client, reason: &dyn Display) -> Silence {
        self.shared.handshakes.refuse(Refusal::State);
        log::error(
            "tunnel",
            "handshake refused",
            &[("client", &client.name), ("reason", reason)],
        );
        Silence::End
    }
}
