//! What is changed in the network, and how is each change put back?
//!
//! The table is [`Change`], in which the command that makes a change stands beside the one that
//! undoes it. Each is one `ip` command, printed when it runs.
//!
//! Most changes would vanish by themselves. The addresses and routes of a device of our own vanish
//! with its descriptor, also after kill -9. Those in a private network vanish with the namespace,
//! so nothing is undone there. On the host, this file undoes them, because the device may have
//! existed before and stay (`ip tuntap add ... user`). A change that is gone already is no error
//! then.
//!
//! A client on the host leaves the main table alone. Another program may put a longer route there,
//! which would win. A DHCP server's option 121 does so, or a "local" network of public addresses.
//! So the client's routes are in a table of their own. A rule asks it before the main table, for
//! packets without the mark [`MARK`]:
//!
//! ```text
//! carrier, marked by its socket ───────────────────────┐
//! reply to a connection from outside, marked by nft ───┴─> main table ─> physical interface
//! everything else ───> own table ─> tunnel device, or, if it has no route for it, main table
//! ```
//!
//! Rules and firewall outlive a killed process. Their numbers and names follow from the device's
//! name. A program that has just opened that device knows that no other uses them, and clears them
//! ([`Network::clear`]). Only the kill switch (`lock`) stays on purpose.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use super::log::RateLimitedLog;
use super::namespace::Namespace;
use super::network_state::{Address, Link, MAIN, NetworkState, Route, Rule};
use super::overlaps::GROUP;
use super::resolver::{self, Resolvers};
use super::{command, forwarder, log, rules};
use crate::packet::subnet::Subnet;

/// The mark of packets that go around the tunnel. It is also the number of the first client's
/// routing table and rule.
pub const MARK: u32 = 12345;

/// Where the device is.
#[derive(Debug)]
pub enum Place {
    /// In the host's own network.
    Host,
    /// In a private network.
    Private(Namespace),
}

impl Place {
    fn run(&self, argv: &[&str]) -> io::Result<()> {
        match self {
            Place::Host => command::run(argv),
            Place::Private(namespace) => namespace.run(argv),
        }
    }
}

/// One change to a device's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The device is up and has this MTU.
    Up {
        /// The most bytes of a packet. IPv6 needs at least 1280.
        mtu: u16,
    },
    /// The device is in the group of all fernvpn servers on this machine, so that they recognise
    /// each other.
    Group,
    /// The device has this address.
    Address(Subnet),
    /// Packets to these addresses, of at most this many bytes, go into the device.
    Route(Subnet, u16),
    /// The same in the client's own table.
    Steered(Subnet, u16),
    /// Packets to a network of containers or virtual machines on this machine go there, by a route
    /// in the same table.
    Inner {
        /// The network.
        network: Subnet,
        /// The bridge to it.
        bridge: String,
        /// This machine's address in it.
        source: IpAddr,
    },
    /// A rule asks that table before the main one, for IPv6 or IPv4.
    Rule {
        /// Whether the rule is for IPv6.
        ipv6: bool,
    },
    /// The client's table in nft: replies keep their route, and packets to the tunnel address must
    /// come by the tunnel.
    Firewall {
        /// The tunnel addresses.
        own: Vec<IpAddr>,
        /// Whether IPv6 must not leave at all, because the tunnel does not carry it.
        refuse_ipv6: bool,
        /// The connection of a program on this machine that carries the tunnel goes past the
        /// tunnel.
        outside: Vec<SocketAddr>,
    },
    /// TCP to this address goes past the tunnel, because it is the connection of a program that
    /// carries it.
    Outside(SocketAddr),
    /// Reverse path filtering judges packets by their mark, because in strict mode it would drop
    /// the carrier's.
    ValidMark,
}

impl Change {
    /// The commands that make the change.
    fn set(&self, device: &str) -> Vec<Vec<String>> {
        match self {
            Change::Up { mtu } => words(format_args!("ip link set dev {device} mtu {mtu} up")),
            Change::Group => words(format_args!("ip link set dev {device} group {GROUP}")),
            // nodad: no other host is on this link, and the search for a duplicate would delay the
            // first packets.
            Change::Address(prefix) if prefix.address.is_ipv6() => {
                words(format_args!("ip address add {prefix} dev {device} nodad"))
            }
            Change::Address(prefix) => words(format_args!("ip address add {prefix} dev {device}")),
            // This adds and does not replace: an existing route belongs to another program, and
            // could not be restored.
            Change::Route(..) | Change::Steered(..) | Change::Inner { .. } => {
                words(format_args!("ip route add {}", self.route(device)))
            }
            Change::Rule { ipv6 } => words(format_args!(
                "ip {} rule add not fwmark {MARK} {}",
                family(*ipv6),
                rule(device)
            )),
            Change::Outside(to) => words(format_args!(
                "ip {} rule add {}",
                family(to.is_ipv6()),
                outside_rule(to, device)
            )),
            Change::Firewall {
                own,
                refuse_ipv6,
                outside,
            } => {
                let text = filled(CLIENT_RULES, device, "", own, *refuse_ipv6, &[], outside);
                vec![vec!["nft".into(), text]]
            }
            // A table without rules remembers that the setting was 0, as long as the kernel does:
            // see `clear`.
            Change::ValidMark => {
                let table = rules::table_name(device, "-mark");
                let mut both = words(format_args!("nft add table inet {table}"));
                both.extend(words(format_args!("{VALID_MARK}=1")));
                both
            }
        }
    }

