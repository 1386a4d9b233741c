//! What does the kernel know of a network, and has it changed?
//!
//! This reads rtnetlink(7) without a program in between. A look at links, addresses, routes and
//! rules takes a fraction of a millisecond, so a laptop can do it every two seconds. Only `ip` and
//! `nft` make changes, and those commands are shown.
//!
//! ```text
//!  request    length u32 | type u16 | flags u16 | sequence u32 | port u32 | header | attributes
//!  attribute  length u16 | type u16 | value | padding to 4 bytes
//! ```
//!
//! [`Watch`] wakes its caller as soon as anything changes, nft's rules included.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use crate::os::network_state::{Address, Link, Route, Rule};
use crate::os::sys;
use crate::packet::subnet::Subnet;

// include/uapi/linux: netlink.h, rtnetlink.h, if_link.h, if_addr.h, fib_rules.h, nfnetlink.h,
// nf_tables.h
const NETLINK_ROUTE: i32 = 0;
const NETLINK_NETFILTER: i32 = 12;
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const GET_LINK: u16 = 18;
const GET_ADDRESS: u16 = 22;
const GET_ROUTE: u16 = 26;
const GET_RULE: u16 = 34;
const GET_GENERATION: u16 = 10 << 8 | 16;
/// Groups: link, IPv4 address, route and rule, IPv6 address and route, IPv6 rule.
const ROUTE_GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18;
const NFT_GROUP: u32 = 1 << 6;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const ENOENT: i32 = 2;

/// Asks the kernel about the network in which it was opened.
#[derive(Debug)]
pub(super) struct Netlink {
    route: OwnedFd,
    nft: OwnedFd,
    buffer: Vec<u8>,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Netlink> {
        let route = sys::netlink_socket(NETLINK_ROUTE, 0)?;
        // The kernel then only sends what was asked for. An older kernel sends everything.
        let _ = sys::set_option(
            route.as_fd(),
            sys::SOL_NETLINK,
            sys::NETLINK_GET_STRICT_CHK,
            1,
        );
        Ok(Netlink {
            route,
            nft: sys::netlink_socket(NETLINK_NETFILTER, 0)?,
            buffer: vec![0; 1 << 16],
        })
    }

    pub(super) fn links(&mut self) -> io::Result<Vec<Link>> {
        let mut links = Vec::new();
        let mut ask = vec![0; 16];
        ask.extend(attribute(29, &8u32.to_ne_bytes())); // without counters
        self.dump(GET_LINK, &ask, |header, attributes| {
            let mut link = Link {
                index: number(&header[4..8]),
                name: String::new(),
                is_up: number(&header[8..12]) & 1 != 0,
                mtu: 0,
                group: 0,
                kind: String::new(),
                master: None,
                forwards: false,
            };
            for (kind, value) in attributes {
                match kind {
                    3 => link.name = text(value),
                    4 => link.mtu = number(value),
                    27 => link.group = number(value),
                    10 => link.master = Some(number(value)),
                    18 => {
                        link.kind = Attributes(value)
                            .find(|(kind, _)| *kind == 1)
                            .map(|(_, kind)| text(kind))
                            .unwrap_or_default();
                    }
                    _ => {}
                }
            }
            links.push(link);
        })?;
        Ok(links)
    }

    pub(super) fn addresses(&mut self) -> io::Result<Vec<Address>> {
        let mut addresses = Vec::new();
        self.dump(GET_ADDRESS, &[0; 8], |header, attributes| {
            let (mut address, mut local, mut flags) = (None, None, u32::from(header[2]));
            for (kind, value) in attributes {
                match kind {
                    1 => address = ip(value),
                    2 => local = ip(value),
                    8 => flags = number(value),
                    _ => {}
                }
            }
            // If there is a peer, the first address is the peer's.
            if let Some(address) = local.or(address) {
                addresses.push(Address {
                    device: number(&header[4..8]),
                    address: Subnet {
                        address,
                        prefix: header[1],
                    },
                    is_permanent: flags & 0x80 != 0,
                });
            }
        })?;
        Ok(addresses)
    }

