//! What is changed in the network, and how is each change put back?
//!
//! The table is [`Change`]: what sets it and what unsets it stand side by side. Each is one `ip`
//! command, printed when it runs.
//!
//! Most of it would go by itself: the addresses and routes of a device of our own vanish with its
//! descriptor (kill -9 included), those in a private network with the namespace, where nothing is
//! undone at all. On the host they are undone because the device may be one that was there before
//! us and stays (`ip tuntap add ... user`); that something is gone already is no error then.
//!
//! A client on the host leaves the main table alone, because a route that somebody else puts there
//! (a DHCP server's option 121, a "local" network of public addresses) would win by being longer.
//! Its routes are in a table of their own, which a rule asks before the main one, for whatever has
//! not the mark [`MARK`]:
//!
//! ```text
//! carrier, marked by its socket ───────────────────────┐
//! reply to a connection from outside, marked by nft ───┴─> main table ─> physical interface
//! everything else ───> own table ─> tunnel device, or, if it has no route for it, main table
//! ```
//!
//! Rules and firewall outlive a killed process. They are recognised by their numbers and names,
//! which the device's name decides: whoever has just opened that device knows that they are
//! nobody's, and clears them ([`Network::clear`]). Only the kill switch ([`lock`]) is meant to
//! stay.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use super::namespace::Namespace;
use super::resolver::{self, Resolvers};
use super::{command, log, rules};
use crate::packet::subnet::Subnet;

/// The mark of what goes around the tunnel. Also the number of the first client's routing table,
/// and of its rule.
pub const MARK: u32 = 12345;

/// Where the device is.
#[derive(Debug)]
pub enum Place {
    /// In the network everybody uses.
    Host,
    /// In a network of its own.
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
    /// The device is up and carries packets of at most so many bytes.
    Up {
        /// At least 1280 for IPv6 to work.
        mtu: u16,
    },
    /// The device has this address.
    Address(Subnet),
    /// Packets to these addresses, of at most so many bytes each, go into the device.
    Route(Subnet, u16),
    /// The same by the client's own table.
    Steered(Subnet, u16),
    /// That table is asked before the main one, for IPv6 (or IPv4).
    Rule {
        /// Which of the two.
        ipv6: bool,
    },
    /// nft's table of the client: replies keep their way, and packets to the tunnel address come by
    /// the tunnel.
    Firewall {
        /// The tunnel addresses.
        own: Vec<IpAddr>,
        /// Whether IPv6 is not to leave at all, because the tunnel does not carry it.
        refuse_ipv6: bool,
    },
    /// Where strict reverse path filtering would drop the carrier's packets: judge them by their
    /// mark.
    ValidMark,
}

impl Change {
    /// The command that makes the change.
    fn set(&self, device: &str) -> String {
        match self {
            Change::Up { mtu } => format!("ip link set dev {device} mtu {mtu} up"),
            // nodad: nobody else is on this link, and waiting for a duplicate would hold up the
            // first packets.
            Change::Address(prefix) if prefix.address.is_ipv6() => {
                format!("ip address add {prefix} dev {device} nodad")
            }
            Change::Address(prefix) => format!("ip address add {prefix} dev {device}"),
            // add, not replace: a route that is there already is somebody else's, and could not be
            // put back.
            Change::Route(prefix, mtu) => format!("ip route add {prefix} dev {device} mtu {mtu}"),
            Change::Steered(prefix, mtu) => {
                format!(
                    "ip route add {prefix} dev {device} mtu {mtu} table {}",
                    table(device)
                )
            }
            Change::Rule { ipv6 } => {
                format!(
                    "ip {} rule add not fwmark {MARK} {}",
                    family(*ipv6),
                    rule(device)
                )
            }
            Change::Firewall { own, refuse_ipv6 } => {
                format!(
                    "nft '{}",
                    filled(CLIENT_RULES, device, "", own, *refuse_ipv6)
                )
            }
            // A table without rules remembers that it was 0, as long as the kernel does: see
            // `clear`.
            Change::ValidMark => {
                format!("nft add table inet fernvpn-{device}-mark && {VALID_MARK}=1")
            }
        }
    }