    /// Whether both are about the same object, which can exist only once.
    fn is_replaced_by(&self, new: &Change) -> bool {
        match (self, new) {
            (Change::Route(old, _), Change::Route(new, _))
            | (Change::Steered(old, _), Change::Steered(new, _))
            | (Change::Inner { network: old, .. }, Change::Inner { network: new, .. }) => {
                old == new
            }
            (Change::Firewall { .. }, Change::Firewall { .. })
            | (Change::Up { .. }, Change::Up { .. }) => true,
            _ => false,
        }
    }

    /// The commands that make the change in place of an existing one of the same kind.
    fn replace(&self, device: &str) -> Vec<Vec<String>> {
        match self {
            Change::Route(..) | Change::Steered(..) | Change::Inner { .. } => {
                words(format_args!("ip route replace {}", self.route(device)))
            }
            _ => self.set(device),
        }
    }

    /// The commands that undo the change.
    fn unset(&self, device: &str) -> Vec<Vec<String>> {
        match self {
            Change::Up { .. } => words(format_args!("ip link set dev {device} down")),
            Change::Group => words(format_args!("ip link set dev {device} group default")),
            Change::Address(prefix) => words(format_args!("ip address del {prefix} dev {device}")),
            Change::Route(prefix, _) => words(format_args!("ip route del {prefix} dev {device}")),
            Change::Steered(prefix, _) => words(format_args!(
                "ip route del {prefix} dev {device} table {}",
                table(device)
            )),
            Change::Inner {
                network, bridge, ..
            } => words(format_args!(
                "ip route del {network} dev {bridge} table {}",
                table(device)
            )),
            Change::Rule { ipv6 } => words(format_args!(
                "ip {} rule del {}",
                family(*ipv6),
                rule(device)
            )),
            Change::Outside(to) => words(format_args!(
                "ip {} rule del {}",
                family(to.is_ipv6()),
                outside_rule(to, device)
            )),
            Change::Firewall { .. } => delete_table(device, ""),
            // The last of several clients restores it.
            Change::ValidMark if tables("-mark").len() > 1 => delete_table(device, "-mark"),
            Change::ValidMark => {
                let mut both = words(format_args!("{VALID_MARK}=0"));
                both.extend(delete_table(device, "-mark"));
                both
            }
        }
    }

    /// The words for `ip route`.
    fn route(&self, device: &str) -> String {
        match self {
            Change::Route(prefix, mtu) => format!("{prefix} dev {device} mtu {mtu}"),
            Change::Steered(prefix, mtu) => {
                format!("{prefix} dev {device} mtu {mtu} table {}", table(device))
            }
            Change::Inner {
                network,
                bridge,
                source,
            } => format!(
                "{network} dev {bridge} src {source} table {}",
                table(device)
            ),
            _ => String::new(),
        }
    }

    /// Its name in the log.
    fn name(&self) -> String {
        match self {
            Change::Up { mtu } => format!("device up with mtu {mtu}"),
            Change::Group => format!("group {GROUP}"),
            Change::Address(prefix) => format!("address {prefix}"),
            Change::Route(prefix, _) | Change::Steered(prefix, _) => format!("route {prefix}"),
            Change::Inner {
                network, bridge, ..
            } => format!("route {network} to {bridge}"),
            Change::Rule { ipv6 } => format!("rule for {}", if *ipv6 { "IPv6" } else { "IPv4" }),
            Change::Outside(to) => format!("rule for {to}"),
            Change::Firewall { .. } => "nft table".into(),
            Change::ValidMark => "src_valid_mark".into(),
        }
    }

    /// The table in nft, if the change is one.
    fn table(&self, device: &str) -> Option<String> {
        match self {
            Change::Firewall { .. } => Some(rules::table_name(device, "")),
            Change::ValidMark => Some(rules::table_name(device, "-mark")),
            _ => None,
        }
    }

    /// Whether the kernel has it. Other code checks nft's tables.
    fn is_in(&self, state: &NetworkState, device: &Link) -> bool {
        let has_route = |wanted: &dyn Fn(&Route) -> bool| state.routes.iter().any(wanted);
        match self {
            Change::Up { mtu } => device.is_up && device.mtu == u32::from(*mtu),
            Change::Group => device.group == GROUP,
            Change::Address(own) => {
                let is_it = |it: &Address| it.device == device.index && it.address == *own;
                state.addresses.iter().any(is_it)
            }
            Change::Route(..) => {
                has_route(&|it| it.table == MAIN && self.is_route(it, state, device))
            }
            Change::Steered(..) | Change::Inner { .. } => {
                let table = table(&device.name);
                has_route(&|it| it.table == table && self.is_route(it, state, device))
            }
            Change::Rule { ipv6 } => {
                let number = table(&device.name);
                let own = Rule {
                    is_ipv6: *ipv6,
                    priority: priority(&device.name),
                    table: number,
                    unless_marked: Some(MARK),
                    to: None,
                };
                state.rules.contains(&own)
            }
            Change::Outside(to) => state.rules.iter().any(|it| {
                (it.is_ipv6, it.priority, it.table)
                    == (to.is_ipv6(), priority(&device.name) - 1, MAIN)
                    && it.to == Some(*to)
            }),
            Change::ValidMark => marks_are_valid(),
            Change::Firewall { .. } => true,
        }
    }

    /// Whether this is the kernel's route, in any table.
    fn is_route(&self, there: &Route, state: &NetworkState, device: &Link) -> bool {
        let (to, by, mtu, source) = match self {
            Change::Route(to, mtu) | Change::Steered(to, mtu) => {
                (to, Some(device), Some(u32::from(*mtu)), None)
            }
            Change::Inner {
                network,
                bridge,
                source,
            } => (network, state.link(bridge), None, Some(*source)),
            _ => return false,
        };
        there.is_unicast
            && there.routers.is_empty()
            && (there.to.network(), there.to.prefix) == (to.network(), to.prefix)
            && by.is_some_and(|by| there.device == Some(by.index))
            && (mtu, source) == (there.mtu, there.source)
    }
}

