//! What becomes of a client's packets? A session from Finished to its end.

use super::current::Current;
use super::{REFUSED_HANDSHAKES, STOPS, Shared};
use crate::os::log::{self, RateLimitedLog};
use crate::os::notify;
use crate::packet::ip;
use crate::packet::offload::Checked;
use crate::protocol::handshake::Ready;
use crate::protocol::key_schedule::Id;
use crate::protocol::record::RecordType;
use crate::tunnel::device::LocalStack;
use crate::tunnel::observe::status::{Moment, RejectReason};
use crate::tunnel::peers::registry::{Client, Connected};
use crate::tunnel::session::dispatch::Batch;
use crate::tunnel::session::frame_reader::FrameReader;
use crate::tunnel::session::receiver::{
    self, End, MAX_MESSAGE, SessionHandler, Timeouts, close, drain,
};
use crate::tunnel::session::sender::{SessionSender, count};
use crate::tunnel::wire::network_config::listed;
use crate::tunnel::{fresh, locked};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

static MESSAGES: RateLimitedLog = RateLimitedLog::new(10, Duration::from_secs(10));

/// What a connection is after Finished.
pub(super) struct Authenticated {
    /// The configuration by which it began.
    pub(super) current: Arc<Current>,
    pub(super) client: Arc<Client>,
    pub(super) key: Id,
    pub(super) number: u64,
    pub(super) ready: Ready,
    pub(super) super_packets: bool,
}

/// A session from Finished to its end.
pub(super) fn session(
    shared: &Shared,
    Authenticated {
        current,
        client,
        key,
        number,
        ready,
        super_packets,
    }: Authenticated,
    from: SocketAddr,
    socket: &Arc<TcpStream>,
    reader: &mut FrameReader,
) {
    let config = current.config_for(&client).encode();
    let Ok((frame, sealer, mut opener)) = ready.configure(&config, &mut fresh) else {
        return log::error(
            "tunnel",
            "too many routes for one Config",
            &[("client", &client.name)],
        );
    };
    let suite = sealer.suite();
    if let Some(key_log) = &shared.key_log {
        key_log.add(&client.name, suite, opener.secret(), sealer.secret());
    }
    let connect = || {
        let traffic = Arc::clone(&client.traffic);
        let sender = SessionSender::new(Arc::clone(socket), sealer, super_packets, traffic, frame);
        Connected {
            from,
            sender,
            key,
            since: Moment::now(),
        }
    };
    // Counted and finished in one, so that handshakes at the same time do not all take the last
    // place.
    let mut connected = locked(&shared.connected);
    if current.is_full_for(&client, *connected) {
        shared.handshakes.refuse(RejectReason::Full);
        return REFUSED_HANDSHAKES.warning(
            "tunnel",
            "the server is full (max-clients)",
            &[("client", &client.name)],
        );
    }
    let Some((connection, replaced)) = client.finish(number, connect) else {
        shared.handshakes.refuse(RejectReason::Superseded);
        let fields: log::Fields = &[("client", &client.name), ("from", &from)];
        return log::warning(
            "tunnel",
            "a handshake came too late: a newer one has finished",
            fields,
        );
    };
    let sender = &connection.sender;
    *connected += 1;
    notify::status(format_args!("{connected} clients connected"));
    drop(connected);
    shared.handshakes.accept();
    let addresses = listed(&client.addresses);
    let all: log::Fields = &[
        ("client", &client.name),
        ("from", &from),
        ("suite", &suite),
        ("addresses", &addresses),
    ];
    log::info("tunnel", "client connected", all);
    if let Some(old) = replaced {
        old.sender.close(
            close::REPLACED,
            "a newer connection of this client has taken its place",
        );
        log::info(
            "tunnel",
            "replaced an older connection",
            &[("client", &client.name), ("old", &old.from)],
        );
    }
    if shared.stopping.load(Ordering::Acquire) {
        // `stop` may have asked this client for its connection before there was one.
        sender.close(close::STOPPING, STOPS);
    }
    // So may a reload, in vain.
    let _ = shared.current().revalidate(&current, &client, &connection);
    let keepalive = Duration::from_secs(current.settings.keepalive.into());
    drop(current);
    let stack = LocalStack::new(shared.device.as_ref(), sender);
    let mut handler = FromClient {
        shared,
        current: None,
        client: &client,
        sender,
        stack,
        batch: Batch::default(),
    };
    let timeouts = Timeouts {
        keepalive,
        tick: keepalive,
    };
    let end = receiver::run(reader, &mut opener, sender, timeouts, &mut handler);
    client.end(sender);
    if matches!(end, End::Left) {
        drain(socket);
    }
    sender.abort();
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

/// What a client's records lead to.
struct FromClient<'a> {
    shared: &'a Shared,
    /// The configuration, for what arrives together; an idle connection keeps no old one.
    current: Option<Arc<Current>>,
    client: &'a Client,
    sender: &'a Arc<SessionSender>,
    stack: LocalStack<'a>,
    batch: Batch,
}

impl SessionHandler for FromClient<'_> {
    /// Routes a packet: only with the client's own source, and to nobody it may not reach.
    fn on_packet(&mut self, packet: &Checked) {
        let traffic = &self.client.traffic;
        let current = self.current.get_or_insert_with(|| self.shared.current());
        let Ok((source, destination)) = ip::addresses(packet.packet()) else {
            return;
        };
        let Current {
            settings, clients, ..
        } = &**current;
        if !clients.may_send(self.client, source) {
            return count(&traffic.dropped_source);
        }
        match clients.owner(destination) {
            // Another client, if they may talk to each other.
            Some(owner) => match owner.sender() {
                Some(to) if settings.client_to_client && owner.name != self.client.name => {
                    self.batch.push(&to, packet);
                }
                _ => return count(&traffic.dropped_destination),
            },
            // The server itself, or by its kernel a host in the world behind it. Never an address
            // of the tunnel that nobody has, nor one at which whatever listens on this machine
            // would hear it.
            None if current.is_own(destination)
                || self.stack.has_device()
                    && !clients.is_inside(destination)
                    && ip::one_host(destination) =>
            {
                self.stack.deliver(packet, &mut self.batch);
            }
            None => return count(&traffic.dropped_destination),
        }
        count(&traffic.packets_in);
        traffic
            .bytes_in
            .fetch_add(packet.packet().len() as u64, Ordering::Relaxed);
    }

    fn on_message(&mut self, text: &str) {
        MESSAGES.info(
            "tunnel",
            "message",
            &[("client", &self.client.name), ("text", &text)],
        );
        let mut answer = format!(
            "Hello, {}! Your {} bytes have arrived: {text}",
            self.client.name,
            text.len()
        );
        while answer.len() > MAX_MESSAGE {
            answer.pop();
        }
        self.sender.send(RecordType::Message, answer.as_bytes());
    }

    fn on_batch_end(&mut self) {
        self.stack
            .poll_local_replies(&mut self.batch, &|destination| {
                self.shared.sender_for(destination)
            });
        self.batch.send_some();
        self.current = None;
    }
}
