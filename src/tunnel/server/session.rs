//! What does a server do with a client's packets? This is a session from Finished to its end.

use super::active_config::ActiveConfig;
use super::state::{REFUSED_HANDSHAKES, STOPS, Shared};
use crate::config::settings::Timeouts;
use crate::os::clock::Moment;
use crate::os::log::{self, RateLimitedLog};
use crate::packet::ip;
use crate::packet::offload::Checked;
use crate::protocol::handshake::Ready;
use crate::protocol::key_schedule::Id;
use crate::protocol::record::{Opener, RecordType, Sealer};
use crate::tunnel::device::LocalStack;
use crate::tunnel::fresh;
use crate::tunnel::observe::counters::{RejectReason, count};
use crate::tunnel::peers::registry::{Client, Connected};
use crate::tunnel::session::buffers;
use crate::tunnel::session::dispatch::{Batch, Router};
use crate::tunnel::session::frame_reader::FrameReader;
use crate::tunnel::session::receiver::{self, End, MAX_MESSAGE, SessionHandler, close, drain};
use crate::tunnel::session::sender::SessionSender;
use crate::tunnel::wire::network_config::listed;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

static MESSAGES: RateLimitedLog = RateLimitedLog::new(10, Duration::from_secs(10));

/// A connection after Finished.
pub(super) struct Authenticated {
    /// The configuration under which it began.
    pub(super) active: Arc<ActiveConfig>,
    pub(super) client: Arc<Client>,
    pub(super) from: SocketAddr,
    pub(super) key: Id,
    pub(super) number: u64,
    pub(super) ready: Ready,
    pub(super) super_packets: bool,
}

/// Runs a session from Finished to its end.
pub(super) fn run_session(
    shared: &Shared,
    authenticated: Authenticated,
    socket: &Arc<TcpStream>,
    reader: &mut FrameReader,
) {
    let Authenticated {
        active,
        client,
        from,
        key,
        number,
        ready,
        super_packets,
    } = authenticated;
    let config = active.config_for(&client).encode();
    let Ok((config_frame, sealer, mut opener)) = ready.configure(&config, &mut fresh) else {
        return log::error(
            "tunnel",
            "too many routes for one Config",
            &[("client", &client.name)],
        );
    };
    log_keys(shared, &client, &sealer, &opener);
    let suite = sealer.suite();
    let traffic = Arc::clone(&client.traffic);
    let socket = Arc::clone(socket);
    let sender = SessionSender::new(socket, sealer, super_packets, traffic, config_frame);
    let connection = Arc::new(Connected {
        from,
        sender,
        key,
        since: Moment::now(),
    });
    let Some(replaced) = connect(shared, &active, &client, number, &connection) else {
        return;
    };
    let sender = &connection.sender;
    // Config is the first frame, whichever thread sends first.
    sender.send_all();
    shared.handshakes.accept();
    let addresses = listed(&client.addresses);
    client.log.info(
        "tunnel",
        "client connected",
        &[
            ("client", &client.name),
            ("from", &from),
            ("suite", &suite),
            ("addresses", &addresses),
        ],
    );
    if let Some(old) = replaced {
        old.sender.close(
            close::REPLACED,
            "a newer connection of this client has taken its place",
        );
        client.log.info(
            "tunnel",
            "replaced an older connection",
            &[("client", &client.name), ("old", &old.from)],
        );
    }
    shared.tell_connected();
    if shared.stopping.load(Ordering::Acquire) {
        // `stop` may have looked for this client's connection before it was registered.
        sender.close(close::STOPPING, STOPS);
    }
    // A reload may have done the same.
    let _ = shared.active().revalidate(&active, &client, &connection);
    let keepalive = Duration::from_secs(active.settings.keepalive.into());
    let timeouts = active.settings.timeouts;
    drop(active);
    let mut handler = FromClient {
        shared,
        active: None,
        client: &client,
        sender,
        stack: LocalStack::new(shared.device.as_ref(), sender),
        batch: Batch::default(),
    };
    let timeouts = Timeouts {
        keepalive,
        ..timeouts
    };
    let end = receiver::receive_until_end(reader, &mut opener, sender, timeouts, &mut handler);
    client.disconnect(&connection);
    if matches!(end, End::Left) {
        drain(&sender.socket);
    }
    sender.abort();
    buffers::wipe();
    shared.leave_place();
    shared.tell_connected();
    let is_removed = shared
        .active()
        .clients
        .holder(&client, &connection.key)
        .is_none();
    log_end(&client, from, &end, is_removed);
}