/// Splits a command into words. No name, address or number in our commands has a blank.
fn words(line: std::fmt::Arguments<'_>) -> Vec<Vec<String>> {
    vec![line.to_string().split(' ').map(str::to_owned).collect()]
}

fn delete_table(device: &str, kind: &str) -> Vec<Vec<String>> {
    let name = rules::table_name(device, kind);
    words(format_args!("nft delete table inet {name}"))
}

/// How long the log does not repeat the same reason.
const SAID_AGAIN_AFTER: Duration = Duration::from_secs(600);
/// The largest packet that goes beyond the tunnel's own network, where most links are Ethernet. The
/// carrier can cut a packet of any size. So between the tunnel's ends, only the device sets a
/// limit.
const BEYOND: u16 = 1500;
const ALL_IPV6: Subnet = Subnet {
    address: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    prefix: 0,
};
const CLIENT_RULES: &str = include_str!("client.nft");
const VALID_MARK: &str = "sysctl -q -w net.ipv4.conf.all.src_valid_mark";

fn family(ipv6: bool) -> &'static str {
    if ipv6 { "-6" } else { "-4" }
}

/// The number of a device's table. fern1 has the table after fern0's. Another name has its FNV-1a
/// hash with the highest bit set, far from the small numbers that people choose.
fn table(device: &str) -> u32 {
    let number = device
        .strip_prefix("fern")
        .and_then(|it| it.parse::<u16>().ok());
    number.map_or_else(
        || {
            let hash = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
            device.bytes().fold(0x811c_9dc5, hash) | 1 << 31
        },
        |number| MARK + u32::from(number),
    )
}

/// A rule's priority, before the main table's rule, which is 32766. Rules of one priority can be
/// for several tables.
fn priority(device: &str) -> u32 {
    let table = table(device);
    if table < 32766 { table } else { MARK }
}

/// A rule before the client's own.
fn outside_rule(to: &SocketAddr, device: &str) -> String {
    let (address, port) = (Subnet::alone(to.ip()), to.port());
    let priority = priority(device) - 1;
    format!("to {address} ipproto tcp dport {port} table main priority {priority}")
}

/// The addresses to which a program on this machine that carries the tunnel connects, if `routes`
/// would lead that connection into the tunnel. The log says so.
fn outside(carrier: SocketAddr, routes: &[Subnet]) -> Vec<SocketAddr> {
    let carrier = SocketAddr::new(carrier.ip().to_canonical(), carrier.port());
    if routes.is_empty() || !forwarder::is_here(carrier.ip()) {
        return Vec::new();
    }
    let to = forwarder::destinations(carrier);
    let in_tunnel = |to: &SocketAddr| routes.iter().any(|route| route.contains(to.ip()));
    let found: Vec<SocketAddr> = to.iter().filter(|to| in_tunnel(to)).copied().collect();
    if !found.is_empty() {
        let text = "a program on this machine carries the tunnel; \
                    its connection goes past the tunnel, to prevent a loop";
        let to: Vec<String> = found.iter().map(ToString::to_string).collect();
        log::warning("os", text, &[("server", &carrier), ("to", &to.join(", "))]);
    } else if to.is_empty() {
        let text = "a program on this machine carries the tunnel, and its connection was not \
                    found. If it goes into the tunnel, there is a loop. \
                    Try: ip rule add to ADDRESS table main priority 12344, with the address \
                    that the program connects to";
        log::warning("os", text, &[("server", &carrier)]);
    }
    found
}

fn rule(device: &str) -> String {
    format!("table {} priority {}", table(device), priority(device))
}

/// A text for nft, filled in, for the table of `device` and `kind`.
fn filled(
    file: &str,
    device: &str,
    kind: &str,
    own: &[IpAddr],
    refuse_ipv6: bool,
    bridges: &[String],
    outside: &[SocketAddr],
) -> String {
    let first = rules::local_ports().0;
    let listed = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(", ");
    let connected = listed(&mut (rules::connected_ports(first).iter()).map(ToString::to_string));
    let bridges = listed(&mut (bridges.iter()).map(|it| format!("\"{}\"", rules::device_name(it))));
    let endpoints = |ipv6| {
        let family = outside.iter().filter(|to| to.is_ipv6() == ipv6);
        listed(&mut family.map(|to| format!("{} . {}", to.ip(), to.port())))
    };
    let own: Vec<Subnet> = own.iter().map(|address| Subnet::alone(*address)).collect();
    let refuse = if refuse_ipv6 { &[ALL_IPV6][..] } else { &[] };
    rules::filled(
        file,
        &[
            ("TABLE", &rules::table_name(device, kind)),
            ("DEVICE", &rules::device_name(device)),
            ("MARK", &MARK.to_string()),
            ("PORTS", &first.to_string()),
            ("CONNECTED", &connected),
            ("BRIDGES", &bridges),
            ("OUTSIDE4", &endpoints(false)),
            ("OUTSIDE6", &endpoints(true)),
        ],
        &[("OWN", &own), ("REFUSE-IPV6", refuse)],
    )
}

/// The kill switch of a client. It lasts until [`unlock`], also after this is dropped.
#[derive(Debug)]
pub struct KillSwitch {
    device: String,
    bridges: Vec<String>,
    table: rules::Table,
    trouble: Trouble,
}