    /// Whether both are about the same thing, of which there can be only one.
    fn is_replaced_by(&self, new: &Change) -> bool {
        match (self, new) {
            (Change::Route(old, _), Change::Route(new, _))
            | (Change::Steered(old, _), Change::Steered(new, _)) => old == new,
            (Change::Firewall { .. }, Change::Firewall { .. })
            | (Change::Up { .. }, Change::Up { .. }) => true,
            _ => false,
        }
    }

    /// The command that makes the change where an older one of ours is replaced by it.
    fn replace(&self, device: &str) -> String {
        self.set(device)
            .replacen("ip route add ", "ip route replace ", 1)
    }

    /// The command that takes it back.
    fn unset(&self, device: &str) -> String {
        match self {
            Change::Up { .. } => format!("ip link set dev {device} down"),
            Change::Address(prefix) => format!("ip address del {prefix} dev {device}"),
            Change::Route(prefix, _) => format!("ip route del {prefix} dev {device}"),
            Change::Steered(prefix, _) => {
                format!("ip route del {prefix} dev {device} table {}", table(device))
            }
            Change::Rule { ipv6 } => format!("ip {} rule del {}", family(*ipv6), rule(device)),
            Change::Firewall { .. } => format!("nft delete table inet fernvpn-{device}"),
            // The last of several clients sets it back.
            Change::ValidMark if tables("-mark").len() > 1 => {
                format!("nft delete table inet fernvpn-{device}-mark")
            }
            Change::ValidMark => {
                format!("{VALID_MARK}=0 && nft delete table inet fernvpn-{device}-mark")
            }
        }
    }
}

/// Largest packet to where the tunnel's own network ends: the links there are Ethernet, mostly. The
/// carrier cuts a packet of any size as it likes, so between the tunnel's ends only the device sets
/// a limit.
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

/// fern1 has the table after fern0's. A device without a number has fern0's too.
fn table(device: &str) -> u32 {
    let digits = device.trim_start_matches(|c: char| !c.is_ascii_digit());
    MARK + digits.parse::<u16>().map_or(0, u32::from)
}

fn rule(device: &str) -> String {
    format!("table {0} priority {0}", table(device))
}

/// A text for nft, filled in, for the table `fernvpn-DEVICE` and `kind`.
fn filled(file: &str, device: &str, kind: &str, own: &[IpAddr], refuse_ipv6: bool) -> String {
    let (mark, ports) = (MARK.to_string(), rules::local_ports().0.to_string());
    let own: Vec<Subnet> = own.iter().map(|address| Subnet::alone(*address)).collect();
    let refuse = if refuse_ipv6 { &[ALL_IPV6][..] } else { &[] };
    rules::filled(
        file,
        &[
            ("TABLE", &format!("fernvpn-{device}{kind}")),
            ("DEVICE", device),
            ("MARK", &mark),
            ("PORTS", &ports),
        ],
        &[("OWN", &own), ("REFUSE-IPV6", refuse)],
    )
}

/// Begins the kill switch of a client with this device. It lasts until [`unlock`].
pub fn lock(device: &str) -> io::Result<()> {
    let text = concat!(include_str!("client.nft"), include_str!("lock.nft"));
    command::run(&["nft", &filled(text, device, "-lock", &[], false)])
}

/// Ends the kill switch of a client with this device, or each that there is.
pub fn unlock(device: Option<&str>) -> io::Result<()> {
    let locks = device.map_or_else(
        || tables("-lock"),
        |device| vec![format!("fernvpn-{device}-lock")],
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

/// nft's tables of clients on this machine whose name ends so.
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

/// Whether packets of marked sockets could be dropped on arrival: the kernel asks its tables
/// without the mark whether they come by the interface by which it would answer.
fn filters_strictly() -> bool {
    let read = |path: std::path::PathBuf| {
        std::fs::read_to_string(path).is_ok_and(|value| value.trim() == "1")
    };
    let folder = Path::new("/proc/sys/net/ipv4/conf");
    let strict = std::fs::read_dir(folder).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|interface| read(interface.path().join("rp_filter")))
    });
    // Another client may have set it, and will set it back.
    strict && (!read(folder.join("all/src_valid_mark")) || !tables("-mark").is_empty())
}

/// Whether these routes take most of IPv4.
pub fn are_full(routes: &[Subnet]) -> bool {
    let size = |route: &Subnet| (route.address.is_ipv4()).then(|| 1_u64 << (32 - route.prefix));
    routes.iter().filter_map(size).sum::<u64>() >= 1 << 31
}

