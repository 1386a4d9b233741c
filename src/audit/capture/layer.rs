//! What is behind this header? Links, tags, labels, PPP, IP, and tunnels that carry these again.
//!
//! ```text
//! Ethernet        | to 6 | from 6 | type 2 |     type up to 1500: a length, and LLC follows
//! tags            | 2 to 6 bytes | type 2 |      802.1Q, 802.1ad and others: see TAGS
//! LLC             | aa aa 03 | organization 3 | type 2 |         | 06 06 03 | IP
//! Linux cooked    | 14 bytes | type 2 |          version 2      | type 2 | 18 bytes |
//! loopback, null  | family 4 | IP                raw, IP in IP  | IP
//! MPLS            | label 20 bits, 3, last 1, 8 | … IP, or a control word 4 and Ethernet
//! PPPoE           | 11 | code | session 2 | length 2 | PPP
//! PPP             | ff 03, or not | protocol 1 or 2 |
//! GRE             | flags 2 | type 2 | checksum 4 | key 4 | sequence 4 |
//!                                      each of these three where its flag is set
//! ERSPAN          in GRE: I nothing, II 8 bytes, III 12 or 20 bytes; then Ethernet
//! VXLAN           in UDP: | flags 1 | 2 | next 1 | network 3 | 1 | Ethernet
//! GENEVE          in UDP: | options' length 1 | 1 | type 2 | network 3 | 1 | options |
//! AH              | next 1 | length 1 | …                       EtherIP | 30 00 | Ethernet
//! ```
//!
//! Each step takes off one header, and says what it leaves, or why nothing can be read behind it.

use super::link::NoSegment;
use crate::packet::protocol::{TCP, UDP};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const IP: [u16; 2] = [0x0800, 0x86dd];
const MPLS: [u16; 2] = [0x8847, 0x8848];
const PPPOE_SESSION: u16 = 0x8864;
const PPP: u16 = 0x880b;
const BRIDGED: u16 = 0x6558;
const BACKBONE: u16 = 0x88e7;
const JUMBO_LLC: u16 = 0x8870;
const ERSPAN_II: u16 = 0x88be;
const ERSPAN_III: u16 = 0x22eb;
/// The longest frame that gives its length where others have their type.
const LONGEST_LENGTH: u16 = 1500;

/// Ethernet types of headers that end with another Ethernet type, and how many bytes are before it.
const TAGS: [(u16, usize); 9] = [
    (0x8100, 2), // 802.1Q
    (0x88a8, 2), // 802.1ad
    (0x9100, 2), // 802.1Q in 802.1Q, before there was a standard
    (0x9200, 2),
    (0x8909, 6), // Cisco's metadata
    (0x8926, 4), // VN-Tag
    (0x892f, 4), // HSR
    (0x893f, 6), // 802.1BR
    (0xf1c1, 4), // 802.1CB
];
/// IPv6's extension headers that are walked, all of one form: next header, length in units of 8
/// bytes after the first.
const EXTENSIONS: [u8; 6] = [0, 43, 60, 135, 139, 140];

