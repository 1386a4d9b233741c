//! What was a server or a client told? Each has one validated value.

use crate::fernet::Key;
use crate::packet::subnet::Subnet;
use crate::protocol::record::Suite;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The silence after which an end sends a Ping, until Config sets another.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// The longest that an idle session sleeps between checks.
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
    /// No device. The program itself answers pings and messages.
    None,
}

/// The congestion control of the connection, for what this end sends.
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
    /// The silence after which an end sends a Ping.
    pub keepalive: Duration,
    /// The silence after a Ping until the peer counts as dead.
    pub answer: Duration,
    /// How often an end checks other things while the peer is silent.
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
    /// Fixed addresses. The server leases one for a family that is missing.
    pub addresses: Vec<IpAddr>,
    /// Networks behind the client.
    pub routes: Vec<Subnet>,
    /// The networks that its packets may reach. `None`: as the server has it.
    pub allow: Option<Vec<Subnet>>,
    /// The file that holds the state of the key, if it is ratcheted.
    pub ratchet: Option<PathBuf>,
}

/// Everything a server needs to know.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// The instance's name, for `status`.
    pub name: String,
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// Load balancers that name the client by the PROXY protocol.
    pub balancers: Vec<Subnet>,
    /// The tunnel's device.
    pub device: Device,
    /// The server's tunnel addresses, with their networks.
    pub addresses: Vec<Subnet>,
    /// Whether a person chose them. Otherwise the server may take others.
    pub has_chosen_addresses: bool,
    /// The MTU of the tunnel device, in bytes.
    pub mtu: u16,
    /// Forwarding for clients.
    pub nat: Nat,
    /// Networks that clients are told to send here.
    pub push_routes: Vec<Subnet>,
    /// The networks that packets of clients may reach. `None`: all.
    pub allow: Option<Vec<Subnet>>,
    /// Resolvers that clients are told to use.
    pub push_dns: Vec<IpAddr>,
    /// Whether clients may talk to each other.
    pub client_to_client: bool,
    /// Allowed suites, the preferred one first.
    pub suites: Vec<Suite>,
    /// Seconds of silence before a Ping.
    pub keepalive: u16,
    /// The other times for a silent peer. The option for keepalive is above.
    pub timeouts: Timeouts,
    /// The most clients that are connected at once.
    pub max_clients: usize,
    /// The greatest age of a hello in seconds. If it is `None`, no clock is needed.
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
    /// The file that is the state of the key, if it is ratcheted. `key` is not used then.
    pub ratchet: Option<PathBuf>,
    /// The tunnel's device.
    pub device: Device,
    /// The only routes to set. If it is `None`, the server's pushed routes apply.
    pub routes: Option<Vec<Subnet>>,
    /// The resolvers to set. If it is `None`, the server's pushed resolvers apply.
    pub dns: Option<Vec<IpAddr>>,
    /// Whether packets may leave this machine by the tunnel only, until `unlock` or an orderly
    /// stop.
    pub kill_switch: bool,
    /// Suites offered, the preferred one first.
    pub suites: Vec<Suite>,
    /// The times for a silent server. The server sets the one after which to ask.
    pub timeouts: Timeouts,
    /// A command line to run in the private network. Empty if there is none.
    pub command: Vec<OsString>,
    /// A message to send once connected.
    pub send: Option<String>,
    /// Pings to send through the tunnel once connected.
    pub pings: Option<u32>,
    /// Whether to leave after `send` and `pings`, without reconnecting.
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
            allow: None,
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
    /// The defaults for a client of this server with this key.
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