impl KillSwitch {
    /// Begins it for a client with this device.
    ///
    /// # Errors
    /// What does not work. There is no kill switch then.
    pub fn begin(device: &str) -> io::Result<KillSwitch> {
        let state = NetworkState::look(&[MAIN]).unwrap_or_default();
        let bridges: Vec<String> = (state.inner_devices().into_iter())
            .map(str::to_owned)
            .collect();
        Ok(KillSwitch {
            table: lock(device, &bridges, command::run)?,
            device: device.to_owned(),
            bridges,
            trouble: Trouble::default(),
        })
    }

    /// Installs it again if another program has removed it, and allows this machine's packets to
    /// new containers and virtual machines.
    pub fn check(&mut self) {
        let repaired = self.repair();
        self.trouble.tell(repaired);
    }

    fn repair(&mut self) -> io::Result<Vec<String>> {
        let state = NetworkState::look(&[MAIN])?;
        let bridges = state.inner_devices();
        if bridges.iter().ne(self.bridges.iter()) {
            let bridges: Vec<String> = bridges.into_iter().map(str::to_owned).collect();
            self.table = lock(&self.device, &bridges, command::run_and_show)?;
            self.bridges = bridges;
        } else if !self.table.is_there(state.nft) {
            self.table.put_back(command::run_and_show)?;
            return Ok(vec!["kill switch".into()]);
        }
        Ok(Vec::new())
    }
}

fn lock(
    device: &str,
    bridges: &[String],
    run: impl FnOnce(&[&str]) -> io::Result<()>,
) -> io::Result<rules::Table> {
    let text = concat!(include_str!("client.nft"), include_str!("lock.nft"));
    let text = filled(text, device, "-lock", &[], false, bridges, &[]);
    rules::Table::put_in(&rules::table_name(device, "-lock"), text, run)
}

/// Ends the kill switch of a client with this device, or all kill switches.
pub fn unlock(device: Option<&str>) -> io::Result<()> {
    let locks = device.map_or_else(
        || tables("-lock"),
        |device| vec![rules::table_name(device, "-lock")],
    );
    if locks.is_empty() {
        return Err(io::Error::other(
            "there is no kill switch to end, or it takes root to see it",
        ));
    }
    locks
        .iter()
        .try_for_each(|table| command::run(&["nft", "delete", "table", "inet", table]))
}

/// The tables in nft of clients on this machine whose name has this end.
fn tables(kind: &str) -> Vec<String> {
    let all = command::said(&["nft", "list", "tables", "inet"]).unwrap_or_default();
    let names = all
        .lines()
        .filter_map(|line| line.strip_prefix("table inet "));
    names
        .filter(|name| name.starts_with("fernvpn-") && name.ends_with(kind))
        .map(str::to_owned)
        .collect()
}

/// The log lines about repairs, and about repairs that fail. Each reason is logged once, and again
/// after ten minutes.
#[derive(Debug, Default)]
struct Trouble(Option<(String, Instant)>);

impl Trouble {
    fn tell(&mut self, repaired: io::Result<Vec<String>>) {
        match repaired {
            Ok(repaired) => {
                if !repaired.is_empty() {
                    let text = "another program changed the tunnel's network; restored it";
                    REPAIRS.warning("os", text, &[("what", &repaired.join(", "))]);
                }
                if self.0.take().is_some() {
                    log::info("os", "the tunnel's network is right again", &[]);
                }
            }
            Err(error) => {
                let reason = error.to_string();
                let is_new = self.0.as_ref().is_none_or(|(last, since)| {
                    *last != reason || since.elapsed() > SAID_AGAIN_AFTER
                });
                if is_new {
                    let text = "the tunnel's network cannot be restored, and packets may go past \
                                the tunnel; trying again";
                    log::error("os", text, &[("reason", &reason)]);
                    self.0 = Some((reason, Instant::now()));
                }
            }
        }
    }
}

/// A program that changes it again and again must not fill a disk.
static REPAIRS: RateLimitedLog = RateLimitedLog::new(60, Duration::from_secs(60));

/// A default route without a device (`ip route add default via ...`) is logged once in ten minutes.
static SWALLOWED: RateLimitedLog = RateLimitedLog::new(1, Duration::from_secs(600));

/// Whether packets to marked sockets could be dropped on arrival. The kernel looks up the route of
/// an answer without the mark, and drops packets that arrive by another interface.
fn filters_strictly() -> bool {
    let folder = std::fs::read_dir("/proc/sys/net/ipv4/conf").into_iter();
    let mut devices = folder.flatten().flatten();
    devices.any(|device| says_one(&device.path().join("rp_filter")))
}

/// Whether the kernel judges them by their mark instead.
fn marks_are_valid() -> bool {
    says_one(Path::new("/proc/sys/net/ipv4/conf/all/src_valid_mark"))
}

fn says_one(setting: &Path) -> bool {
    std::fs::read_to_string(setting).is_ok_and(|value| value.trim() == "1")
}

/// Whether these routes take most of IPv4.
pub fn are_full(routes: &[Subnet]) -> bool {
    let size = |route: &Subnet| (route.address.is_ipv4()).then(|| 1_u64 << (32 - route.prefix));
    routes.iter().filter_map(size).sum::<u64>() >= 1 << 31
}

/// Whether there is a device of this name, as far as the system shows.
pub fn has_device(name: &str) -> bool {
    let devices = Path::new("/sys/class/net");
    !devices.exists() || devices.join(name).exists()
}