/// A header, and what follows it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Layer<'a> {
    Ethernet(&'a [u8]),
    /// Behind an Ethernet type.
    Typed(u16, &'a [u8]),
    Llc(&'a [u8]),
    Ppp(&'a [u8]),
    Mpls(&'a [u8]),
    Gre(&'a [u8]),
    Udp(&'a [u8]),
    Ip(&'a [u8]),
    /// Behind an IP header, or an extension of one.
    Protocol(Header, u8, &'a [u8]),
    Tcp(Header, &'a [u8]),
}

/// What is still needed of an IP header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// Bytes that the packet has more than were captured.
    pub(super) missing: usize,
}

impl<'a> Layer<'a> {
    /// The first one, by the number of the link's type in the registry of tcpdump.org.
    pub(super) fn of_link(link: u16, bytes: &'a [u8]) -> Result<Layer<'a>, NoSegment> {
        Ok(match link {
            0 | 108 => Layer::Ip(skip(bytes, 4, "loopback")?),
            1 => Layer::Ethernet(bytes),
            9 | 50 => Layer::Ppp(bytes),
            12 | 14 | 101 | 228 | 229 => Layer::Ip(bytes),
            51 => Layer::Typed(PPPOE_SESSION, bytes),
            100 => Layer::Llc(bytes),
            104 => typed(skip(bytes, 2, "HDLC")?, "HDLC")?,
            113 => typed(skip(bytes, 14, "cooked")?, "cooked")?,
            219 => Layer::Mpls(bytes),
            276 => {
                let (kind, _) = number(bytes, "cooked")?;
                Layer::Typed(kind, skip(bytes, 20, "cooked")?)
            }
            other => return Err(NoSegment::Link(other)),
        })
    }

    /// What is behind this header.
    pub(super) fn inside(self) -> Result<Layer<'a>, NoSegment> {
        match self {
            Layer::Ethernet(bytes) => typed(skip(bytes, 12, "Ethernet")?, "Ethernet"),
            Layer::Typed(kind, bytes) => behind_type(kind, bytes),
            Layer::Llc(bytes) => llc(bytes),
            Layer::Ppp(bytes) => ppp(bytes),
            Layer::Mpls(bytes) => mpls(bytes),
            Layer::Gre(bytes) => gre(bytes),
            Layer::Udp(bytes) => udp(bytes),
            Layer::Ip(bytes) => ip(bytes),
            Layer::Protocol(header, protocol, bytes) => behind_ip(header, protocol, bytes),
            Layer::Tcp(..) => Ok(self),
        }
    }
}

fn behind_type(kind: u16, bytes: &[u8]) -> Result<Layer<'_>, NoSegment> {
    if let Some((_, length)) = TAGS.iter().find(|(tag, _)| *tag == kind) {
        return typed(skip(bytes, *length, "tag's")?, "tag's");
    }
    match kind {
        ..=LONGEST_LENGTH | JUMBO_LLC => Ok(Layer::Llc(bytes)),
        PPP => Ok(Layer::Ppp(bytes)),
        BRIDGED => Ok(Layer::Ethernet(bytes)),
        BACKBONE => skip(bytes, 4, "802.1ah").map(Layer::Ethernet),
        PPPOE_SESSION => match bytes.split_first_chunk::<6>() {
            Some(([0x11, 0, ..], rest)) => Ok(Layer::Ppp(rest)),
            Some(_) => Err(NoSegment::Malformed("PPPoE")),
            None => Err(NoSegment::Short("PPPoE")),
        },
        kind if IP.contains(&kind) => Ok(Layer::Ip(bytes)),
        kind if MPLS.contains(&kind) => Ok(Layer::Mpls(bytes)),
        kind => Err(NoSegment::Ethernet(kind)),
    }
}

fn llc(bytes: &[u8]) -> Result<Layer<'_>, NoSegment> {
    match bytes {
        // SNAP, with an Ethernet type; and with a bridged frame (RFC 2684), with and without its
        // checksum, behind two bytes of padding.
        [0xaa, 0xaa, 3, 0, 0, 0 | 0xf8, rest @ ..] => typed(rest, "SNAP"),
        [0xaa, 0xaa, 3, 0, 0x80, 0xc2, 0, 1 | 7, rest @ ..] => {
            skip(rest, 2, "SNAP").map(Layer::Ethernet)
        }
        [6, 6, 3, rest @ ..] => Ok(Layer::Ip(rest)),
        [point, _, _, ..] => Err(NoSegment::Llc(*point)),
        _ => Err(NoSegment::Short("LLC")),
    }
}

fn ppp(bytes: &[u8]) -> Result<Layer<'_>, NoSegment> {
    let bytes = bytes.strip_prefix(&[0xff, 3]).unwrap_or(bytes);
    // The first byte may be left out where it is 0: the last one of a protocol is always odd.
    let (protocol, rest) = match bytes {
        [0xff] => return Err(NoSegment::Short("PPP")),
        [low, rest @ ..] if low & 1 == 1 => (u16::from(*low), rest),
        _ => number(bytes, "PPP")?,
    };
    match protocol {
        0x21 | 0x57 => Ok(Layer::Ip(rest)),
        0x281 | 0x283 => Ok(Layer::Mpls(rest)),
        other => Err(NoSegment::Ppp(other)),
    }
}

/// One label. What the last one is followed by, nothing says: IP by its version, Ethernet behind a
/// control word (RFC 4385) or without one.
fn mpls(bytes: &[u8]) -> Result<Layer<'_>, NoSegment> {
    let ([.., bottom, _], rest) = bytes
        .split_first_chunk::<4>()
        .ok_or(NoSegment::Short("MPLS"))?;
    if bottom & 1 == 0 {
        return Ok(Layer::Mpls(rest));
    }
    match rest.first().map(|first| first >> 4) {
        Some(4 | 6) => Ok(Layer::Ip(rest)),
        Some(0) => match rest.get(4..) {
            Some(behind) if is_readable(behind) => Ok(Layer::Ethernet(behind)),
            Some(behind) if behind.len() >= 14 => Ok(Layer::Ethernet(rest)),
            _ => Err(NoSegment::Short("Ethernet")),
        },
        Some(_) => Ok(Layer::Ethernet(rest)),
        None => Err(NoSegment::Short("MPLS")),
    }
}

/// Whether this may be an Ethernet frame whose type is known here.
fn is_readable(frame: &[u8]) -> bool {
    let Some(Ok((kind, _))) = frame.get(12..).map(|rest| number(rest, "Ethernet")) else {
        return false;
    };
    kind == PPPOE_SESSION
        || IP.contains(&kind)
        || MPLS.contains(&kind)
        || TAGS.iter().any(|(tag, _)| *tag == kind)
}

/// GRE (RFC 2784, RFC 2890), PPTP's (RFC 2637), and ERSPAN in it.
fn gre(bytes: &[u8]) -> Result<Layer<'_>, NoSegment> {
    let (flags, rest) = number(bytes, "GRE")?;
    let (kind, rest) = number(rest, "GRE")?;
    let has = |bit: u16| usize::from(flags & bit != 0);
    let checksum = 0x8000;
    let key = 0x2000;
    let sequence = 0x1000;
    let acknowledgement = match flags & 0x4007 {
        0 => 0,
        1 => 0x0080,
        _ => return Err(NoSegment::Malformed("GRE")), // with routes (RFC 1701), or later versions
    };
    let optional = 4 * (has(checksum) + has(key) + has(sequence) + has(acknowledgement));
    let rest = skip(rest, optional, "GRE")?;
    match kind {
        ERSPAN_II => skip(rest, 8 * has(sequence), "ERSPAN").map(Layer::Ethernet),
        ERSPAN_III => {
            let last = rest.get(11).ok_or(NoSegment::Short("ERSPAN"))?;
            let platform = 8 * usize::from(last & 1);
            skip(rest, 12 + platform, "ERSPAN").map(Layer::Ethernet)
        }
        kind => Ok(Layer::Typed(kind, rest)),
    }
}

/// VXLAN (RFC 7348), with a protocol field too, GENEVE (RFC 8926) and MPLS (RFC 7510), by the port
/// that is theirs.
fn udp(bytes: &[u8]) -> Result<Layer<'_>, NoSegment> {
    let ([s0, s1, d0, d1, ..], rest) = bytes
        .split_first_chunk::<8>()
        .ok_or(NoSegment::Short("UDP"))?;
    let from = u16::from_be_bytes([*s0, *s1]);
    let to = u16::from_be_bytes([*d0, *d1]);
    let other = NoSegment::Udp(from.min(to));
    match to {
        4789 | 4790 | 8472 => {
            let ([flags, _, _, next, ..], inner) = rest.split_first_chunk::<8>().ok_or(other)?;
            match (flags & 0x0c, next) {
                (0x08, _) | (0x0c, 3) => Ok(Layer::Ethernet(inner)),
                (0x0c, 1 | 2) => Ok(Layer::Ip(inner)),
                _ => Err(other),
            }
        }
        6081 => {
            let ([length, _, k0, k1, ..], inner) = rest.split_first_chunk::<8>().ok_or(other)?;
            let inner = skip(inner, 4 * usize::from(length & 0x3f), "GENEVE")?;
            Ok(Layer::Typed(u16::from_be_bytes([*k0, *k1]), inner))
        }
        6635 => Ok(Layer::Mpls(rest)),
        _ => Err(other),
    }
}

fn ip(bytes: &[u8]) -> Result<Layer<'_>, NoSegment> {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => ipv4(bytes),
        Some(6) => ipv6(bytes),
        Some(_) => Err(NoSegment::Malformed("IP")),
        None => Err(NoSegment::Short("IP")),
    }
}

