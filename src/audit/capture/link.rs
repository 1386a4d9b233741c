//! Which TCP segment is in this packet? Link headers, IP (RFC 791, RFC 8200), TCP (RFC 9293).
//!
//! ```text
//! Ethernet        | to 6 | from 6 | VLAN tags: 8100 tag | type 2 | IP        Linux cooked     | 14 bytes | type 2 | IP
//! loopback, null  | family 4 | IP        raw  | IP                           Linux cooked v2  | type 2 | 18 bytes | IP
//! ```
//!
//! A capture may hold only the beginning of a packet (its snap length), and, where it was made
//! before the network card has cut segments to size, packets above the MTU, or with a length of 0.
//! So the header is not held against the packet here. Fragments are not put together.

use crate::packet::{ip, protocol};
use std::fmt;
use std::net::SocketAddr;

const TYPE_IP: [[u8; 2]; 2] = [[0x08, 0x00], [0x86, 0xdd]];
const TYPE_VLAN: [[u8; 2]; 3] = [[0x81, 0x00], [0x88, 0xa8], [0x91, 0x00]];
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
/// As much of a packet as may be IP header, in bytes.
const HEADERS: usize = 512;

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
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoSegment {
    /// A link of this type is not known here.
    Link(u16),
    /// A part of a packet.
    Fragment,
    /// Something else than TCP.
    Other,
}

impl fmt::Display for NoSegment {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            NoSegment::Link(link) => write!(f, "links of type {link} are not known here"),
            NoSegment::Fragment => write!(f, "fragments are not put together here"),
            NoSegment::Other => write!(f, "not TCP"),
        }
    }
}

/// Takes the segment out of a captured packet.
///
/// # Errors
/// [`NoSegment`].
pub fn segment(link: u16, bytes: &[u8]) -> Result<Segment<'_>, NoSegment> {
    let packet = match link {
        0 | 108 => bytes.get(4..),
        1 => typed(bytes.get(12..).unwrap_or_default()),
        12 | 14 | 101 | 228 | 229 => Some(bytes),
        113 => typed(bytes.get(14..).unwrap_or_default()),
        276 => bytes
            .get(20..)
            .filter(|_| TYPE_IP.iter().any(|ip| bytes.starts_with(ip))),
        other => return Err(NoSegment::Link(other)),
    };
    let packet = packet.ok_or(NoSegment::Other)?;
    // 1. IP's header, read as that of a packet which is just as long as what is here of it.
    let mut head = [0; HEADERS];
    let here = packet.len().min(HEADERS);
    head[..here].copy_from_slice(&packet[..here]);
    let (field, before) = if head[0] >> 4 == 4 {
        (2..4, 0)
    } else {
        (4..6, 40)
    };
    let said = usize::from(u16::from_be_bytes([
        head[field.start],
        head[field.start + 1],
    ]));
    let fitting = u16::try_from(here.saturating_sub(before)).unwrap_or_default();
    head[field].copy_from_slice(&fitting.to_be_bytes());
    let ip = ip::parse(&head[..here]).map_err(|_| NoSegment::Other)?;
    match ip.protocol {
        protocol::TCP if ip.fragment => return Err(NoSegment::Fragment),
        protocol::TCP => {}
        _ => return Err(NoSegment::Other),
    }
    // 2. TCP's, and what follows it up to the end that IP's header gives: Ethernet pads short
    //    frames.
    let end = if said == 0 {
        packet.len()
    } else {
        packet.len().min(before + said)
    };
    let tcp = packet.get(ip.transport..end).ok_or(NoSegment::Other)?;
    let fixed = tcp.first_chunk::<20>().ok_or(NoSegment::Other)?;
    let [
        s0,
        s1,
        d0,
        d1,
        q0,
        q1,
        q2,
        q3,
        a0,
        a1,
        a2,
        a3,
        length,
        flags,
        ..,
    ] = *fixed;
    let has = |bit: u8| flags & bit != 0;
    Ok(Segment {
        from: SocketAddr::new(ip.source, u16::from_be_bytes([s0, s1])),
        to: SocketAddr::new(ip.destination, u16::from_be_bytes([d0, d1])),
        sequence: u32::from_be_bytes([q0, q1, q2, q3]),
        acknowledged: has(ACK).then_some(u32::from_be_bytes([a0, a1, a2, a3])),
        syn: has(SYN),
        fin: has(FIN),
        reset: has(RST),
        payload: tcp.get(4 * usize::from(length >> 4)..).unwrap_or_default(),
    })
}

/// What follows the type of an Ethernet frame, if that is IP. VLAN tags are skipped.
fn typed(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        let (kind, rest) = bytes.split_first_chunk::<2>()?;
        match kind {
            ip if TYPE_IP.contains(ip) => return Some(rest),
            tag if TYPE_VLAN.contains(tag) => bytes = rest.get(2..)?,
            _ => return None,
        }
    }
}