/// The changes made for one device. They are undone when it is dropped.
#[derive(Debug)]
pub struct Network {
    place: Place,
    device: String,
    /// The changes that must be in place.
    made: Vec<Change>,
    resolvers: Resolvers,
    /// The tables in nft among them.
    tables: Vec<rules::Table>,
    trouble: Trouble,
}

impl Network {
    /// Makes a value without changes. `device` is the name of an open `Tun`, and so a valid one
    /// without blanks.
    pub fn new(place: Place, device: &str) -> Network {
        Network {
            place,
            device: device.to_owned(),
            made: Vec::new(),
            resolvers: Resolvers::new(device),
            tables: Vec::new(),
            trouble: Trouble::default(),
        }
    }

    /// The private network, if the device is in one.
    pub fn private(&self) -> Option<&Namespace> {
        match &self.place {
            Place::Private(namespace) => Some(namespace),
            Place::Host => None,
        }
    }

    /// Whether the device can have IPv6 with this MTU. (A private network begins with the kernel's
    /// defaults.)
    fn has_ipv6(&self, mtu: u16) -> bool {
        let disabled = std::fs::read_to_string("/proc/sys/net/ipv6/conf/default/disable_ipv6");
        mtu >= 1280 && disabled.is_ok_and(|value| self.private().is_some() || value.trim() == "0")
    }

    /// Whether another device has IPv6.
    fn others_have_ipv6(&self) -> bool {
        let devices = std::fs::read_dir("/proc/sys/net/ipv6/conf")
            .into_iter()
            .flatten()
            .flatten();
        let none = ["all", "default", "lo", &self.device];
        let mut others =
            devices.filter(|device| !none.iter().any(|name| device.file_name() == *name));
        others.any(|it| {
            std::fs::read_to_string(it.path().join("disable_ipv6"))
                .is_ok_and(|value| value.trim() == "0")
        })
    }

    /// Clears what clients that were killed have left on the host: one with this device, and those
    /// whose device is gone. An old table still drops packets to the address of its tunnel, which
    /// may be this one's now.
    pub fn clear(&self) {
        if self.private().is_some() {
            return;
        }
        resolver::clear(&self.device);
        clear(&self.device);
        let Ok(state) = NetworkState::look(&[]) else {
            return;
        };
        let tables = tables("").into_iter();
        let names = tables.filter_map(|it| it.strip_prefix("fernvpn-").map(str::to_owned));
        let other = |it: &String| {
            ["-lock", "-mark"].iter().all(|kind| !it.ends_with(kind)) && !it.starts_with("nat-")
        };
        for device in names.filter(other) {
            if state.link(&device).is_none() {
                clear(&device);
            }
        }
    }

    /// Sets the device up, or changes it to these settings.
    ///
    /// # Errors
    /// Fails if a command fails. Names it.
    pub fn set_up(&mut self, mtu: u16, addresses: &[Subnet], routes: &[Subnet]) -> io::Result<()> {
        let mut wanted = vec![Change::Up { mtu }];
        wanted.extend(self.private().is_none().then_some(Change::Group));
        wanted.extend(addresses.iter().map(|address| Change::Address(*address)));
        wanted.extend(
            routes
                .iter()
                .map(|route| Change::Route(*route, mtu.min(BEYOND))),
        );
        self.change_to(wanted)?;
        self.check();
        Ok(())
    }

    /// The same for a client, with its resolvers. On the host, it uses a routing table of its own.
    ///
    /// # Errors
    /// Fails if a command fails. Names it.
    pub fn set_up_client(
        &mut self,
        mtu: u16,
        addresses: &[Subnet],
        routes: &[Subnet],
        resolvers: &[IpAddr],
        carrier: SocketAddr,
    ) -> io::Result<()> {
        // Without IPv6 on this machine, that part is left out, because a tunnel for IPv4 alone is
        // better than none.
        let has_ipv6 = self.has_ipv6(mtu);
        let of_use = |own: &&Subnet| has_ipv6 || own.address.is_ipv4();
        if !addresses.iter().all(|own| of_use(&own)) {
            let text = "the tunnel carries IPv4 only: its mtu is below 1280, or IPv6 is off here \
                        (net.ipv6.conf.default.disable_ipv6)";
            log::info("os", text, &[]);
        }
        let addresses = &addresses.iter().filter(of_use).copied().collect::<Vec<_>>()[..];
        let routes = &routes.iter().filter(of_use).copied().collect::<Vec<_>>()[..];
        if self.private().is_some() {
            return self.set_up(mtu, addresses, routes);
        }
        let carries_ipv6 = addresses.iter().any(|own| own.address.is_ipv6());
        // If a tunnel without IPv6 takes most of IPv4, no IPv6 leaves at all, so that none goes
        // past the tunnel.
        let is_full = are_full(routes);
        let refuse_ipv6 = is_full && !carries_ipv6 && has_ipv6;
        if is_full && !has_ipv6 && self.others_have_ipv6() {
            let text = "IPv6 goes past the tunnel, because the device cannot have it (its mtu is \
                        below 1280, or net.ipv6.conf.default.disable_ipv6 is set). \
                        Try: kill-switch = yes";
            log::warning("os", text, &[]);
        }
        let own = addresses.iter().map(|own| own.address).collect();
        let mut wanted = vec![Change::Up { mtu }];
        wanted.extend(addresses.iter().map(|address| Change::Address(*address)));
        let outside = outside(carrier, routes);
        wanted.push(Change::Firewall {
            own,
            refuse_ipv6,
            outside: outside.clone(),
        });
        if !routes.is_empty() {
            let networks = addresses
                .iter()
                .map(|own| Subnet {
                    address: own.network(),
                    ..*own
                })
                .collect::<Vec<_>>();
            let beyond = routes
                .iter()
                .copied()
                .chain(refuse_ipv6.then_some(ALL_IPV6));
            let beyond = beyond
                .filter(|route| !networks.contains(route))
                .map(|route| (route, mtu.min(BEYOND)));
            for (route, mtu) in networks.iter().map(|own| (*own, mtu)).chain(beyond) {
                let steered = Change::Steered(route, mtu);
                if (route.address.is_ipv4() || carries_ipv6 || refuse_ipv6)
                    && !wanted.contains(&steered)
                {
                    wanted.push(steered);
                }
            }
            // Another client may have set it, and will restore it.
            let strict = self.made.contains(&Change::ValidMark)
                || filters_strictly() && (!marks_are_valid() || !tables("-mark").is_empty());
            wanted.extend(strict.then_some(Change::ValidMark));
            let inner = self
                .made
                .iter()
                .filter(|it| matches!(it, Change::Inner { .. }));
            wanted.extend(inner.cloned());
            wanted.extend(outside.into_iter().map(Change::Outside));
            wanted.push(Change::Rule { ipv6: false });
            wanted.extend((carries_ipv6 || refuse_ipv6).then_some(Change::Rule { ipv6: true }));
        }
        self.change_to(wanted)?;
        self.resolvers.change_to(resolvers);
        self.check();
        Ok(())
    }