fn ipv4(bytes: &[u8]) -> Result<Layer<'_>, NoSegment> {
    let short = NoSegment::Short("IP");
    let (fixed, _) = bytes.split_first_chunk::<20>().ok_or(short)?;
    let [first, _, l0, l1, _, _, f0, f1, _, protocol, _, _, ends @ ..] = *fixed;
    let [s0, s1, s2, s3, destination @ ..] = ends;
    let header = 4 * usize::from(first & 15);
    let length = match usize::from(u16::from_be_bytes([l0, l1])) {
        0 => bytes.len(),
        length => length,
    };
    if header < fixed.len() || length < header {
        return Err(NoSegment::Malformed("IP"));
    }
    // All but the reserved bit and "don't fragment".
    if u16::from_be_bytes([f0, f1]) & 0x3fff != 0 {
        return Err(NoSegment::Fragment);
    }
    let rest = bytes.get(header..length.min(bytes.len())).ok_or(short)?;
    let header = Header {
        source: Ipv4Addr::from([s0, s1, s2, s3]).into(),
        destination: Ipv4Addr::from(destination).into(),
        missing: length.saturating_sub(bytes.len()),
    };
    Ok(Layer::Protocol(header, protocol, rest))
}

fn ipv6(bytes: &[u8]) -> Result<Layer<'_>, NoSegment> {
    let short = NoSegment::Short("IP");
    let ([_, _, _, _, l0, l1, protocol, _], rest) = bytes.split_first_chunk().ok_or(short)?;
    let (source, rest) = rest.split_first_chunk::<16>().ok_or(short)?;
    let (destination, rest) = rest.split_first_chunk::<16>().ok_or(short)?;
    let length = match usize::from(u16::from_be_bytes([*l0, *l1])) {
        0 => rest.len(),
        length => length,
    };
    let header = Header {
        source: Ipv6Addr::from(*source).into(),
        destination: Ipv6Addr::from(*destination).into(),
        missing: length.saturating_sub(rest.len()),
    };
    let rest = &rest[..length.min(rest.len())];
    Ok(Layer::Protocol(header, *protocol, rest))
}

