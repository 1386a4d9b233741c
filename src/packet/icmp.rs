//! Is anybody there? Echo request and echo reply: RFC 792 (ICMP), RFC 4443 section 4 (ICMPv6).
//!
//! ```text
//! | type | code 0 | checksum |  identifier  |  sequence  |  payload ...
//!   ICMP:   request 8, reply 0; the checksum covers these bytes
//!   ICMPv6: request 128, reply 129; the checksum covers the pseudo-header too
//! ```
//!
//! An end without a device has no kernel that answers pings, so this file does. It answers only a
//! plain request: one without IPv4 options, extension headers or fragments, whose checksums are
//! right. (A source route, an IPv4 option, would have to be reversed.) Source and destination must
//! each be one host's address, so that no answer goes to many. The caller decides before whether
//! the destination is ours.

use std::net::IpAddr;

use super::{checksum, ip, protocol};

/// Time to live, or hop limit, of the packets made here. RFC 1122 and IANA recommend 64.
const TTL: u8 = 64;

/// An echo reply, as [`echo_reply`] finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo<'a> {
    /// The host that replied.
    pub source: IpAddr,
    /// The host that had asked.
    pub destination: IpAddr,
    /// As in the request.
    pub identifier: u16,
    /// As in the request.
    pub sequence: u16,
    /// As in the request.
    pub payload: &'a [u8],
}

/// Turns an echo request into its reply, in place: swaps the addresses, renews the TTL and the
/// checksums. Returns whether it did. A packet that is not a plain request stays as it was.
#[must_use]
pub fn answer_echo(packet: &mut [u8]) -> bool {
    let Some((header, message)) = verified(packet) else {
        return false;
    };
    let (fixed, reply, addresses, address) = match header.source {
        IpAddr::V4(_) => (20, 0, 12, 4),
        IpAddr::V6(_) => (40, 129, 8, 16),
    };
    let request =
        message.len() >= 8 && message[0] == request_type(header.source) && message[1] == 0;
    if !request
        || header.transport != fixed
        || !ip::one_host(header.source)
        || !ip::one_host(header.destination)
    {
        return false;
    }
    // The slices below lie inside the fixed header, which `verified` has found to be there.
    let (source, destination) = packet[addresses..addresses + 2 * address].split_at_mut(address);
    source.swap_with_slice(destination);
    packet[if header.source.is_ipv4() { 8 } else { 7 }] = TTL;
    packet[fixed] = reply;
    write_checksums(packet, header.source, header.destination, fixed);
    true
}

/// Appends an echo request to `out` and returns its length in bytes. Returns `None`, and appends
/// nothing, if the addresses are of two families or the payload is too long for a packet.
pub fn echo_request(
    source: IpAddr,
    destination: IpAddr,
    identifier: u16,
    sequence: u16,
    payload: &[u8],
    out: &mut Vec<u8>,
) -> Option<usize> {
    let start = out.len();
    let message = payload.len().checked_add(8)?;
    let fixed = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let [l0, l1] = u16::try_from(message.checked_add(20)?).ok()?.to_be_bytes();
            // 0x40: don't fragment; such a packet needs no identification (RFC 6864).
            out.extend([0x45, 0, l0, l1, 0, 0, 0x40, 0, TTL, protocol::ICMP, 0, 0]);
            out.extend(source.octets());
            out.extend(destination.octets());
            20
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let [l0, l1] = u16::try_from(message).ok()?.to_be_bytes();
            out.extend([0x60, 0, 0, 0, l0, l1, protocol::ICMPV6, TTL]);
            out.extend(source.octets());
            out.extend(destination.octets());
            40
        }
        _ => return None,
    };
    out.extend([request_type(source), 0, 0, 0]);
    out.extend(identifier.to_be_bytes());
    out.extend(sequence.to_be_bytes());
    out.extend(payload);
    write_checksums(&mut out[start..], source, destination, fixed);
    Some(fixed + message)
}

