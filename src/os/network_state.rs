//! What does the kernel have of a device's network, and is that what it must have?
//!
//! ```text
//! Network (what must be there) ──┐
//!                                ├─ compared: every 2 s, at each change that the kernel tells of,
//! NetworkState (what is there) ──┘  and after each change of our own ─> repaired, and logged
//! ```
//!
//! Other programs change a machine's network, too. A firewall is loaded anew, a network service
//! removes rules that it does not know, or a person sets a device down. So it is not enough to set
//! a tunnel up once.
//!
//! A check is eight questions to the kernel by netlink. It takes 0.6 ms in a debug build, which is
//! 0.03 % of a processor, and starts no program. Tables in nft are listed only if the kernel's
//! number for all rules has changed.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

pub use super::platform::network_state::{has_several_ways, keep};
use crate::packet::subnet::Subnet;

/// The kernel's main table.
pub(super) const MAIN: u32 = 254;

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub index: u32,
    pub name: String,
    pub is_up: bool,
    pub mtu: u32,
    pub group: u32,
    /// The kind, such as `bridge`, `veth` or `tun`. It is empty for hardware.
    pub kind: String,
    /// The bridge of which it is a port.
    pub master: Option<u32>,
    /// Whether this machine forwards packets from there. This is only known of veth pairs.
    pub forwards: bool,
}

/// A device's address. An address with a lifetime (DHCP, router advertisements) is not permanent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub device: u32,
    pub address: Subnet,
    pub is_permanent: bool,
}

/// A route. Without a device, it refuses packets or has several next hops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub to: Subnet,
    pub table: u32,
    pub device: Option<u32>,
    pub source: Option<IpAddr>,
    pub mtu: Option<u32>,
    pub metric: u32,
    pub is_unicast: bool,
    /// The devices by which it leads to a router.
    pub routers: Vec<u32>,
}

/// A rule that names a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub is_ipv6: bool,
    pub priority: u32,
    pub table: u32,
    /// The mark, if the rule is `not fwmark` this mark and has no other condition.
    pub unless_marked: Option<u32>,
    /// The address, if the rule is only for TCP to it.
    pub to: Option<SocketAddr>,
}

/// The state of the kernel.
#[derive(Debug, Default)]
pub(super) struct NetworkState {
    pub links: Vec<Link>,
    pub addresses: Vec<Address>,
    pub routes: Vec<Route>,
    pub rules: Vec<Rule>,
    /// A number that changes with nft's rules. `None` if the kernel does not report it.
    pub nft: Option<u32>,
}

impl NetworkState {
    /// Reads the state. The routes are those of `tables`, or all routes if there may be networks
    /// behind bridges.
    pub(super) fn look(tables: &[u32]) -> io::Result<NetworkState> {
        super::platform::network_state::look(tables)
    }

    pub(super) fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The devices that lead only to containers and virtual machines of this machine. Other devices
    /// do not count, because hosts there could call any address local (TunnelCrack). No route leads
    /// to a router behind these devices, and each is one of:
    ///
    /// * a bridge with virtual ports only, and so without an uplink;
    /// * one end of a veth pair with a private address, if this machine forwards. The other end
    ///   belongs to a container. (In a container, a veth is the uplink, but a container does not
    ///   forward.)
    pub(super) fn inner_devices(&self) -> BTreeSet<&str> {
        let leads_out = |index| self.routes.iter().any(|it| it.routers.contains(&index));
        let is_inner = |link: &&Link| {
            let mut ports = (self.links.iter()).filter(|port| port.master == Some(link.index));
            let mut own = (self.addresses.iter()).filter(|own| own.device == link.index);
            let is_inner = match link.kind.as_str() {
                "bridge" => ports.all(|it| ["veth", "tun", "dummy"].contains(&it.kind.as_str())),
                "veth" => link.forwards && own.all(|own| is_private(own.address.address)),
                _ => false,
            };
            link.is_up && link.master.is_none() && is_inner && !leads_out(link.index)
        };
        let inner = self.links.iter().filter(is_inner);
        inner.map(|link| link.name.as_str()).collect()
    }

