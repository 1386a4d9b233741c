//! What is inside? The packets that the tunnel carries, read and written as bytes.
//!
//! ```text
//! offload   the 10 bytes before a super-packet: what remains to be done, and is that safe
//! segmentation   a super-packet -> the ordinary packets it stands for
//! ip        addresses, transport protocol and where its header begins
//! icmp      echo request and reply, for an address without a kernel behind it
//! checksum  the Internet checksum under all of these
//! dns       what a resolver is asked about a name, and what it answers
//! ```
//!
//! A packet is untrusted on both sides of the tunnel: its sender may have made up all of it.
//! Nothing here touches a socket, a file, a clock, a thread or a source of randomness.
#![forbid(unsafe_code)]

pub mod checksum;
pub mod dns;
pub mod icmp;
pub mod ip;
pub mod offload;
pub mod segmentation;
pub mod subnet;

/// The transport protocols that this module knows, by their numbers in an IP header (IANA).
pub mod protocol {
    /// ICMP, RFC 792.
    pub const ICMP: u8 = 1;
    /// TCP, RFC 9293.
    pub const TCP: u8 = 6;
    /// UDP, RFC 768.
    pub const UDP: u8 = 17;
    /// ICMPv6, RFC 4443.
    pub const ICMPV6: u8 = 58;
}

/// What the tests of this module share.
#[cfg(test)]
mod sample {
    use super::offload::{NEEDS_CSUM, Offload};

    // Scapy made these super-packets, with complete checksums.
    pub(super) const TCP4: &str = "45000049ffff40004006269f0a0700020a070001 \
         123401bbfffffffc00000005809901f42b1d0000 0101080a0000000100000002 \
         303132333435363738396162636465666768696a21";
    pub(super) const UDP6: &str = "6000000700250040fd070000000000000000000000000002fd0700000000000\
        00000000000000001 \
         1100010400000000 12340035001dd22e 303132333435363738396162636465666768696a21";

    pub(super) fn header(
        gso_type: u8,
        gso_size: u16,
        csum_start: u16,
        csum_offset: u16,
    ) -> Offload {
        Offload {
            flags: NEEDS_CSUM,
            gso_type,
            hdr_len: 0xffff,
            gso_size,
            csum_start,
            csum_offset,
        }
    }

    /// Bytes from hexadecimal digits. Blanks between them mark the fields.
    pub(super) fn bytes(digits: &str) -> Vec<u8> {
        let digits: Vec<u32> = digits
            .chars()
            .filter_map(|digit| digit.to_digit(16))
            .collect();
        digits
            .chunks(2)
            .map(|pair| (pair[0] * 16 + pair[1]) as u8)
            .collect()
    }

    /// The checksum of some bytes as RFC 1071 describes it, one word after the other.
    pub(super) fn naive_checksum(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) * 256 + pair.get(1).map_or(0, |low| u32::from(*low));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    /// Whether the checksum of the transport header at offset `transport` verifies, and that of an
    /// IPv4 header.
    pub(super) fn verifies(packet: &[u8], transport: usize, protocol: u8) -> bool {
        let length = (packet.len() - transport) as u16;
        let (addresses, network) = match packet[0] >> 4 {
            4 => (12..20, naive_checksum(&packet[..transport])),
            _ => (8..40, 0),
        };
        let pseudo = [
            &packet[addresses],
            &[0, protocol],
            &length.to_be_bytes(),
            &packet[transport..],
        ]
        .concat();
        (network, naive_checksum(&pseudo)) == (0, 0)
    }

    /// Numbers that look random and are the same in every run (xorshift64*, Vigna 2016).
    pub(super) struct Numbers(pub(super) u64);

    impl Numbers {
        pub(super) fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
        }

        pub(super) fn bytes(&mut self, length: usize) -> Vec<u8> {
            (0..length).map(|_| self.below(256) as u8).collect()
        }
    }
}