/// Recognises an echo reply whose checksums are right. The caller compares identifier, sequence and
/// payload with its own requests.
#[must_use]
pub fn echo_reply(packet: &[u8]) -> Option<Echo<'_>> {
    let (
        ip::Header {
            source,
            destination,
            ..
        },
        message,
    ) = verified(packet)?;
    let ([kind, code, _, _, identifier @ .., s0, s1], payload) =
        message.split_first_chunk::<8>()?;
    let reply = if source.is_ipv4() { 0 } else { 129 };
    if (*kind, *code) != (reply, 0) {
        return None;
    }
    let identifier = u16::from_be_bytes(*identifier);
    Some(Echo {
        source,
        destination,
        identifier,
        sequence: u16::from_be_bytes([*s0, *s1]),
        payload,
    })
}

fn request_type(address: IpAddr) -> u8 {
    if address.is_ipv4() { 8 } else { 128 }
}

/// The header and the ICMP message of a packet, if it is no fragment and its checksums are right.
fn verified(packet: &[u8]) -> Option<(ip::Header, &[u8])> {
    let header = ip::parse(packet).ok()?;
    let (before, message) = packet.split_at_checked(header.transport)?;
    // The sum of a valid IPv4 header, checksum included, is ffff. An IPv6 header has no checksum.
    let right = match header.source {
        IpAddr::V4(_) => header.protocol == protocol::ICMP && checksum::sum(before, 0) == 0xffff,
        IpAddr::V6(_) => header.protocol == protocol::ICMPV6,
    };
    let covered = pseudo_header(header.source, header.destination, message.len());
    let valid = right && !header.fragment && checksum::sum(message, covered) == 0xffff;
    valid.then_some((header, message))
}