/// Registers the connection. Returns the one that it replaces, or `None` if there can be no
/// session.
fn connect(
    shared: &Shared,
    active: &ActiveConfig,
    client: &Client,
    number: u64,
    connection: &Arc<Connected>,
) -> Option<Option<Arc<Connected>>> {
    if !shared.take_place(active, client) {
        shared.handshakes.reject(RejectReason::Full);
        REFUSED_HANDSHAKES.warning(
            "tunnel",
            "the server is full (max-clients)",
            &[("client", &client.name)],
        );
        return None;
    }
    match client.connect(number, connection) {
        Ok(replaced) => Some(replaced),
        Err(_too_late) => {
            shared.leave_place();
            shared.handshakes.reject(RejectReason::Superseded);
            client.log.warning(
                "tunnel",
                "a handshake came too late: a newer one has finished",
                &[("client", &client.name), ("from", &connection.from)],
            );
            None
        }
    }
}

fn log_keys(shared: &Shared, client: &Client, sealer: &Sealer, opener: &Opener) {
    if let Some(key_log) = &shared.key_log {
        key_log.add(
            &client.name,
            sealer.suite(),
            opener.secret(),
            sealer.secret(),
        );
    }
}

fn log_end(client: &Client, from: SocketAddr, end: &End, is_removed: bool) {
    let reason = if is_removed {
        "removed".to_owned()
    } else {
        end.to_string()
    };
    let fields: log::Fields = &[
        ("client", &client.name),
        ("from", &from),
        ("reason", &reason),
    ];
    match end {
        End::Closed { .. } | End::Left => client.log.info("tunnel", "client disconnected", fields),
        _ => client.log.warning("tunnel", "client lost", fields),
    }
}

/// What a server does with a client's records.
struct FromClient<'a> {
    shared: &'a Shared,
    /// The configuration for the records that arrive together. An idle connection keeps no old one.
    active: Option<Arc<ActiveConfig>>,
    client: &'a Client,
    sender: &'a Arc<SessionSender>,
    stack: LocalStack<'a>,
    batch: Batch,
}

impl SessionHandler for FromClient<'_> {
    /// Routes a packet. Its source must be the client's, and its destination one that the client
    /// may reach.
    fn on_packet(&mut self, packet: &Checked) {
        let traffic = &self.client.traffic;
        let Ok((source, destination)) = ip::addresses(packet.packet()) else {
            return;
        };
        let active = self.active.get_or_insert_with(|| self.shared.active());
        let clients = &active.clients;
        let Some(client) = clients.sender_of(self.client, source) else {
            return count(&traffic.dropped_source);
        };
        if !client.may_reach(destination) {
            return count(&traffic.dropped_destination);
        }
        if let Some(owner) = clients.owner(destination) {
            // The destination is another client, if clients may talk to each other.
            let may = active.settings.client_to_client && owner.name != self.client.name;
            match owner.sender() {
                Some(to) if may => self.batch.push(&to, packet),
                _ => return count(&traffic.dropped_destination),
            }
        } else if active.is_own(destination)
            || self.stack.has_device()
                && !clients.is_inside(destination)
                && ip::one_host(destination)
        {
            // The destination is the server itself, or a host that its kernel can reach. It must
            // not be a free address of the tunnel, or a local address of this machine on which
            // services listen.
            self.stack.deliver(packet, &mut self.batch);
        } else {
            return count(&traffic.dropped_destination);
        }
        traffic.packet_in(packet.packet().len());
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
        let router: &dyn Router = self.shared;
        self.stack.poll_local_replies(&mut self.batch, router);
        self.batch.send_some();
        self.active = None;
    }
}
