//! The Internet checksum: is this header still what its sender wrote? RFC 1071.
//!
//! ```text
//! bytes   | 00 01 | f2 03 | f4 f5 | f6 f7 |  16-bit words, big-endian; a zero pads an odd byte
//! sum     0001 + f203 + f4f5 + f6f7 = 2ddf0 -> ddf0 + 2 = ddf2     a carry is added at the low end
//! field   not ddf2 = 220d                     words and field together sum to ffff
//! ```
//!
//! The ones' complement sum depends neither on the byte order nor on the width of the words. A sum
//! of wider words, in the machine's order, folds to the same 16 bits. That makes it fast here.
//!
//! A partial sum is a `u16`, always folded, so that adding to it can never overflow. The code that
//! writes the field takes the complement. The checksum finds accidents, not attacks: the record
//! around the packet keeps attackers out.

use std::fmt;
use std::net::IpAddr;

/// Adds `bytes` to the partial sum `initial` (0 to begin). If pieces are summed one after the
/// other, each but the last must have an even length.
#[must_use]
pub fn sum(bytes: &[u8], initial: u16) -> u16 {
    // Eight lanes, added independently, become vector instructions. A lane of 64 bits adds words of
    // 32, so it cannot overflow before 16 GiB.
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut lanes = [0u64; 8];
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut total = lanes.into_iter().sum::<u64>();
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    let mut last = [0u8; 4];
    last[..rest.len()].copy_from_slice(rest);
    total += u64::from(u32::from_ne_bytes(last));
    add(initial, u16::from_be(fold(total)))
}

/// Adds two partial sums.
#[must_use]
pub fn add(left: u16, right: u16) -> u16 {
    fold(u64::from(left) + u64::from(right))
}

/// The sum of the pseudo-header, which the checksums of TCP, UDP and ICMPv6 cover as well. It has
/// the addresses, the protocol, and `length`: the bytes of the transport header and its payload.
/// RFC 9293, section 3.1; RFC 8200, section 8.1.
#[must_use]
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u16 {
    let addresses = [source, destination]
        .iter()
        .fold(0, |partial, address| match address {
            IpAddr::V4(address) => sum(&address.octets(), partial),
            IpAddr::V6(address) => sum(&address.octets(), partial),
        });
    add(sum(&length.to_be_bytes(), u16::from(protocol)), addresses)
}

/// Completes a partial checksum as virtio's `NEEDS_CSUM` prescribes. The field at `start` +
/// `offset` (in bytes) holds the sum of the pseudo-header. This replaces it by the checksum of
/// everything from `start` to the end of the packet, that field included.
///
/// A result of 0 is written as 0xffff, which verifies as well. In UDP, 0 means that there is no
/// checksum (RFC 768).
///
/// # Errors
/// [`OutOfPacket`] if the field is not inside the packet. The packet is unchanged then.
pub fn complete(packet: &mut [u8], start: u16, offset: u16) -> Result<(), OutOfPacket> {
    let covered = packet.get_mut(usize::from(start)..).ok_or(OutOfPacket)?;
    let checksum = nonzero(sum(covered, 0));
    let field = covered.get_mut(usize::from(offset)..).ok_or(OutOfPacket)?;
    *field.first_chunk_mut::<2>().ok_or(OutOfPacket)? = checksum.to_be_bytes();
    Ok(())
}

/// The checksum for a sum. It is never 0, which means "none" in UDP. A receiver accepts 0xffff in
/// its place.
#[must_use]
pub fn nonzero(partial: u16) -> u16 {
    if partial == 0xffff { 0xffff } else { !partial }
}

/// The place for a checksum is not inside the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfPacket;

impl fmt::Display for OutOfPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the checksum's place is outside the packet")
    }
}

impl std::error::Error for OutOfPacket {}

/// Folds a sum of words to one word: each carry is added at the low end.
#[allow(clippy::cast_possible_truncation)] // four rounds bring any u64 below 2^16
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Numbers, bytes, naive_checksum, verifies};
    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(sum(&bytes("0001 f203 f4f5 f6f7"), 0), 0xddf2);
    }

    #[test]
    fn every_length_agrees_with_the_naive_reference() {
        let mut numbers = Numbers(2);
        let random = numbers.bytes(400);
        for source in [random, vec![0xff; 400], vec![0; 400]] {
            for length in 0..=300 {
                let at = numbers.below(100);
                let piece = &source[at..at + length];
                assert_eq!(
                    !sum(piece, 0),
                    naive_checksum(piece),
                    "{length} bytes at {at}"
                );
            }
        }
    }

    #[test]
    fn a_whole_super_packet_agrees() {
        for source in [Numbers(3).bytes(65_575), vec![0xff; 65_575]] {
            assert_eq!(!sum(&source, 0), naive_checksum(&source));
        }
    }

    #[test]
    fn pieces_of_even_length_compose() {
        let source = Numbers(4).bytes(299);
        for cut in (0..source.len()).step_by(2) {
            let (left, right) = source.split_at(cut);
            assert_eq!(sum(right, sum(left, 0)), sum(&source, 0));
            assert_eq!(add(sum(left, 0), sum(right, 0)), sum(&source, 0));
        }
    }

    #[test]
    fn the_pseudo_header_as_it_is_drawn() {
        let (v4, v6) = (("10.7.0.2", "10.7.0.1"), ("fd07::2", "fd07::1"));
        let drawn = bytes("0a070002 0a070001 00 11 012d");
        let found = pseudo_header(v4.0.parse().unwrap(), v4.1.parse().unwrap(), 17, 0x12d);
        assert_eq!(!found, naive_checksum(&drawn));
        let drawn = bytes(
            "fd070000000000000000000000000002 fd070000000000000000000000000001 0001012d 0000003a",
        );
        let found = pseudo_header(v6.0.parse().unwrap(), v6.1.parse().unwrap(), 58, 0x1_012d);
        assert_eq!(!found, naive_checksum(&drawn));
    }

    /// A datagram whose checksum comes out as zero, so that ffff must be written. Scapy made it.
    const ZERO: &str = "4500001e00010000401166be0a0700020a070001 00010002000a0000 ebc6";

    #[test]
    fn a_checksum_of_zero_is_written_as_all_ones() {
        let mut packet = bytes(ZERO);
        let partial = pseudo_header([10, 7, 0, 2].into(), [10, 7, 0, 1].into(), 17, 10);
        packet[26..28].copy_from_slice(&partial.to_be_bytes());
        complete(&mut packet, 20, 6).unwrap();
        assert_eq!(packet[26..28], [0xff, 0xff]);
        assert!(verifies(&packet, 20, 17));
    }

    #[test]
    fn a_place_outside_leaves_the_packet_alone() {
        let mut packet = bytes(ZERO);
        for (start, offset) in [
            (31, 0),
            (20, 9),
            (29, 0),
            (0, 29),
            (30, 0),
            (0xffff, 0xffff),
        ] {
            assert_eq!(complete(&mut packet, start, offset), Err(OutOfPacket));
        }
        assert_eq!(packet, bytes(ZERO));
        complete(&mut packet, 20, 8).unwrap();
    }
}