/// Whether there is a device of this name, as far as can be known.
pub fn has_device(name: &str) -> bool {
    let devices = Path::new("/sys/class/net");
    !devices.exists() || devices.join(name).exists()
}

/// The changes made for one device. They are undone when it is dropped.
#[derive(Debug)]
pub struct Network {
    place: Place,
    device: String,
    made: Vec<Change>,
    resolvers: Resolvers,
}

impl Network {
    /// No change yet. `device` is the name of an open `Tun`, and so a valid one without blanks.
    pub fn new(place: Place, device: &str) -> Network {
        Network {
            place,
            device: device.to_owned(),
            made: Vec::new(),
            resolvers: Resolvers::new(device),
        }
    }

    /// The private network, if the device is in one.
    pub fn private(&self) -> Option<&Namespace> {
        match &self.place {
            Place::Private(namespace) => Some(namespace),
            Place::Host => None,
        }
    }

    /// Whether the device can have IPv6, with an MTU like this. (A network of its own begins with
    /// the kernel's defaults.)
    fn has_ipv6(&self, mtu: u16) -> bool {
        let disabled = std::fs::read_to_string("/proc/sys/net/ipv6/conf/default/disable_ipv6");
        mtu >= 1280 && disabled.is_ok_and(|value| self.private().is_some() || value.trim() == "0")
    }

    /// Whether another one has IPv6.
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

    /// Clears what a client with this device has left on the host when it was killed.
    pub fn clear(&self) {
        if self.private().is_some() {
            return;
        }
        resolver::clear(&self.device);
        let table = table(&self.device).to_string();
        for family in ["-4", "-6"] {
            while command::attempt(&[
                "ip", family, "rule", "del", "priority", &table, "table", &table,
            ]) {}
        }
        command::attempt(&[
            "nft",
            "delete",
            "table",
            "inet",
            &format!("fernvpn-{}", self.device),
        ]);
        if tables("-mark").contains(&format!("fernvpn-{}-mark", self.device))
            && let Err(error) = self.run(&Change::ValidMark.unset(&self.device))
        {
            log::warning("os", "not undone", &[("reason", &error)]);
        }
    }

    /// Sets the device up, or changes it to this.
    ///
    /// # Errors
    /// A sentence that names the command that failed.
    pub fn set_up(&mut self, mtu: u16, addresses: &[Subnet], routes: &[Subnet]) -> io::Result<()> {
        let mut wanted = vec![Change::Up { mtu }];
        wanted.extend(addresses.iter().map(|address| Change::Address(*address)));
        wanted.extend(
            routes
                .iter()
                .map(|route| Change::Route(*route, mtu.min(BEYOND))),
        );
        self.change_to(wanted)
    }

