//! Who sends this packet to whom, and what does it carry? RFC 791 (IPv4), RFC 8200 (IPv6).
//!
//! ```text
//!       0         1         2         3
//! IPv4  |ver| IHL |  TOS    |  total length       |    IHL in units of 4 bytes, at least 5
//!       |  identification   | -DM| fragment offset|    M: more fragments follow
//!       |  TTL    |protocol |  header checksum    |
//!       |  source address                         |
//!       |  destination address                    |   options up to IHL, then the transport header
//!
//! IPv6  |ver| class |  flow label                 |
//!       |  payload length   |next hdr | hop limit |   payload length: all after these 40 bytes
//!       |  source address, 16 bytes               |
//!       |  destination address, 16 bytes          |   extension headers, then the transport header
//!
//! extension  |next hdr | length  |  ...           |   8 x (length + 1) bytes; a fragment header 8
//! ```
//!
//! A packet must be exactly as long as its header says. A TUN device delivers nothing after a
//! packet, and nobody would check the bytes that a peer appends. The IPv4 header checksum is not
//! verified here; the kernel does that.
//!
//! An authentication header (RFC 4302) counts as the transport, protocol 51, in both versions. It
//! signs all that follows, so nothing behind it can be answered or segmented here. Jumbograms (RFC
//! 2675) and IPv4 packets of total length 0 ("BIG TCP") are refused.

use super::protocol;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The most extension headers in a packet. RFC 8200, section 4.1 has at most five of those that are
/// walked here. Eight of them take at most 16 KiB, which bounds the work for a packet.
pub const EXTENSIONS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// What the IP header says. In IPv6 it includes the extension headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The sender's address, as the packet claims it.
    pub source: IpAddr,
    /// The receiver's address.
    pub destination: IpAddr,
    /// The transport's number (IANA), after the extension headers of IPv6.
    pub protocol: u8,
    /// Where the transport header begins, in bytes; at most the packet's length.
    pub transport: usize,
    /// Whether this is a fragment. Only the fragment with offset 0 has a transport header. An IPv6
    /// packet with a fragment header counts as a fragment even if it is whole ("atomic", RFC 6946).
    pub fragment: bool,
}

/// Why bytes are not an IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MalformedPacket {
    /// There are no bytes.
    Empty,
    /// Neither IPv4 nor IPv6, but this version.
    Version(u8),
    /// Shorter than the smallest header of its version.
    Truncated,
    /// An IPv4 header length (IHL) below 20 bytes, or beyond the packet.
    HeaderLength,
    /// The header's length for the whole packet is not the length of the packet.
    TotalLength,
    /// An IPv6 extension header is cut short, or there are more than [`EXTENSIONS`].
    Extension,
}

impl fmt::Display for MalformedPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the packet is empty"),
            Self::Version(version) => {
                write!(f, "the packet is of IP version {version}, neither 4 nor 6")
            }
            Self::Truncated => write!(f, "the packet ends inside its IP header"),
            Self::HeaderLength => write!(
                f,
                "the IPv4 header length is below 20 bytes or beyond the packet"
            ),
            Self::TotalLength => write!(f, "the packet is not as long as its IP header says"),
            Self::Extension => {
                write!(
                    f,
                    "an IPv6 extension header is cut short, or there are more than {EXTENSIONS}"
                )
            }
        }
    }
}

impl std::error::Error for MalformedPacket {}

/// Reads the whole IP header. This does not look at the transport header, which may be cut short or
/// absent.
///
/// # Errors
/// [`MalformedPacket`], if any length in the header disagrees with the packet.
pub fn parse(packet: &[u8]) -> Result<Header, MalformedPacket> {
    let (source, destination) = addresses(packet)?;
    let (protocol, transport, fragment) = if source.is_ipv4() {
        v4(packet)
    } else {
        v6(packet)
    }?;
    Ok(Header {
        source,
        destination,
        protocol,
        transport,
        fragment,
    })
}