fn behind_ip(header: Header, protocol: u8, bytes: &[u8]) -> Result<Layer<'_>, NoSegment> {
    let is_ipv6 = header.source.is_ipv6();
    match protocol {
        TCP => Ok(Layer::Tcp(header, bytes)),
        UDP => Ok(Layer::Udp(bytes)),
        4 | 41 => Ok(Layer::Ip(bytes)),
        47 => Ok(Layer::Gre(bytes)),
        44 if is_ipv6 => {
            let ([next, _, f0, f1, _, _, _, _], rest) = bytes
                .split_first_chunk()
                .ok_or(NoSegment::Short("fragment"))?;
            match u16::from_be_bytes([*f0, *f1]) & 0xfff9 {
                0 => Ok(Layer::Protocol(header, *next, rest)), // a whole packet (RFC 6946)
                _ => Err(NoSegment::Fragment),
            }
        }
        51 => extension(header, bytes, "AH", |length| 4 * (length + 2)),
        97 => skip(bytes, 2, "EtherIP").map(Layer::Ethernet),
        137 => Ok(Layer::Mpls(bytes)),
        other if is_ipv6 && EXTENSIONS.contains(&other) => {
            extension(header, bytes, "extension", |length| 8 * (length + 1))
        }
        other => Err(NoSegment::Ip(other)),
    }
}

/// A header of next protocol, its own length in some unit, and what is of no interest here.
fn extension<'a>(
    header: Header,
    bytes: &'a [u8],
    name: &'static str,
    size: impl Fn(usize) -> usize,
) -> Result<Layer<'a>, NoSegment> {
    let [next, length, ..] = bytes else {
        return Err(NoSegment::Short(name));
    };
    let rest = skip(bytes, size(usize::from(*length)), name)?;
    Ok(Layer::Protocol(header, *next, rest))
}

/// An Ethernet type, and what follows it.
fn typed<'a>(bytes: &'a [u8], header: &'static str) -> Result<Layer<'a>, NoSegment> {
    number(bytes, header).map(|(kind, rest)| Layer::Typed(kind, rest))
}

fn number<'a>(bytes: &'a [u8], header: &'static str) -> Result<(u16, &'a [u8]), NoSegment> {
    let (number, rest) = bytes.split_first_chunk().ok_or(NoSegment::Short(header))?;
    Ok((u16::from_be_bytes(*number), rest))
}

fn skip<'a>(bytes: &'a [u8], length: usize, header: &'static str) -> Result<&'a [u8], NoSegment> {
    bytes.get(length..).ok_or(NoSegment::Short(header))
}