    /// Makes the new changes, and then undoes those that are no longer wanted. In between both
    /// exist, because the kernel drops all IPv4 routes of a device with its last address. After a
    /// failure, the list has the changes that were made, so that another call can go on from there.
    fn change_to(&mut self, mut wanted: Vec<Change>) -> io::Result<()> {
        for new in &wanted {
            if self.made.contains(new) {
                continue;
            }
            if let Change::Address(address) = new {
                self.make_room_for(address)?;
            }
            let replaced = self.made.iter().position(|old| old.is_replaced_by(new));
            self.make(new, replaced.is_some())
                .map_err(|error| explain(new, error))?;
            replaced.map(|at| self.made.remove(at));
            self.made.push(new.clone());
        }
        let goes = |old: &&Change| !wanted.contains(old) && !matches!(old, Change::Up { .. });
        let old = self.made.iter().rev().filter(goes).cloned();
        for old in old.collect::<Vec<_>>() {
            match self.run(&old.unset(&self.device)) {
                Err(error) if !is_gone(&error) => return Err(error),
                _ => self.made.retain(|made| *made != old),
            }
            let table = old.table(&self.device);
            self.tables.retain(|it| Some(&it.name) != table.as_ref());
        }
        wanted.retain(|wanted| self.made.contains(wanted));
        self.made = wanted;
        Ok(())
    }

    /// Prepares the device for a second address before the first goes. The kernel removes an IPv4
    /// address with an older one in the same network, unless it is set to promote it. IPv6 has an
    /// address once, whatever its prefix length.
    fn make_room_for(&mut self, new: &Subnet) -> io::Result<()> {
        let same = |old: &Change| matches!(old, Change::Address(old) if old.address == new.address);
        if new.address.is_ipv6() {
            if let Some(at) = self.made.iter().position(same) {
                self.run(&self.made[at].unset(&self.device))?;
                self.made.remove(at);
            }
        } else if self
            .made
            .iter()
            .any(|old| matches!(old, Change::Address(old) if old.address.is_ipv4()))
        {
            let setting = format!("net/ipv4/conf/{}/promote_secondaries=1", self.device);
            if let Err(error) = self.run(&words(format_args!("sysctl -q -w {setting}"))) {
                let text = "the tunnel may stand still for a moment while its address changes";
                log::warning("os", text, &[("reason", &error)]);
            }
        }
        Ok(())
    }

    /// Makes one change. It takes the place of an older one if it `replaces` that.
    fn make(&mut self, change: &Change, replaces: bool) -> io::Result<()> {
        let commands = if replaces {
            change.replace(&self.device)
        } else {
            change.set(&self.device)
        };
        let Some(name) = change.table(&self.device) else {
            return self.run(&commands);
        };
        let mut commands = commands.into_iter();
        let table = commands.next().unwrap_or_default().split_off(1).join(" ");
        let table = rules::Table::put_in(&name, table, |argv| self.place.run(argv))?;
        self.tables.retain(|old| old.name != name);
        self.tables.push(table);
        self.run(&commands.collect::<Vec<_>>())
    }

    /// Compares the wanted changes with the kernel's state, repairs the difference, and logs it. No
    /// other program changes a private network.
    pub fn check(&mut self) {
        if self.private().is_none() && !self.made.is_empty() {
            let repaired = self.repair();
            self.trouble.tell(repaired);
            self.resolvers.keep();
        }
    }