    /// The networks behind these devices, each with the device and this machine's address. An
    /// address that was learnt there (by a container's router advertisement, or DHCP) does not
    /// count.
    pub(super) fn inner_networks(&self) -> Vec<(Subnet, &str, IpAddr)> {
        let devices = self.inner_devices();
        let inner = |own: &Address| {
            let link = self.links.iter().find(|link| link.index == own.device)?;
            let name = devices.get(link.name.as_str())?;
            let network = Subnet {
                address: own.address.network(),
                ..own.address
            };
            let is_network = network.prefix < Subnet::alone(network.address).prefix;
            (own.is_permanent && is_network && !is_link_local(network.address)).then_some((
                network,
                *name,
                own.address.address,
            ))
        };
        let mut networks: Vec<(Subnet, &str, IpAddr)> = Vec::new();
        for found in self.addresses.iter().filter_map(inner) {
            // The kernel prefers the first address in a network.
            if !networks.iter().any(|(network, ..)| *network == found.0) {
                networks.push(found);
            }
        }
        networks
    }
}

fn is_private(address: IpAddr) -> bool {
    let is_unique_local = matches!(address, IpAddr::V6(it) if it.is_unique_local());
    let is_private = matches!(address, IpAddr::V4(it) if it.is_private());
    is_private || is_unique_local || is_link_local(address)
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, kind: &str, master: Option<u32>) -> Link {
        Link {
            index,
            name: name.into(),
            is_up: true,
            mtu: 1500,
            group: 0,
            kind: kind.into(),
            master,
            forwards: kind == "veth" && name != "uplink",
        }
    }

    fn address(device: u32, address: &str, is_permanent: bool) -> Address {
        Address {
            device,
            address: address.parse().unwrap(),
            is_permanent,
        }
    }

    #[test]
    fn what_has_a_way_out_is_not_inside() {
        let mut state = NetworkState {
            links: vec![
                link(2, "eth0", "", None),
                link(3, "eth1", "", Some(5)),
                link(4, "docker0", "bridge", None),
                link(5, "br0", "bridge", None),
                link(6, "veth1", "veth", Some(4)),
                link(7, "virbr0", "bridge", None),
                link(8, "vnet0", "tun", Some(7)),
                link(9, "br1", "bridge", None),
                link(10, "eth1.7", "vlan", Some(9)),
                link(11, "ve-box", "veth", None),
                link(12, "veth3", "veth", None),
                link(13, "uplink", "veth", None),
            ],
            addresses: vec![
                address(2, "203.0.113.5/24", true),
                address(4, "172.17.0.1/16", true),
                address(4, "172.17.0.9/16", true),
                address(4, "fe80::1/64", true),
                address(4, "2001:db8::1/64", false),
                address(5, "192.0.2.1/24", true),
                address(7, "192.168.122.1/24", true),
                address(7, "fd00:1::1/64", true),
                address(7, "10.9.9.9/32", true),
                address(9, "192.0.3.1/24", true),
                address(11, "10.5.0.1/24", true),
                address(12, "198.51.100.1/24", true),
                address(13, "10.6.0.1/24", true),
            ],
            ..NetworkState::default()
        };
        let found = |state: &NetworkState| {
            let networks = state.inner_networks();
            let one = |(network, name, source): &(Subnet, &str, IpAddr)| {
                format!("{network} {name} {source}")
            };
            networks.iter().map(one).collect::<Vec<_>>()
        };
        assert_eq!(
            found(&state),
            [
                "172.17.0.0/16 docker0 172.17.0.1",
                "192.168.122.0/24 virbr0 192.168.122.1",
                "fd00:1::/64 virbr0 fd00:1::1",
                "10.5.0.0/24 ve-box 10.5.0.1",
            ]
        );
        // A router behind it makes it an uplink, whatever its ports are.
        state.routes.push(Route {
            to: "0.0.0.0/0".parse().unwrap(),
            table: MAIN,
            device: Some(7),
            source: None,
            mtu: None,
            metric: 0,
            is_unicast: true,
            routers: vec![7],
        });
        let expected = [
            "172.17.0.0/16 docker0 172.17.0.1",
            "10.5.0.0/24 ve-box 10.5.0.1",
        ];
        assert_eq!(found(&state), expected);
        state.links[2].is_up = false;
        assert_eq!(found(&state), expected[1..]);
    }
}
