//! Does this machine have the tunnel's addresses on another link as well?
//!
//! If two links have one network, the kernel sends everything to one of them. The tunnel then seems
//! to be up while nothing passes. This checks the routes of the main table. A route over a gateway
//! that is larger than the tunnel's network is no overlap, because the tunnel's route is longer and
//! wins.

use std::fmt;
use std::fs;

use super::command;
use crate::packet::subnet::Subnet;

/// The link group of all devices of fernvpn's servers on this machine, so that they recognise each
/// other.
pub(super) const GROUP: u32 = 12345;

/// A network of the tunnel that is on another link as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The tunnel's.
    pub network: Subnet,
    /// The other one.
    pub other: Subnet,
    /// The device of the other one.
    pub device: String,
    /// Whether that device belongs to another server.
    pub is_server: bool,
    /// Whether `network` is a route of the tunnel, and not its own network.
    pub is_route: bool,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Overlap {
            network,
            other,
            device,
            ..
        } = self;
        let (what, remedy) = if self.is_route {
            (
                "route",
                "leave it out on the client (routes = ...)".to_owned(),
            )
        } else {
            let remedy =
                format!("another network for the tunnel (on the server: address = {SUGGESTED})");
            ("network", remedy)
        };
        write!(
            f,
            "the tunnel's {what} {network} overlaps {other} of {device}: \
             packets to these addresses go to only one of the two. \
             Try: {remedy}, or another network for {device}"
        )
    }
}

/// A network that few people have at home.
const SUGGESTED: &str = "10.198.86.1/24";

/// Networks for a server without configured ones, if the default ones are in use.
const OTHERS: [&str; 5] = [
    SUGGESTED,
    "10.86.198.1/24",
    "172.27.198.1/24",
    "fd0f:e12e:1::1/64",
    "fd0f:e12e:2::1/64",
];

/// All overlaps of the tunnel's networks. The tunnel's own device does not count.
pub fn overlaps(networks: &[Subnet], own: &str) -> Vec<Overlap> {
    let mut found = Vec::new();
    for (family, is_ipv4) in [("-4", true), ("-6", false)] {
        let mut networks = networks.iter().filter(|it| it.address.is_ipv4() == is_ipv4);
        if let Some(first) = networks.next() {
            let said = command::said(&["ip", family, "route", "show"]).unwrap_or_default();
            let networks: Vec<Subnet> = std::iter::once(first).chain(networks).copied().collect();
            found.extend(in_routes(&said, &networks, own));
        }
    }
    for overlap in &mut found {
        let group = format!("/sys/class/net/{}/netdev_group", overlap.device);
        let group = fs::read_to_string(group).unwrap_or_default();
        overlap.is_server = group.trim() == GROUP.to_string();
    }
    found
}

/// Replaces each of `networks` that this machine uses already by a free one of the same family. The
/// others stay.
pub fn free(networks: &[Subnet], own: &str) -> Vec<Subnet> {
    let is_free = |network: &Subnet| overlaps(&[*network], own).is_empty();
    let instead_of = |network: &Subnet| {
        let others = OTHERS.iter().filter_map(|text| text.parse::<Subnet>().ok());
        let is_ipv4 = network.address.is_ipv4();
        std::iter::once(*network)
            .chain(others.filter(move |other| other.address.is_ipv4() == is_ipv4))
            .find(is_free)
            .unwrap_or(*network)
    };
    networks.iter().map(instead_of).collect()
}

/// The overlaps in the output of `ip route show`.
fn in_routes(said: &str, networks: &[Subnet], own: &str) -> Vec<Overlap> {
    let mut found: Vec<Overlap> = Vec::new();
    for line in said.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |word: &str| {
            let at = words.iter().position(|it| *it == word)?;
            words.get(at + 1).copied()
        };
        // `default` is not a network, and neither are `unreachable` and similar words.
        let other = words.first().and_then(|word| word.parse::<Subnet>().ok());
        let (Some(other), Some(device)) = (other, after("dev")) else {
            continue;
        };
        if device == own || device == "lo" || other.prefix == 0 {
            continue;
        }
        for network in networks {
            let network = Subnet {
                address: network.network(),
                ..*network
            };
            let is_inside = network.contains(other.address) && network.prefix <= other.prefix;
            let is_around = other.contains(network.address) && after("via").is_none();
            let overlap = Overlap {
                network,
                other,
                device: device.into(),
                is_server: false,
                is_route: false,
            };
            if (is_inside || is_around) && !found.contains(&overlap) {
                found.push(overlap);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_on_another_link_is_found() {
        let said = "default via 192.168.1.1 dev eth0 proto dhcp src 192.168.1.5 metric 100\n\
                    10.0.0.0/8 via 192.168.1.2 dev eth0\n\
                    10.8.0.0/24 dev fern0 proto kernel scope link src 10.8.0.1\n\
                    10.8.0.0/16 dev lan0 proto kernel scope link src 10.8.3.1\n\
                    10.8.0.77 via 192.168.1.3 dev eth0\n\
                    10.9.0.0/24 dev lan1 proto kernel scope link src 10.9.0.1\n\
                    unreachable 10.8.0.0/24\n";
        let networks = ["10.8.0.1/24".parse().unwrap()];
        let found = in_routes(said, &networks, "fern0");
        let found: Vec<String> = found
            .iter()
            .map(|it| format!("{} {} {}", it.network, it.other, it.device))
            .collect();
        assert_eq!(
            found,
            [
                "10.8.0.0/24 10.8.0.0/16 lan0",
                "10.8.0.0/24 10.8.0.77/32 eth0"
            ]
        );
        let six =
            "fd0f:e12e::/64 dev eth1 proto kernel metric 256 pref medium\nfe80::/64 dev eth1\n";
        assert_eq!(
            in_routes(six, &["fd0f:e12e::1/64".parse().unwrap()], "fern0").len(),
            1
        );
        assert_eq!(in_routes(six, &networks, "fern0"), []);
    }
}