    fn repair(&mut self) -> io::Result<Vec<String>> {
        let mut state = NetworkState::look(&[MAIN, table(&self.device)])?;
        if self.follow_bridges(&state)? {
            state = NetworkState::look(&[MAIN, table(&self.device)])?;
        }
        self.follow_filtering()?;
        let Some(device) = state.link(&self.device) else {
            let text = format!("there is no device {} any more", self.device);
            return Err(io::Error::other(text));
        };
        let leads_in = |it: &Route| {
            it.table == MAIN && it.to.prefix == 0 && it.routers.contains(&device.index)
        };
        if let Some(route) = state.routes.iter().find(|it| leads_in(it)) {
            let text = "another program's default route leads into the tunnel, so that the carrier \
                        cannot leave. Try: name its device, as in \
                        ip route replace default via ADDRESS dev eth0";
            SWALLOWED.warning(
                "os",
                text,
                &[("route", &route.to), ("device", &device.name)],
            );
        }
        let (mut repaired, mut failed) = (Vec::new(), None);
        let mut note = |what: String, done: io::Result<()>| match done {
            Ok(()) => repaired.push(what),
            Err(error) => failed = failed.take().or(Some(error)),
        };
        for table in &mut self.tables {
            if !table.is_there(state.nft) {
                note(
                    format!("nft table {}", table.name),
                    table.put_back(command::run_and_show),
                );
            }
        }
        for change in &self.made {
            if !change.is_in(&state, device) {
                note(change.name(), put_back(change, &state, device));
            }
        }
        // Its own table belongs to no other program. (Without this check, a longer route there
        // would win.)
        for route in state
            .routes
            .iter()
            .filter(|it| it.table == table(&device.name))
        {
            let is_wanted = |change: &Change| match change {
                Change::Steered(to, _) | Change::Inner { network: to, .. } => {
                    change.is_route(route, &state, device)
                        || is_replaceable(route, to) && !change.is_in(&state, device)
                }
                _ => false,
            };
            if !self.made.iter().any(is_wanted) {
                note(format!("no route {}", route.to), delete(route, &state));
            }
        }
        failed.map_or(Ok(repaired), Err)
    }

    /// Strict filtering may have begun after the tunnel.
    fn follow_filtering(&mut self) -> io::Result<()> {
        let steers = self.made.iter().any(|it| matches!(it, Change::Rule { .. }));
        if steers
            && !self.made.contains(&Change::ValidMark)
            && filters_strictly()
            && !marks_are_valid()
        {
            self.make(&Change::ValidMark, false)?;
            self.made.push(Change::ValidMark);
        }
        Ok(())
    }

    /// Keeps routes to the networks of containers and virtual machines, whose packets a client's
    /// own table would lead into the tunnel. Returns whether one has come or gone.
    fn follow_bridges(&mut self, state: &NetworkState) -> io::Result<bool> {
        let is_inner = |it: &&Change| matches!(it, Change::Inner { .. });
        let Some(at) = (self.made.iter()).position(|it| matches!(it, Change::Rule { .. })) else {
            return Ok(false);
        };
        let is_tunnels = |network: &Subnet| {
            self.made.iter().any(|it| match it {
                Change::Address(own) => network.contains(own.address),
                Change::Steered(to, _) => to == network,
                _ => false,
            })
        };
        let inner = state.inner_networks().into_iter();
        let inner: Vec<Change> = inner
            .filter(|(network, ..)| !is_tunnels(network))
            .map(|(network, bridge, source)| Change::Inner {
                network,
                bridge: bridge.to_owned(),
                source,
            })
            .collect();
        if self.made.iter().filter(is_inner).eq(inner.iter()) {
            return Ok(false);
        }
        let mut wanted = self.made.clone();
        wanted.splice(at..at, inner.clone());
        wanted.retain(|it| !is_inner(&it) || inner.contains(it));
        let mut once = Vec::new();
        for change in wanted {
            if !once.contains(&change) {
                once.push(change);
            }
        }
        self.change_to(once).map(|()| true)
    }

    fn run(&self, commands: &[Vec<String>]) -> io::Result<()> {
        commands.iter().try_for_each(|argv| {
            let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
            self.place.run(&argv)
        })
    }
}

/// Clears what is left of a client with this device.
fn clear(device: &str) {
    let outside = format!("table main priority {}", priority(device) - 1);
    for family in ["-4", "-6"] {
        for rule in [&rule(device), &outside] {
            let line = format!("ip {family} rule del {rule}");
            while command::attempt(&line.split(' ').collect::<Vec<_>>()) {}
        }
    }
    command::attempt(&[
        "nft",
        "delete",
        "table",
        "inet",
        &rules::table_name(device, ""),
    ]);
    if tables("-mark").contains(&rules::table_name(device, "-mark"))
        && let Err(error) = run_and_show(&Change::ValidMark.unset(device))
    {
        log::warning("os", "not undone", &[("reason", &error)]);
    }
}

/// Makes a change again that another program has undone.
fn put_back(change: &Change, state: &NetworkState, device: &Link) -> io::Result<()> {
    match change {
        // A route by our device is ours. Another route to the same addresses belongs to another
        // program.
        Change::Route(to, _)
            if !(state.routes.iter())
                .any(|it| it.table == MAIN && it.to == *to && it.device == Some(device.index)) =>
        {
            run_and_show(&change.set(&device.name))
        }
        _ => run_and_show(&change.replace(&device.name)),
    }
}

/// Whether `ip route replace` of a route to the same addresses removes this one, because the metric
/// is the same.
fn is_replaceable(there: &Route, to: &Subnet) -> bool {
    let metric = if to.address.is_ipv4() { 0 } else { 1024 };
    there.metric == metric && there.to == *to
}

/// Removes a route from our own table that is not ours.
fn delete(route: &Route, state: &NetworkState) -> io::Result<()> {
    let device = state.links.iter().find(|it| Some(it.index) == route.device);
    let by = device.map_or(String::new(), |it| format!(" dev {}", it.name));
    let (to, table, metric) = (route.to, route.table, route.metric);
    run_and_show(&words(format_args!(
        "ip route del {to}{by} table {table} metric {metric}"
    )))
}

fn run_and_show(commands: &[Vec<String>]) -> io::Result<()> {
    commands.iter().try_for_each(|argv| {
        command::run_and_show(&argv.iter().map(String::as_str).collect::<Vec<_>>())
    })
}