    /// The routes of one table, or of all.
    pub(super) fn routes(&mut self, table: Option<u32>) -> io::Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let mut ask = vec![0; 12];
            ask[0] = family;
            if let Some(table) = table {
                ask.extend(attribute(15, &table.to_ne_bytes()));
            }
            let dumped = self.dump(GET_ROUTE, &ask, |header, attributes| {
                let route = route(header, attributes);
                // 0x200 marks IPv6's cache.
                if number(&header[8..12]) & 0x200 == 0 && table.is_none_or(|it| it == route.table) {
                    routes.push(route);
                }
            });
            // A table without a route does not exist.
            dumped.or_else(|error| match error.raw_os_error() {
                Some(ENOENT) => Ok(()),
                _ => Err(error),
            })?;
        }
        Ok(routes)
    }

    pub(super) fn rules(&mut self) -> io::Result<Vec<Rule>> {
        let mut rules = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let mut ask = [0; 12];
            ask[0] = family;
            self.dump(GET_RULE, &ask, |header, attributes| {
                let mut rule = Rule {
                    is_ipv6: family == AF_INET6,
                    priority: 0,
                    table: header[4].into(),
                    unless_marked: None,
                    to: None,
                };
                let (mut mark, mut mask, mut others) = (None, u32::MAX, 0);
                let (mut to, mut port) = (None, None);
                for (kind, value) in attributes {
                    match kind {
                        1 => to = ip(value),
                        6 => rule.priority = number(value),
                        // struct fib_rule_port_range: first u16 | last u16
                        24 => port = value.first_chunk().map(|two| u16::from_ne_bytes(*two)),
                        10 => mark = Some(number(value)),
                        15 => rule.table = number(value),
                        16 => mask = number(value),
                        // These attributes are ignored: who made the rule, and that it suppresses
                        // nothing.
                        21 => {}
                        13 | 14 if number(value) == u32::MAX => {}
                        _ => others += 1,
                    }
                }
                let is_plain = header[1] == 0 && header[2] == 0 && header[3] == 0;
                let is_inverted = number(&header[8..12]) & 2 != 0;
                if is_plain
                    && is_inverted
                    && header[7] == 1
                    && mask == u32::MAX
                    && port.is_none()
                    && others == 0
                {
                    rule.unless_marked = mark;
                }
                rule.to = to.zip(port).map(SocketAddr::from);
                rules.push(rule);
            })?;
        }
        Ok(rules)
    }

    /// Whether the kernel spreads connections with this mark to this address over several routers.
    pub(super) fn has_several_ways(&mut self, to: IpAddr, mark: Option<u32>) -> io::Result<bool> {
        let mut ask = vec![0; 12];
        (ask[0], ask[1]) = (if to.is_ipv4() { AF_INET } else { AF_INET6 }, bits(to));
        ask[8..12].copy_from_slice(&0x2000u32.to_ne_bytes()); // the route itself, not what it gives
        match to {
            IpAddr::V4(to) => ask.extend(attribute(1, &to.octets())),
            IpAddr::V6(to) => ask.extend(attribute(1, &to.octets())),
        }
        mark.inspect(|mark| ask.extend(attribute(16, &mark.to_ne_bytes())));
        let mut several = false;
        self.ask(false, GET_ROUTE, 0, &ask, |header, mut attributes| {
            several |= header.len() == 12 && attributes.any(|(kind, _)| kind == 9);
        })?;
        Ok(several)
    }

    /// A number that changes with every change of nft's rules.
    pub(super) fn nft_generation(&mut self) -> io::Result<u32> {
        let mut generation = None;
        self.ask(
            true,
            GET_GENERATION,
            0,
            &[0, 0, 0, 0],
            |_, mut attributes| {
                generation = attributes
                    .find(|(kind, _)| *kind == 1)
                    .map(|(_, value)| number(value));
            },
        )?;
        generation.ok_or_else(|| ErrorKind::InvalidData.into())
    }

    fn dump(
        &mut self,
        kind: u16,
        ask: &[u8],
        each: impl FnMut(&[u8], Attributes<'_>),
    ) -> io::Result<()> {
        self.ask(false, kind, DUMP, ask, each)
    }

    /// Sends a request, and hands each message of the answer to `each`. The kernel answers while
    /// the request is sent, so there is nothing to wait for.
    fn ask(
        &mut self,
        nft: bool,
        kind: u16,
        flags: u16,
        ask: &[u8],
        mut each: impl FnMut(&[u8], Attributes<'_>),
    ) -> io::Result<()> {
        let socket = if nft { &self.nft } else { &self.route }.as_fd();
        // This drops the rest of an earlier, interrupted answer.
        while sys::receive_now(socket, &mut self.buffer).is_ok() {}
        let length = u32::try_from(16 + ask.len()).map_err(|_| ErrorKind::InvalidInput)?;
        let mut request = length.to_ne_bytes().to_vec();
        request.extend(kind.to_ne_bytes());
        request.extend((REQUEST | flags).to_ne_bytes());
        request.extend([0; 8]);
        request.extend(ask);
        sys::send_now(socket, &request, false)?;
        // The length of each type's own header, see linux/rtnetlink.h.
        let header = match kind {
            GET_LINK => 16,
            GET_ADDRESS => 8,
            GET_GENERATION => 4,
            _ => 12,
        };
        loop {
            let read = sys::receive_now(socket, &mut self.buffer)?;
            let mut rest = &self.buffer[..read];
            while let Some((message, after)) = next_message(rest) {
                rest = after;
                match (message.kind, message.body) {
                    (DONE, _) => return Ok(()),
                    (ERROR, body) => {
                        let number = body
                            .first_chunk()
                            .map_or(0, |four| i32::from_ne_bytes(*four));
                        return match number {
                            0 => Ok(()),
                            number => Err(io::Error::from_raw_os_error(number.saturating_neg())),
                        };
                    }
                    (_, body) => {
                        if let Some((header, attributes)) = body.split_at_checked(header) {
                            each(header, Attributes(attributes));
                        }
                    }
                }
            }
            if flags & DUMP == 0 {
                return Ok(());
            }
        }
    }
}

fn route(header: &[u8], attributes: Attributes<'_>) -> Route {
    let mut route = Route {
        to: Subnet {
            address: if header[0] == AF_INET {
                IpAddr::from([0; 4])
            } else {
                IpAddr::from([0; 16])
            },
            prefix: header[1],
        },
        table: header[4].into(),
        device: None,
        source: None,
        mtu: None,
        metric: 0,
        is_unicast: header[7] == 1,
        routers: Vec::new(),
    };
    let mut has_router = false;
    for (kind, value) in attributes {
        match kind {
            1 => route.to.address = ip(value).unwrap_or(route.to.address),
            4 => route.device = Some(number(value)),
            5 | 18 => has_router = true,
            6 => route.metric = number(value),
            7 => route.source = ip(value),
            8 => {
                route.mtu = Attributes(value)
                    .find(|(kind, _)| *kind == 2)
                    .map(|(_, value)| number(value));
            }
            9 => route.routers = next_hops(value),
            15 => route.table = number(value),
            _ => {}
        }
    }
    if has_router {
        route.routers.extend(route.device);
    }
    route
}

/// `struct rtnexthop`: length u16 | flags u8 | hops u8 | device i32 | attributes.
fn next_hops(mut bytes: &[u8]) -> Vec<u32> {
    let mut devices = BTreeSet::new();
    while let Some((head, _)) = bytes.split_at_checked(8) {
        devices.insert(number(&head[4..8]));
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]])).max(8);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    devices.into_iter().collect()
}