/// Reads source and destination, for a router that needs no more. It checks version and lengths as
/// [`parse`] does, but not extension headers.
///
/// # Errors
/// [`MalformedPacket`], if the fixed header disagrees with the packet.
pub fn addresses(packet: &[u8]) -> Result<(IpAddr, IpAddr), MalformedPacket> {
    match packet.first().ok_or(MalformedPacket::Empty)? >> 4 {
        4 => {
            let ([version_ihl, _, length @ .., _, _, _, _, _, _, _, _], rest) = packet
                .split_first_chunk::<12>()
                .ok_or(MalformedPacket::Truncated)?;
            let ([s0, s1, s2, s3, d0, d1, d2, d3], _) = rest
                .split_first_chunk::<8>()
                .ok_or(MalformedPacket::Truncated)?;
            if usize::from(u16::from_be_bytes(*length)) != packet.len() {
                return Err(MalformedPacket::TotalLength);
            }
            let header = 4 * usize::from(version_ihl & 15);
            if header < 20 || header > packet.len() {
                return Err(MalformedPacket::HeaderLength);
            }
            Ok((
                Ipv4Addr::new(*s0, *s1, *s2, *s3).into(),
                Ipv4Addr::new(*d0, *d1, *d2, *d3).into(),
            ))
        }
        6 => {
            let ([_, _, _, _, length @ .., _, _], rest) = packet
                .split_first_chunk::<8>()
                .ok_or(MalformedPacket::Truncated)?;
            let (source, rest) = rest
                .split_first_chunk::<16>()
                .ok_or(MalformedPacket::Truncated)?;
            let (destination, payload) = rest
                .split_first_chunk::<16>()
                .ok_or(MalformedPacket::Truncated)?;
            if usize::from(u16::from_be_bytes(*length)) != payload.len() {
                return Err(MalformedPacket::TotalLength);
            }
            Ok((
                Ipv6Addr::from(*source).into(),
                Ipv6Addr::from(*destination).into(),
            ))
        }
        version => Err(MalformedPacket::Version(version)),
    }
}

/// A number that the packets of one flow share: a hash of the addresses, the protocol and, in TCP
/// and UDP, the ports. Two flows with the same number only take turns together.
pub fn flow(packet: &[u8]) -> usize {
    let (addresses, protocol, transport) = match packet.first() {
        Some(first) if first >> 4 == 4 => (12..20, packet.get(9), 4 * usize::from(first & 15)),
        _ => (8..40, packet.get(6), 40),
    };
    let ports = match protocol {
        Some(&(protocol::TCP | protocol::UDP)) => packet.get(transport..transport + 4),
        _ => None,
    };
    let bytes = protocol
        .into_iter()
        .chain(packet.get(addresses).into_iter().chain(ports).flatten());
    // FNV-1a.
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    (hash ^ hash >> 16) as usize
}