/// Undoes everything, the last change first. It logs a failure and goes on.
impl Drop for Network {
    fn drop(&mut self) {
        if self.private().is_some() {
            return; // everything vanishes with the namespace
        }
        self.resolvers.change_to(&[]);
        for change in self.made.iter().rev() {
            match self.run(&change.unset(&self.device)) {
                Err(error) if !is_gone(&error) => {
                    log::warning("os", "not undone", &[("reason", &error)])
                }
                _ => {}
            }
        }
    }
}

/// The kernel's errors, through `ip`, about a device, route or address that does not exist.
fn is_gone(error: &io::Error) -> bool {
    let text = error.to_string();
    [
        "Cannot find device",
        "No such",
        "Cannot assign requested address",
        "Failed to resolve interface",
    ]
    .iter()
    .any(|gone| text.contains(gone))
}

/// Adds the remedy if `ip` only gives a reason, and a puzzling one.
fn explain(change: &Change, error: io::Error) -> io::Error {
    let text = error.to_string();
    let remedy = match change {
        Change::Address(prefix)
            if prefix.address.is_ipv6()
                && (text.contains("Permission denied") || text.contains("IPv6 is disabled")) =>
        {
            "IPv6 is off on this machine. Try: sysctl net.ipv6.conf.default.disable_ipv6=0, \
             or IPv4 alone: address = 10.8.0.1/24"
        }
        Change::Route(..) if text.contains("File exists") => {
            "this machine has a route to the same addresses already. \
             Try: configure other ones, or remove it"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{text} ({remedy})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(address: &str, bits: u8) -> Subnet {
        Subnet {
            address: address.parse().unwrap(),
            prefix: bits,
        }
    }

    #[test]
    fn each_change_stands_beside_its_undo() {
        let four = prefix("10.8.0.1", 24);
        let six = prefix("fd0f:e12e::1", 64);
        for (change, set, unset) in [
            (
                Change::Up { mtu: 9000 },
                "ip link set dev fern0 mtu 9000 up",
                "ip link set dev fern0 down",
            ),
            (
                Change::Address(four),
                "ip address add 10.8.0.1/24 dev fern0",
                "ip address del 10.8.0.1/24 dev fern0",
            ),
            (
                Change::Address(six),
                "ip address add fd0f:e12e::1/64 dev fern0 nodad",
                "ip address del fd0f:e12e::1/64 dev fern0",
            ),
            (
                Change::Route(prefix("::", 0), 1400),
                "ip route add ::/0 dev fern0 mtu 1400",
                "ip route del ::/0 dev fern0",
            ),
            (
                Change::Steered(prefix("0.0.0.0", 0), 1500),
                "ip route add 0.0.0.0/0 dev fern0 mtu 1500 table 12345",
                "ip route del 0.0.0.0/0 dev fern0 table 12345",
            ),
            (
                Change::Rule { ipv6: true },
                "ip -6 rule add not fwmark 12345 table 12345 priority 12345",
                "ip -6 rule del table 12345 priority 12345",
            ),
        ] {
            let line = |commands: Vec<Vec<String>>| {
                let lines = commands.iter().map(|argv| argv.join(" "));
                lines.collect::<Vec<_>>().join(" && ")
            };
            assert_eq!(
                (line(change.set("fern0")), line(change.unset("fern0"))),
                (set.to_owned(), unset.to_owned())
            );
        }
    }

    #[test]
    fn tables_are_told_apart_and_rules_filled_in() {
        assert_eq!(
            ["fern0", "fern7", "fern30000"].map(|name| (table(name), priority(name))),
            [(12345, 12345), (12352, 12352), (42345, MARK)]
        );
        assert!(table("office") >= 1 << 31 && table("office") != table("fern99999999"));
        assert_eq!(priority("office"), MARK);
        let own: [IpAddr; 2] = ["10.8.0.2".parse().unwrap(), "fd0f::2".parse().unwrap()];
        let text = filled(CLIENT_RULES, "fern7", "", &own, true, &[], &[]);
        for part in [
            "table inet fernvpn-fern7",
            "ip daddr 10.8.0.2/32 drop;",
            "ip6 saddr fd0f::2/128 return;",
            "nfproto ipv6",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(
            ![
                "TABLE", "DEVICE", "MARK", "PORTS", "FAMILY", "NET", "#", "\n"
            ]
            .iter()
            .any(|left| text.contains(left)),
            "{text}"
        );
        assert!(!filled(CLIENT_RULES, "fern7", "", &own, false, &[], &[]).contains("nfproto"));
    }

    #[test]
    fn what_is_gone_is_told_from_what_went_wrong() {
        for (text, gone) in [
            ("RTNETLINK answers: No such process", true),
            ("Cannot find device \"fern0\"", true),
            ("RTNETLINK answers: Operation not permitted", false),
        ] {
            assert_eq!(is_gone(&io::Error::other(text)), gone);
        }
    }

    #[test]
    fn puzzling_reasons_get_a_remedy() {
        let address = Change::Address(prefix("fd00::1", 64));
        let denied = explain(
            &address,
            io::Error::other("RTNETLINK answers: Permission denied"),
        );
        assert!(denied.to_string().contains("disable_ipv6"));
        let route = Change::Route(prefix("10.0.0.0", 8), 1500);
        assert!(
            explain(&route, io::Error::other("RTNETLINK answers: File exists"))
                .to_string()
                .contains("route")
        );
        assert_eq!(explain(&route, io::Error::other("x")).to_string(), "x");
    }
}