fn bits(address: IpAddr) -> u8 {
    Subnet::alone(address).prefix
}

fn number(bytes: &[u8]) -> u32 {
    bytes
        .first_chunk()
        .map_or(0, |four| u32::from_ne_bytes(*four))
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

struct Message<'a> {
    kind: u16,
    body: &'a [u8],
}

/// Splits off the first message.
fn next_message(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let length = usize::try_from(number(bytes.get(..4)?)).ok()?;
    let message = Message {
        kind: u16::from_ne_bytes(*bytes.get(4..6)?.first_chunk()?),
        body: bytes.get(16..length)?,
    };
    Some((
        message,
        bytes.get(length.next_multiple_of(4)..).unwrap_or_default(),
    ))
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + u16::try_from(value.len()).unwrap_or_default();
    [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat()
}

/// The types and values. A truncated one ends them.
#[derive(Clone, Copy)]
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let [a, b, c, d] = *self.0.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        // The two highest bits say how the value is to be read.
        Some((u16::from_ne_bytes([c, d]) & 0x3fff, value))
    }
}

/// Hears of changes to links, addresses, routes, rules and nft's tables.
#[derive(Debug)]
pub(super) struct Watch {
    route: OwnedFd,
    /// The kernel tells of changes to nft's rules only if this process may change them.
    nft: Option<OwnedFd>,
}

