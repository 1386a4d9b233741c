//! Which ordinary packets does this super-packet stand for? This does what a network card does with
//! TSO and USO, for peers that cannot take a super-packet whole.
//!
//! ```text
//! super-packet   | headers | payload, up to 64 KiB ................ |
//! segments       | headers | gso_size |  | headers | gso_size |  | headers | rest |
//!
//! in every segment    IPv4: total length, identification + 1, header checksum; IPv6: length
//!   TCP (RFC 9293)    sequence + gso_size; FIN and PSH in the last, CWR in the first; checksum
//!   UDP (RFC 768)     length and checksum; each segment is a datagram
//! ```
//!
//! Everything else in the headers, options and extension headers included, is repeated as it is.
//! The checks in `offload` bound the work: at most 8,192 segments of TCP or 128 of UDP, each with
//! at most 256 bytes of headers.

use super::offload::{Checked, Work};
use super::{checksum, protocol};

const FIN_PSH: u8 = 0x01 | 0x08;
const CWR: u8 = 0x80;

/// Hands the packets that `super_packet` stands for to `each`, in order, with complete checksums.
/// Returns their number. A packet that needs nothing is handed on as it is. `buffer` holds one
/// packet at a time and is overwritten.
pub fn segment(
    super_packet: &Checked<'_>,
    buffer: &mut Vec<u8>,
    mut each: impl FnMut(&[u8]),
) -> usize {
    let &Checked {
        packet,
        offload,
        work,
    } = super_packet;
    buffer.clear();
    let (ip, payload) = match work {
        Work::Nothing => {
            each(packet);
            return 1;
        }
        Work::Checksum => {
            buffer.extend_from_slice(packet);
            let inside = checksum::complete(buffer, offload.csum_start, offload.csum_offset);
            debug_assert!(inside.is_ok(), "the place was checked");
            each(buffer);
            return 1;
        }
        Work::Segments { ip, payload } => (ip, payload),
    };
    // `Offload::check` found that the lengths and places below are inside the packet.
    let (headers, payload) = packet.split_at(payload);
    let chunks = payload.chunks(usize::from(offload.gso_size));
    let count = chunks.len();
    let pseudo_header = checksum::pseudo_header(ip.source, ip.destination, ip.protocol, 0);
    buffer.extend_from_slice(headers);
    for (index, chunk) in (0u16..).zip(chunks) {
        buffer.truncate(headers.len());
        buffer.extend_from_slice(chunk);
        let (network, transport) = buffer.split_at_mut(ip.transport);
        let length = length16(transport.len());
        let last = usize::from(index) + 1 == count;
        let field = match ip.protocol {
            protocol::TCP => {
                write_tcp(
                    transport,
                    &headers[ip.transport..],
                    index,
                    offload.gso_size,
                    last,
                );
                16
            }
            _ => {
                transport[4..6].copy_from_slice(&length.to_be_bytes());
                6
            }
        };
        transport[field..field + 2].fill(0);
        let initial = checksum::add(pseudo_header, length);
        let checksum = checksum::nonzero(checksum::sum(transport, initial));
        transport[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        write_ip(network, headers, index, length);
        each(buffer);
    }
    count
}

/// Writes sequence number and flags of segment `index`. `original` is the super-packet's TCP
/// header.
fn write_tcp(tcp: &mut [u8], original: &[u8], index: u16, size: u16, last: bool) {
    let sequence = u32::from_be_bytes([original[4], original[5], original[6], original[7]]);
    let sequence = sequence.wrapping_add(u32::from(index) * u32::from(size));
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    let not_last = if last { 0 } else { FIN_PSH };
    let not_first = if index == 0 { 0 } else { CWR };
    tcp[13] = original[13] & !(not_last | not_first);
}

/// Writes the lengths of segment `index`; in IPv4 also identification and checksum. `length` counts
/// the bytes of transport header and payload.
fn write_ip(network: &mut [u8], original: &[u8], index: u16, length: u16) {
    if network[0] >> 4 == 6 {
        let extensions = length16(network.len() - 40);
        network[4..6].copy_from_slice(&(extensions + length).to_be_bytes());
        return;
    }
    let total = length16(network.len()) + length;
    let identification = u16::from_be_bytes([original[4], original[5]]).wrapping_add(index);
    network[2..4].copy_from_slice(&total.to_be_bytes());
    network[4..6].copy_from_slice(&identification.to_be_bytes());
    network[10..12].fill(0);
    let checksum = !checksum::sum(network, 0);
    network[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// A length in bytes as a field. No part of a packet is longer than the packet, whose own length
/// fits.
fn length16(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::ip;
    use super::super::offload::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, Offload};
    use super::super::sample::{Numbers, TCP4, UDP6, bytes, header, verifies};
    use super::*;

    fn segments(header: &Offload, packet: &[u8]) -> Vec<Vec<u8>> {
        let checked = header.check(packet).unwrap();
        let mut all = Vec::new();
        let count = segment(&checked, &mut vec![9; 5], |packet| {
            all.push(packet.to_vec())
        });
        assert_eq!((count, checked.segments()), (all.len(), all.len()));
        all
    }

    // Scapy wrote these segments. Sequence and identification wrap around.
    const TCP4_SEGMENTS: [&str; 3] = [
        "4500003cffff4000400626ac0a0700020a070001123401bbfffffffc00000005809001f47f6c00000101080a0\
         0000001000000\
         023031323334353637",
        "4500003c00004000400626ac0a0700020a070001123401bb0000000400000005801001f4ea4f00000101080a0\
         0000001000000\
         023839616263646566",
        "4500003900014000400626ae0a0700020a070001123401bb0000000c00000005801901f45ad500000101080a0\
         0000001000000\
         026768696a21",
    ];
    const UDP6_SEGMENTS: [&str; 3] = [
        "6000000700180040fd070000000000000000000000000002fd070000000000000000000000000001110001040\
         00000001234003\
         5001026823031323334353637",
        "6000000700180040fd070000000000000000000000000002fd070000000000000000000000000001110001040\
         00000001234003\
         5001090ec3839616263646566",
        "6000000700150040fd070000000000000000000000000002fd070000000000000000000000000001110001040\
         00000001234003\
         5000d01866768696a21",
    ];

    #[test]
    fn segments_are_those_of_another_implementation() {
        let found = segments(&header(GSO_TCPV4 | GSO_ECN, 8, 20, 16), &bytes(TCP4));
        assert_eq!(found, TCP4_SEGMENTS.map(bytes));
        let found = segments(&header(GSO_UDP_L4, 8, 48, 6), &bytes(UDP6));
        assert_eq!(found, UDP6_SEGMENTS.map(bytes));
    }

    #[test]
    fn a_packet_that_needs_nothing_is_handed_on_as_it_is() {
        assert_eq!(segments(&Offload::default(), &bytes(TCP4)), [bytes(TCP4)]);
    }

    #[test]
    fn a_partial_checksum_is_completed() {
        for (packet, header) in [
            (TCP4, header(GSO_NONE, 0, 20, 16)),
            (UDP6, header(GSO_NONE, 0, 48, 6)),
        ] {
            let whole = bytes(packet);
            let ip = ip::parse(&whole).unwrap();
            let length = whole.len() - ip.transport;
            let sum = checksum::pseudo_header(ip.source, ip.destination, ip.protocol, length);
            let mut partial = whole.clone();
            let field = ip.transport + usize::from(header.csum_offset);
            partial[field..field + 2].copy_from_slice(&sum.to_be_bytes());
            assert_eq!(segments(&header, &partial), [whole]);
        }
    }

    /// A super-packet of some kind, its type, transport offset and headers' length.
    fn super_packet(kind: usize, payload: &[u8]) -> (Vec<u8>, u8, usize, usize) {
        const V4_OPTIONS: &str = "4600 0000 fffe 4000 40 00 0000 0a070002 0a070001 94040000";
        const V6: &str =
            "60000007 0000 00 40 fd070000000000000000000000000002 fd070000000000000000000000000001";
        const TCP: &str =
            "1234 01bb fffffff0 00000005 8099 01f4 0000 0000 0101080a0000000100000002";
        let (mut network, mut transport) = match kind {
            0 => (bytes(V4_OPTIONS), bytes(TCP)),
            1 => (bytes(V6), bytes(TCP)),
            2 => ([bytes(V6), bytes("0600010400000000")].concat(), bytes(TCP)),
            3 => (bytes(V4_OPTIONS), bytes("1234 0035 0000 0000")),
            _ => (bytes(V6), bytes("1234 0035 0000 0000")),
        };
        let (offset, datagram) = (network.len(), (payload.len() + 8) as u16);
        let length = network.len() + transport.len() + payload.len();
        match kind {
            0 | 3 => {
                network[2..4].copy_from_slice(&(length as u16).to_be_bytes());
                network[9] = if kind == 0 { 6 } else { 17 };
            }
            _ => {
                network[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
                network[6] = [6, 0, 17, 17][kind - 1];
            }
        }
        if kind > 2 {
            transport[4..6].copy_from_slice(&datagram.to_be_bytes());
        }
        let headers = offset + transport.len();
        let gso_type = [GSO_TCPV4, GSO_TCPV6, GSO_TCPV6, GSO_UDP_L4, GSO_UDP_L4][kind];
        (
            [network, transport, payload.to_vec()].concat(),
            gso_type,
            offset,
            headers,
        )
    }

    #[test]
    fn payloads_come_together_again_and_every_checksum_verifies() {
        let mut numbers = Numbers(7);
        for round in 0..400 {
            let (kind, length) = (round % 5, [1, 99, 1460, 9001, 65_300][numbers.below(5)]);
            let payload = numbers.bytes(length);
            let size = (8 + length / 100 + numbers.below(1500)) as u16;
            let (packet, gso_type, transport, headers) = super_packet(kind, &payload);
            let udp = gso_type == GSO_UDP_L4;
            let offload = header(gso_type, size, transport as u16, if udp { 6 } else { 16 });
            let all = segments(&offload, &packet);
            assert_eq!(all.len(), length.div_ceil(usize::from(size)));
            if all.len() == 1 {
                continue; // only its checksum is completed; a test above has that
            }
            let mut together = Vec::new();
            for (index, found) in all.iter().enumerate() {
                let ip = ip::parse(found).unwrap();
                assert_eq!(ip, ip::parse(&packet).unwrap());
                assert!(
                    verifies(found, transport, ip.protocol),
                    "segment {index} of kind {kind}"
                );
                if !udp {
                    let sequence = 0xffff_fff0u32.wrapping_add(together.len() as u32);
                    assert_eq!(found[transport + 4..transport + 8], sequence.to_be_bytes());
                    let first = if index == 0 { CWR } else { 0 };
                    let last = if index + 1 == all.len() { FIN_PSH } else { 0 };
                    assert_eq!(found[transport + 13], 0x10 | first | last);
                } else {
                    let length = (found.len() - transport) as u16;
                    assert_eq!(found[transport + 4..transport + 6], length.to_be_bytes());
                }
                if kind == 0 || kind == 3 {
                    assert_eq!(
                        found[4..6],
                        0xfffeu16.wrapping_add(index as u16).to_be_bytes()
                    );
                }
                together.extend_from_slice(&found[headers..]);
            }
            assert_eq!(together, payload);
        }
    }

    #[test]
    fn the_smallest_size_of_the_largest_packet_is_bounded() {
        let (packet, gso_type, transport, _) = super_packet(1, &[7; 65_503]);
        let all = segments(&header(gso_type, 8, transport as u16, 16), &packet);
        assert_eq!(all.len(), 8188);
        assert!(
            all.iter()
                .all(|found| verifies(found, transport, protocol::TCP))
        );
    }

    #[test]
    fn whatever_is_checked_can_be_split() {
        let mut numbers = Numbers(8);
        for round in 0..20_000 {
            let (mut packet, gso_type, transport, _) = super_packet(round % 5, &[7; 60]);
            for _ in 0..numbers.below(4) {
                let at = numbers.below(packet.len());
                packet[at] = numbers.below(256) as u8;
            }
            let offset = if gso_type == GSO_UDP_L4 { 6 } else { 16 };
            let offload = header(gso_type, numbers.below(40) as u16, transport as u16, offset);
            if let Ok(checked) = offload.check(&packet) {
                segment(&checked, &mut Vec::new(), |found| {
                    assert!(ip::parse(found).is_ok())
                });
            }
        }
    }
}