    /// The same for a client, with its resolvers. On the host it steers by a table of its own.
    ///
    /// # Errors
    /// A sentence that names the command that failed.
    pub fn set_up_client(
        &mut self,
        mtu: u16,
        addresses: &[Subnet],
        routes: &[Subnet],
        resolvers: &[IpAddr],
    ) -> io::Result<()> {
        // What this machine cannot have is left out: a tunnel for IPv4 alone is better than none.
        let has_ipv6 = self.has_ipv6(mtu);
        let of_use = |own: &&Subnet| has_ipv6 || own.address.is_ipv4();
        if !addresses.iter().all(|own| of_use(&own)) {
            let text = "the tunnel is for IPv4 alone: its mtu is below 1280, or IPv6 is switched off here \
                        (net.ipv6.conf.default.disable_ipv6)";
            log::info("os", text, &[]);
        }
        let addresses = &addresses.iter().filter(of_use).copied().collect::<Vec<_>>()[..];
        let routes = &routes.iter().filter(of_use).copied().collect::<Vec<_>>()[..];
        if self.private().is_some() {
            return self.set_up(mtu, addresses, routes);
        }
        let carries_ipv6 = addresses.iter().any(|own| own.address.is_ipv6());
        // Most of IPv4 by a tunnel without IPv6: then no IPv6 at all, rather than past the tunnel.
        let is_full = are_full(routes);
        let refuse_ipv6 = is_full && !carries_ipv6 && has_ipv6;
        if is_full && !has_ipv6 && self.others_have_ipv6() {
            let text = "IPv6 goes past the tunnel, whose device cannot have it (its mtu is below 1280, or \
                        net.ipv6.conf.default.disable_ipv6 is set); kill-switch = yes stops it";
            log::warning("os", text, &[]);
        }
        let own = addresses.iter().map(|own| own.address).collect();
        let mut wanted = vec![Change::Up { mtu }];
        wanted.extend(addresses.iter().map(|address| Change::Address(*address)));
        wanted.push(Change::Firewall { own, refuse_ipv6 });
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
            let strict = self.made.contains(&Change::ValidMark) || filters_strictly();
            wanted.extend(strict.then_some(Change::ValidMark));
            wanted.push(Change::Rule { ipv6: false });
            wanted.extend((carries_ipv6 || refuse_ipv6).then_some(Change::Rule { ipv6: true }));
        }
        self.change_to(wanted)?;
        self.resolvers.change_to(resolvers);
        Ok(())
    }

    /// Makes what is new, and then takes back what is no longer wanted: in between both are there,
    /// since the kernel drops all IPv4 routes of a device with its last address. What is here
    /// after a failure is what was made, so that something else can be wanted then.
    fn change_to(&mut self, mut wanted: Vec<Change>) -> io::Result<()> {
        for new in &wanted {
            if self.made.contains(new) {
                continue;
            }
            if let Change::Address(address) = new {
                self.make_room_for(address)?;
            }
            let replaced = self.made.iter().position(|old| old.is_replaced_by(new));
            let done = match replaced {
                Some(_) => self.run(&new.replace(&self.device)),
                None => self.run(&new.set(&self.device)),
            };
            done.map_err(|error| explain(new, error))?;
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
        }
        wanted.retain(|wanted| self.made.contains(wanted));
        self.made = wanted;
        Ok(())
    }

    /// Lets a second address come and the first go. An IPv4 address in the same network as an older
    /// one goes with that one, unless the kernel is told to promote it. IPv6 has an address once,
    /// whatever its prefix length.
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
            if let Err(error) = self.run(&format!("sysctl -q -w {setting}")) {
                let text = "the tunnel may stand still for a moment while its address changes";
                log::warning("os", text, &[("reason", &error)]);
            }
        }
        Ok(())
    }

    /// No name, address or number in our commands has a blank; only nft's rules do, one quoted word
    /// at the end.
    fn run(&self, line: &str) -> io::Result<()> {
        line.split(" && ").try_for_each(|line| {
            let (plain, quoted) = line.split_once(" '").unzip();
            self.place.run(
                &plain
                    .unwrap_or(line)
                    .split(' ')
                    .chain(quoted)
                    .collect::<Vec<_>>(),
            )
        })
    }
}

/// Takes everything back, last change first, and goes on after a failure, which is logged.
impl Drop for Network {
    fn drop(&mut self) {
        if self.private().is_some() {
            return; // it all goes with the namespace
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

/// What the kernel says, through `ip`, of a device, route or address that does not exist (any
/// more).
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

/// Adds what to do, where `ip` gives only a reason, and a puzzling one.
fn explain(change: &Change, error: io::Error) -> io::Error {
    let text = error.to_string();
    let remedy = match change {
        Change::Address(prefix)
            if prefix.address.is_ipv6()
                && (text.contains("Permission denied") || text.contains("IPv6 is disabled")) =>
        {
            "IPv6 is switched off on this machine: sysctl net.ipv6.conf.default.disable_ipv6=0, or IPv4 alone: address = 10.8.0.1/24"
        }
        Change::Route(..) if text.contains("File exists") => {
            "this machine has a route to the same addresses already: configure other ones, or remove it"
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
            assert_eq!(
                (change.set("fern0"), change.unset("fern0")),
                (set.to_owned(), unset.to_owned())
            );
        }
    }

    #[test]
    fn tables_are_told_apart_and_rules_filled_in() {
        assert_eq!(
            ["fern0", "fern7", "office", "a99999999"].map(table),
            [12345, 12352, 12345, 12345]
        );
        let own: [IpAddr; 2] = ["10.8.0.2".parse().unwrap(), "fd0f::2".parse().unwrap()];
        let text = filled(CLIENT_RULES, "fern7", "", &own, true);
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
        assert!(!filled(CLIENT_RULES, "fern7", "", &own, false).contains("nfproto"));
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