impl Watch {
    pub(super) fn open() -> io::Result<Watch> {
        Ok(Watch {
            route: sys::netlink_socket(NETLINK_ROUTE, ROUTE_GROUPS)?,
            nft: sys::netlink_socket(NETLINK_NETFILTER, NFT_GROUP).ok(),
        })
    }

    /// Waits for a change, at most for `timeout`. When it returns, the kernel shows everything that
    /// has changed before.
    pub(super) fn wait(&self, at_most: Duration) -> io::Result<()> {
        let route = (self.route.as_fd(), sys::POLLIN);
        // Without the second socket, the first is listed twice, and the second entry is ignored.
        let nft = self.nft.as_ref();
        let nft = nft.map_or((self.route.as_fd(), 0), |nft| (nft.as_fd(), sys::POLLIN));
        sys::wait_for([route, nft], Some(at_most))?;
        let mut buffer = [0; 4096];
        for socket in [Some(&self.route), self.nft.as_ref()].into_iter().flatten() {
            // If there is more than the socket holds, an error says so once (ENOBUFS). It counts as
            // a change.
            while !matches!(
                sys::receive_now(socket.as_fd(), &mut buffer),
                Err(error) if error.kind() == ErrorKind::WouldBlock
            ) {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_read() {
        let mut netlink = Netlink::open().unwrap();
        let links = netlink.links().unwrap();
        let lo = links.iter().find(|link| link.name == "lo").unwrap();
        assert_eq!((lo.index, lo.master), (1, None));
        for address in netlink.addresses().unwrap() {
            assert!(links.iter().any(|link| link.index == address.device));
        }
        let rules = netlink.rules().unwrap();
        let main = |ipv6| {
            rules
                .iter()
                .any(|rule| (rule.is_ipv6, rule.priority, rule.table) == (ipv6, 32766, 254))
        };
        assert!(main(false));
        let all = netlink.routes(None).unwrap();
        assert!(
            all.iter()
                .all(|route| route.to.prefix <= bits(route.to.address))
        );
        assert_eq!(netlink.routes(Some(0x7fff_fff0)).unwrap(), []);
    }

    #[test]
    fn what_is_cut_short_ends_and_does_not_panic() {
        let whole = [attribute(3, b"lo\0\0"), attribute(4, &[1, 2, 3, 4])].concat();
        assert_eq!(Attributes(&whole).count(), 2);
        for end in 0..whole.len() {
            assert!(Attributes(&whole[..end]).count() < 2);
            assert!(next_message(&whole[..end]).is_none());
            next_hops(&whole[..end]);
        }
        assert_eq!(next_hops(&[0; 20]), [0]); // a length of 0 must not loop for ever
    }
}
