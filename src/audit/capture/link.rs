//! Which TCP segment is in this packet? TCP (RFC 9293) behind the headers that `layer` takes off.
//!
//! ```text
//!  link ─> Ethernet ─> tags, labels, PPP ─> IP ─> tunnels ─> … ─> IP ─> TCP
//!          └──────────── at most MAX_HEADERS headers ────────────┘
//! ```
//!
//! A capture may hold only the beginning of a packet (its snap length). If it was made before the
//! network card has cut segments to size, it has packets above the MTU, or with a length of 0. So
//! IP's length only cuts off what is behind the packet. Fragments are not put together.

use super::layer::{Header, Layer};
use std::fmt;
use std::net::SocketAddr;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
/// Headers before TCP's: links, tags, labels and tunnels in each other.
pub const MAX_HEADERS: usize = 32;

/// A TCP segment.
#[derive(Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Its sender.
    pub from: SocketAddr,
    /// Its receiver.
    pub to: SocketAddr,
    /// The number of its first byte; of SYN, if it has that.
    pub sequence: u32,
    /// All before this number has arrived.
    pub acknowledged: Option<u32>,
    /// The first of its direction.
    pub syn: bool,
    /// The last.
    pub fin: bool,
    /// The connection is no more.
    pub reset: bool,
    /// What was captured of its bytes.
    pub payload: &'a [u8],
    /// How many were not.
    pub missing: usize,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoSegment {
    /// A link of this type is not known here.
    Link(u16),
    /// An Ethernet frame with this type.
    Ethernet(u16),
    /// An LLC frame to this service access point.
    Llc(u8),
    /// A PPP frame with this protocol.
    Ppp(u16),
    /// An IP packet with this protocol.
    Ip(u8),
    /// A UDP packet; the lower one of its ports.
    Udp(u16),
    /// A part of a packet.
    Fragment,
    /// The packet ends within this header.
    Short(&'static str),
    /// This header contradicts itself, or is of a version that is not known here.
    Malformed(&'static str),
    /// More than [`MAX_HEADERS`] headers.
    Deep,
}

/// Types of Ethernet that a reader may know better by name.
const ETHERNET_NAMES: &[(u16, &str)] = &[
    (0x0806, "ARP"),
    (0x8863, "PPPoE discovery"),
    (0x888e, "802.1X"),
    (0x88cc, "LLDP"),
    (0x88e5, "MACsec"),
];
/// Protocols of IP.
const IP_NAMES: &[(u8, &str)] = &[
    (1, "ICMP"),
    (2, "IGMP"),
    (50, "ESP"),
    (58, "ICMPv6"),
    (89, "OSPF"),
    (112, "VRRP"),
    (132, "SCTP"),
];

impl fmt::Display for NoSegment {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            NoSegment::Link(link) => write!(f, "links of type {link} are not known here"),
            NoSegment::Ethernet(kind) => {
                write!(f, "Ethernet type {kind:04x}{}", name(*kind, ETHERNET_NAMES))
            }
            NoSegment::Llc(point) => write!(f, "LLC service access point {point:02x}"),
            NoSegment::Ppp(protocol) => write!(f, "PPP protocol {protocol:04x}"),
            NoSegment::Ip(protocol) => {
                write!(f, "IP protocol {protocol}{}", name(*protocol, IP_NAMES))
            }
            NoSegment::Udp(port) => write!(f, "UDP port {port}"),
            NoSegment::Fragment => write!(f, "fragments are not put together here"),
            NoSegment::Short(header) => write!(f, "the packet ends within its {header} header"),
            NoSegment::Malformed(header) => write!(f, "the {header} header is malformed"),
            NoSegment::Deep => write!(f, "more than {MAX_HEADERS} headers in each other"),
        }
    }
}

fn name<T: PartialEq>(number: T, names: &[(T, &str)]) -> String {
    let named = names.iter().find(|(known, _)| *known == number);
    named.map_or(String::new(), |(_, name)| format!(" ({name})"))
}

/// Takes the segment out of a captured packet.
///
/// # Errors
/// [`NoSegment`].
pub fn segment(link: u16, bytes: &[u8]) -> Result<Segment<'_>, NoSegment> {
    let mut layer = Layer::of_link(link, bytes)?;
    for _ in 0..MAX_HEADERS {
        layer = match layer {
            Layer::Tcp(header, bytes) => return tcp(header, bytes),
            outer => outer.inside()?,
        };
    }
    Err(NoSegment::Deep)
}

fn tcp(ip: Header, bytes: &[u8]) -> Result<Segment<'_>, NoSegment> {
    let (fixed, _) = bytes
        .split_first_chunk::<20>()
        .ok_or(NoSegment::Short("TCP"))?;
    let [s0, s1, d0, d1, rest @ ..] = *fixed;
    let [q0, q1, q2, q3, a0, a1, a2, a3, length, flags, ..] = rest;
    let header = 4 * usize::from(length >> 4);
    if header < fixed.len() {
        return Err(NoSegment::Malformed("TCP"));
    }
    let has = |bit: u8| flags & bit != 0;
    Ok(Segment {
        from: SocketAddr::new(ip.source, u16::from_be_bytes([s0, s1])),
        to: SocketAddr::new(ip.destination, u16::from_be_bytes([d0, d1])),
        sequence: u32::from_be_bytes([q0, q1, q2, q3]),
        acknowledged: has(ACK).then_some(u32::from_be_bytes([a0, a1, a2, a3])),
        syn: has(SYN),
        fin: has(FIN),
        reset: has(RST),
        payload: bytes.get(header..).unwrap_or_default(),
        missing: (bytes.len() + ip.missing).saturating_sub(header.max(bytes.len())),
    })
}
