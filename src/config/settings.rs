//! What a server or a client was told, as one validated value each.

use crate::fernet::Key;
use crate::packet::subnet::Subnet;
use crate::protocol::record::Suite;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Silence after which an end sends a Ping, until Config says otherwise.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// How often a session that has nothing to look after looks.
const IDLE_TICK: Duration = Duration::from_secs(3600);
/// How long an answer to a Ping may take.
pub const DEAD_AFTER: Duration = Duration::from_secs(5);

/// Where the tunnel's packets go on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A TUN device of this name.
    Tun(String),
    /// A TUN device of this name in a private network namespace. With `or_none`, no device where
    /// that is forbidden.
    Private {
        /// The device's name, inside.
        name: String,
        /// Do without a device where namespaces are forbidden.
        or_none: bool,
        /// Not a new namespace but the one that `ip netns` knows by this name.
        namespace: Option<String>,
    },
    /// None: the program itself answers pings and messages.
    None,
}

/// Which congestion control the carrier's connection uses, for what this end sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Congestion {
    /// `bbr` on a long path, `cubic` on a short one, where the system has and allows them.
    Auto,
    /// The system's default.
    System,
    /// This one.
    Named(String),
}

/// Whether a server forwards for its clients, under its own address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nat {
    /// If it pushes routes: by any device.
    Auto,
    /// Never.
    No,
    /// By this device only.
    By(String),
}

/// How an end measures the silence of its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Silence after which a Ping is sent.
    pub keepalive: Duration,
    /// Silence after a Ping until the peer counts as dead.
    pub answer: Duration,
    /// How often an end looks after other things while the peer is silent.
    pub tick: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            keepalive: KEEPALIVE,
            answer: DEAD_AFTER,
            tick: IDLE_TICK,
        }
    }
}

/// A client, as the server knows it.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// A name for logs and status. Unique.
    pub name: String,
    /// Its keys; more than one while it changes from one to the next.
    pub keys: Vec<Key>,
    /// Fixed addresses. Where a family is missing, one is leased.
    pub addresses: Vec<IpAddr>,
    /// Networks behind the client.
    pub routes: Vec<Subnet>,
    /// Whether the key is ratcheted; then the file that holds its state.
    pub ratchet: Option<PathBuf>,
}

/// Everything a server needs to know.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// The instance's name, for `status`.
    pub name: String,
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// Load balancers, which say by the PROXY protocol whom they speak for.
    pub balancers: Vec<Subnet>,
    /// The tunnel's device.
    pub device: Device,
    /// The server's tunnel addresses, with their networks.
    pub addresses: Vec<Subnet>,
    /// Whether they were chosen by a person. Otherwise the server may take others.
    pub has_chosen_addresses: bool,
    /// Of the tunnel device, in bytes.
    pub mtu: u16,
    /// Forwarding for clients.
    pub nat: Nat,
    /// Networks that clients are told to send here.
    pub push_routes: Vec<Subnet>,
    /// Resolvers that clients are told to use.
    pub push_dns: Vec<IpAddr>,
    /// Whether clients may talk to each other.
    pub client_to_client: bool,
    /// Allowed suites, the preferred one first.
    pub suites: Vec<Suite>,
    /// Seconds of silence before a Ping.
    pub keepalive: u16,
    /// What else is known about a silent peer; the option for keepalive is above.
    pub timeouts: Timeouts,
    /// Most clients connected at once.
    pub max_clients: usize,
    /// Oldest hello, in seconds, or none: no clock is needed then.
    pub hello_max_age: Option<u64>,
    /// The clients.
    pub peers: Vec<Peer>,
    /// The carrier's congestion control.
    pub congestion: Congestion,
    /// The file that gets every session's keys, if any.
    pub keylog: Option<PathBuf>,
}

/// Everything a client needs to know.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// The instance's name, for `status`.
    pub name: String,
    /// `HOST:PORT` of the server. Resolved anew at every attempt.
    pub server: String,
    /// The client's key, if it is static.
    pub key: Key,
    /// Whether the key is ratcheted; then the file that is its state, and `key` is not used.
    pub ratchet: Option<PathBuf>,
    /// The tunnel's device.
    pub device: Device,
    /// Routes to set, and no others; those that the server pushes if None.
    pub routes: Option<Vec<Subnet>>,
    /// Resolvers to set; those that the server pushes if None.
    pub dns: Option<Vec<IpAddr>>,
    /// Whether nothing may leave this machine but by the tunnel, until `unlock` or an orderly stop.
    pub kill_switch: bool,
    /// Suites offered, the preferred one first.
    pub suites: Vec<Suite>,
    /// How the server's silence is measured; the server says after how much of it to ask.
    pub timeouts: Timeouts,
    /// A command line to run in the private network; empty for none.
    pub command: Vec<OsString>,
    /// A message to send once connected.
    pub send: Option<String>,
    /// Pings to send through the tunnel once connected.
    pub pings: Option<u32>,
    /// Leave after `send` and `pings`, and never reconnect.
    pub once: bool,
    /// The carrier's congestion control.
    pub congestion: Congestion,
    /// The file that gets every session's keys, if any.
    pub keylog: Option<PathBuf>,
}

impl Default for ServerSettings {
    fn default() -> ServerSettings {
        ServerSettings {
            name: "server".into(),
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 12345))],
            balancers: Vec::new(),
            device: Device::Tun("fern0".into()),
            addresses: vec![
                Subnet {
                    address: IpAddr::from([10, 8, 0, 1]),
                    prefix: 24,
                },
                Subnet {
                    address: IpAddr::from([0xfd0f, 0xe12e, 0, 0, 0, 0, 0, 1]),
                    prefix: 64,
                },
            ],
            has_chosen_addresses: false,
            mtu: 9000,
            nat: Nat::Auto,
            push_routes: Vec::new(),
            push_dns: Vec::new(),
            client_to_client: false,
            suites: Suite::DEFAULT.to_vec(),
            keepalive: 15,
            timeouts: Timeouts::default(),
            max_clients: 4096,
            hello_max_age: None,
            peers: Vec::new(),
            congestion: Congestion::Auto,
            keylog: None,
        }
    }
}

impl ClientSettings {
    /// The defaults, for a client of this server with this key.
    pub fn new(server: &str, key: Key) -> ClientSettings {
        ClientSettings {
            name: "client".into(),
            server: server.into(),
            key,
            ratchet: None,
            device: Device::Tun("fern0".into()),
            routes: None,
            dns: None,
            kill_switch: false,
            suites: Suite::DEFAULT.to_vec(),
            timeouts: Timeouts::default(),
            command: Vec::new(),
            send: None,
            pings: None,
            once: false,
            congestion: Congestion::Auto,
            keylog: None,
        }
    }
}