/// Writes the checksums of a packet with a plain header of `fixed` bytes, and an ICMP message of 4
/// bytes or more.
fn write_checksums(packet: &mut [u8], source: IpAddr, destination: IpAddr, fixed: usize) {
    let (before, message) = packet.split_at_mut(fixed);
    if source.is_ipv4() {
        before[10..12].fill(0);
        let checksum = !checksum::sum(before, 0);
        before[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    message[2..4].fill(0);
    let checksum = !checksum::sum(message, pseudo_header(source, destination, message.len()));
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
}

/// The sum that an ICMP checksum begins with: 0 in IPv4, the pseudo-header's in IPv6.
fn pseudo_header(source: IpAddr, destination: IpAddr, length: usize) -> u16 {
    if source.is_ipv4() {
        0
    } else {
        checksum::pseudo_header(source, destination, protocol::ICMPV6, length)
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Numbers, bytes, verifies};
    use super::*;

    // Scapy wrote these: a request, its reply, and the request as it is made here. The payload is
    // "Hello, World!".
    const V4: [&str; 3] = [
        "45100029123440003f0115800a0700020a070001 0800605256780009 48656c6c6f2c20576f726c6421",
        "4510002912344000400114800a0700010a070002 0000685256780009 48656c6c6f2c20576f726c6421",
        "4500002900004000400126c40a0700020a070001 0800605256780009 48656c6c6f2c20576f726c6421",
    ];
    const V6: [&str; 3] = [
        "600abcde00153a3f fd070000000000000000000000000002 fd070000000000000000000000000001
         8000edef56780009 48656c6c6f2c20576f726c6421",
        "600abcde00153a40 fd070000000000000000000000000001 fd070000000000000000000000000002
         8100ecef56780009 48656c6c6f2c20576f726c6421",
        "6000000000153a40 fd070000000000000000000000000002 fd070000000000000000000000000001
         8000edef56780009 48656c6c6f2c20576f726c6421",
    ];

    fn addresses(version: &[&str; 3]) -> (IpAddr, IpAddr) {
        ip::addresses(&bytes(version[0])).unwrap()
    }

    #[test]
    fn requests_become_the_replies_of_another_implementation() {
        for version in [V4, V6] {
            let mut packet = bytes(version[0]);
            assert!(answer_echo(&mut packet));
            assert_eq!(packet, bytes(version[1]));
            assert!(!answer_echo(&mut packet), "a reply is not answered");
            let (source, destination) = addresses(&version);
            let echo = echo_reply(&packet).unwrap();
            assert_eq!((echo.source, echo.destination), (destination, source));
            assert_eq!(
                (echo.identifier, echo.sequence, echo.payload),
                (0x5678, 9, &b"Hello, World!"[..])
            );
            assert_eq!(echo_reply(&bytes(version[0])), None);
        }
    }

    #[test]
    fn requests_are_those_of_another_implementation() {
        for version in [V4, V6] {
            let (source, destination) = addresses(&version);
            let mut out = vec![7];
            let length = echo_request(source, destination, 0x5678, 9, b"Hello, World!", &mut out);
            assert_eq!(length, Some(bytes(version[2]).len()));
            assert_eq!(out[1..], bytes(version[2]));
        }
    }

    #[test]
    fn what_cannot_be_asked_appends_nothing() {
        let ((v4, other4), (v6, other6)) = (addresses(&V4), addresses(&V6));
        let mut out = Vec::new();
        assert_eq!(echo_request(v4, v6, 1, 1, b"", &mut out), None);
        assert_eq!(echo_request(v4, other4, 1, 1, &[0; 65_508], &mut out), None);
        assert_eq!(echo_request(v6, other6, 1, 1, &[0; 65_528], &mut out), None);
        assert!(out.is_empty());
        assert_eq!(
            echo_request(v4, other4, 1, 1, &[0; 65_507], &mut out),
            Some(65_535)
        );
        assert_eq!(
            echo_request(v6, other6, 1, 1, &[0; 65_527], &mut out),
            Some(65_575)
        );
        assert!(answer_echo(&mut out[..65_535]) && answer_echo(&mut out[65_535..]));
    }

    #[test]
    fn every_payload_length_comes_back() {
        let payload = Numbers(5).bytes(300);
        for (version, transport, protocol) in [(V4, 20, 1), (V6, 40, 58)] {
            let (source, destination) = addresses(&version);
            for length in 0..payload.len() {
                let mut packet = Vec::new();
                echo_request(source, destination, 1, 2, &payload[..length], &mut packet).unwrap();
                assert!(answer_echo(&mut packet));
                assert!(protocol == 1 || verifies(&packet, transport, protocol));
                assert_eq!(echo_reply(&packet).unwrap().payload, &payload[..length]);
            }
        }
    }

    /// Whether `packet` gets no answer and keeps every byte.
    fn unanswered(packet: &[u8]) -> bool {
        let mut copy = packet.to_vec();
        !answer_echo(&mut copy) && copy == packet
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_unanswered() {
        for version in [V4, V6] {
            for kind in [0, 1] {
                let packet = bytes(version[kind]);
                for length in 0..packet.len() {
                    assert!(
                        unanswered(&packet[..length]) && echo_reply(&packet[..length]).is_none()
                    );
                }
                // In IPv6 no checksum covers traffic class and flow label (bytes 0 to 3), and hop
                // limit (7).
                let covered = |byte: &usize| packet[0] >> 4 == 4 || *byte > 3 && *byte != 7;
                for byte in (0..packet.len()).filter(covered) {
                    for bit in 0..8 {
                        let mut flipped = packet.clone();
                        flipped[byte] ^= 1 << bit;
                        assert!(
                            unanswered(&flipped) && echo_reply(&flipped).is_none(),
                            "{bit} of {byte}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn no_answer_goes_to_many_or_to_nobody() {
        let (v4, v6) = (addresses(&V4), addresses(&V6));
        for (host, many) in [
            (v4.1, "224.0.0.1"),
            (v4.1, "255.255.255.255"),
            (v4.1, "0.0.0.0"),
            (v6.1, "ff02::1"),
            (v6.1, "::"),
        ] {
            let many: IpAddr = many.parse().unwrap();
            for (source, destination) in [(many, host), (host, many)] {
                let mut packet = Vec::new();
                echo_request(source, destination, 1, 1, b"", &mut packet).unwrap();
                assert!(unanswered(&packet), "{source} asks {destination}");
            }
        }
    }

    #[test]
    fn fragments_options_and_other_codes_are_unanswered() {
        let (source, destination) = addresses(&V4);
        let mut fragment = bytes(V4[0]);
        fragment[6] |= 0x20;
        write_checksums(&mut fragment, source, destination, 20);
        let mut code = bytes(V4[0]);
        code[21] = 1;
        write_checksums(&mut code, source, destination, 20);
        let mut options = bytes(V4[0]);
        options.splice(20..20, [1, 1, 1, 0]);
        (options[0], options[3]) = (0x46, options[3] + 4);
        write_checksums(&mut options, source, destination, 24);
        assert!(verified(&options).is_some() && verified(&fragment).is_none());
        assert!(unanswered(&fragment) && unanswered(&code) && unanswered(&options));
    }
}