/// Whether an address can be one host's, as another network sees it. Multicast, broadcast,
/// unspecified, loopback and link-local addresses cannot (RFC 4291, section 2.5.6; RFC 3927,
/// section 7). If a tunnel carried link-local addresses, its far end could be a router here (RFC
/// 4861, section 6.1.2). Clients could also ask the cloud of the server for that machine's secrets.
pub fn one_host(address: IpAddr) -> bool {
    let near = match address {
        IpAddr::V4(address) => address.is_broadcast() || address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !near && !address.is_multicast() && !address.is_unspecified() && !address.is_loopback()
}

/// Of an IPv4 packet that [`addresses`] accepted: protocol, transport offset, and whether it is a
/// fragment.
fn v4(packet: &[u8]) -> Result<(u8, usize, bool), MalformedPacket> {
    let ([version_ihl, _, _, _, _, _, fragment @ .., _, protocol], _) = packet
        .split_first_chunk::<10>()
        .ok_or(MalformedPacket::Truncated)?;
    // The mask has M and the offset. It leaves out the reserved bit and D, "don't fragment".
    let fragment = u16::from_be_bytes(*fragment) & 0x3fff != 0;
    Ok((*protocol, 4 * usize::from(version_ihl & 15), fragment))
}

/// The same of an IPv6 packet. This walks the extension headers.
fn v6(packet: &[u8]) -> Result<(u8, usize, bool), MalformedPacket> {
    let (fixed, mut rest) = packet
        .split_first_chunk::<40>()
        .ok_or(MalformedPacket::Truncated)?;
    let mut protocol = fixed[6];
    let mut fragment = false;
    for _ in 0..=EXTENSIONS {
        if !matches!(
            protocol,
            HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS
        ) {
            return Ok((protocol, packet.len() - rest.len(), fragment));
        }
        // Every extension header has at least 8 bytes, so each turn makes `rest` shorter.
        let ([following, length, offset @ .., _, _, _, _], _) = rest
            .split_first_chunk::<8>()
            .ok_or(MalformedPacket::Extension)?;
        let size = if protocol == FRAGMENT {
            8
        } else {
            8 * (usize::from(*length) + 1)
        };
        rest = rest.get(size..).ok_or(MalformedPacket::Extension)?;
        if protocol == FRAGMENT {
            fragment = true;
            // A later fragment has no header here; it continues the payload.
            if u16::from_be_bytes(*offset) & 0xfff8 != 0 {
                return Ok((*following, packet.len() - rest.len(), fragment));
            }
        }
        protocol = *following;
    }
    Err(MalformedPacket::Extension)
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Numbers, bytes};
    use super::*;

    // Written with Scapy 2.
    const V4_OPTIONS: &str = "4600002c 00010000 4006d1b6 0a070002 0a070001 94040000 00010002000000\
        00000000005002200\
                              07bcf0000";
    const V6: &str =
        "60000000 0000 0040 fd070000000000000000000000000002 fd070000000000000000000000000001";
    const HOP_ROUTING_OPTIONS_UDP: &str = "2b01010c000000000000000000000000 \
         3c02000100000000fd070000000000000000000000000009 1100010400000000 00010002000b4158 616263";
    const FIRST_FRAGMENT: &str = "1100000100000007 0001000200107423 6162636465666768";
    const LATER_FRAGMENT: &str = "3c00001000000007 ffffffffffffffff";

    fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = [bytes(V6), payload.to_vec()].concat();
        packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        packet[6] = next;
        packet
    }

    fn valid() -> [(Vec<u8>, u8, usize, bool); 5] {
        [
            (bytes(V4_OPTIONS), 6, 24, false),
            (
                v6(HOP_BY_HOP, &bytes(HOP_ROUTING_OPTIONS_UDP)),
                17,
                40 + 16 + 24 + 8,
                false,
            ),
            (v6(FRAGMENT, &bytes(FIRST_FRAGMENT)), 17, 48, true),
            (
                v6(FRAGMENT, &bytes(LATER_FRAGMENT)),
                DESTINATION_OPTIONS,
                48,
                true,
            ),
            (v6(59, &[]), 59, 40, false),
        ]
    }

    #[test]
    fn headers_of_another_implementation() {
        for (packet, protocol, transport, fragment) in valid() {
            let header = parse(&packet).unwrap();
            let found = (header.protocol, header.transport, header.fragment);
            assert_eq!(found, (protocol, transport, fragment));
            assert_eq!(addresses(&packet), Ok((header.source, header.destination)));
            let expected = if packet[0] >> 4 == 4 {
                ("10.7.0.2", "10.7.0.1")
            } else {
                ("fd07::2", "fd07::1")
            };
            assert_eq!(
                (header.source.to_string(), header.destination.to_string()),
                { (expected.0.to_owned(), expected.1.to_owned()) }
            );
        }
    }

    #[test]
    fn no_truncation_and_no_extension_is_taken() {
        for (packet, ..) in valid() {
            for length in 0..packet.len() {
                assert!(parse(&packet[..length]).is_err() && addresses(&packet[..length]).is_err());
            }
            let longer = [&packet[..], &[0]].concat();
            assert_eq!(parse(&longer), Err(MalformedPacket::TotalLength));
            assert_eq!(addresses(&longer), Err(MalformedPacket::TotalLength));
        }
    }

    #[test]
    fn extension_headers_are_cut_nowhere() {
        // The length in the IPv6 header is right each time. Only the chain behind it is too short.
        let chain = bytes(HOP_ROUTING_OPTIONS_UDP);
        for length in 0..chain.len() {
            let expected = if length < 48 {
                Err(MalformedPacket::Extension)
            } else {
                Ok(88)
            };
            assert_eq!(
                parse(&v6(HOP_BY_HOP, &chain[..length])).map(|header| header.transport),
                expected
            );
        }
    }

    #[test]
    fn extension_headers_are_counted() {
        let chain = |count: usize| {
            let mut payload = [DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0].repeat(count);
            payload[8 * (count - 1)] = 17;
            v6(DESTINATION_OPTIONS, &payload)
        };
        assert_eq!(parse(&chain(EXTENSIONS)).unwrap().protocol, 17);
        assert_eq!(
            parse(&chain(EXTENSIONS + 1)),
            Err(MalformedPacket::Extension)
        );
    }

    #[test]
    fn each_reason() {
        assert_eq!(parse(&[]), Err(MalformedPacket::Empty));
        assert_eq!(parse(&[0x50; 64]), Err(MalformedPacket::Version(5)));
        assert_eq!(parse(&[0x45; 19]), Err(MalformedPacket::Truncated));
        assert_eq!(parse(&[0x60; 39]), Err(MalformedPacket::Truncated));
        for ihl in [0, 4, 12, 15] {
            let mut packet = bytes(V4_OPTIONS);
            packet[0] = 0x40 | ihl;
            assert_eq!(parse(&packet), Err(MalformedPacket::HeaderLength));
        }
        let mut zero = bytes(V4_OPTIONS);
        zero[2..4].fill(0);
        assert_eq!(parse(&zero), Err(MalformedPacket::TotalLength));
    }

    #[test]
    fn some_addresses_are_no_hosts_that_a_router_knows() {
        let hosts = [
            "10.8.0.2",
            "169.253.0.1",
            "198.51.100.7",
            "fd07::2",
            "2001:db8::1",
            "fec0::1",
        ];
        let others = [
            "0.0.0.0",
            "127.0.0.1",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
        ];
        let others6 = ["::", "::1", "fe80::1", "febf::1", "ff02::1"];
        assert!(hosts.iter().all(|text| one_host(text.parse().unwrap())));
        assert!(
            !others
                .iter()
                .chain(&others6)
                .any(|text| one_host(text.parse().unwrap()))
        );
    }

    #[test]
    fn an_ipv4_fragment_is_one_by_flag_or_offset() {
        for (field, fragment) in [
            (0x4000u16, false),
            (0x8000, false),
            (0x2000, true),
            (1, true),
            (0x1fff, true),
        ] {
            let mut packet = bytes(V4_OPTIONS);
            packet[6..8].copy_from_slice(&field.to_be_bytes());
            assert_eq!(parse(&packet).unwrap().fragment, fragment, "{field:#x}");
        }
    }

    #[test]
    fn random_bytes_never_panic_and_offsets_stay_inside() {
        let mut numbers = Numbers(1);
        for _ in 0..50_000 {
            let length = numbers.below(120);
            let mut packet = numbers.bytes(length);
            if length >= 40 {
                let v4 = numbers.below(2) == 0;
                packet[0] = if v4 {
                    0x45 + numbers.below(11) as u8
                } else {
                    0x60
                };
                let (at, value) = if v4 { (2, length) } else { (4, length - 40) };
                packet[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
                packet[6] = [0, 43, 44, 60, 6, 17][numbers.below(6)];
            }
            if let Ok(header) = parse(&packet) {
                assert!(header.transport <= packet.len());
            }
        }
    }
}
