//! What remains to be done to this packet, and is it safe to let the kernel do it? This is the
//! header before a super-packet: `struct virtio_net_hdr` (VIRTIO 1.2, section 5.1.6), as a TUN
//! device with `IFF_VNET_HDR` has it.
//!
//! ```text
//! | flags | gso_type |  hdr_len  |  gso_size  | csum_start | csum_offset |     10 bytes
//!     1        1           2           2            2             2     big-endian in the tunnel,
//!                                                                 or the machine's at the device
//!
//! flags     1 NEEDS_CSUM   the checksum field holds only the sum of the pseudo-header
//!           2 DATA_VALID   somebody has verified the checksum; not believed, never passed on
//! gso_type  0 none, 1 TCP in IPv4, 4 TCP in IPv6, 5 UDP; +80 if the packet has TCP's CWR flag
//! ```
//!
//! A peer's header is untrusted, and so is a kernel's about a packet that was made up.
//! [`Offload::check`] compares it with the packet and makes it anew. Every kernel that knows the
//! type accepts the result (Linux: `virtio_net_hdr_to_skb` in include/linux/virtio_net.h,
//! `tun_get_user` in drivers/net/tun.c). It can also segment it (`tcp_gso_segment`,
//! `__udp_gso_segment`). `segmentation` splits it here without further checks.

use std::fmt;

use super::{checksum, ip, protocol};

/// Length of the header in bytes, both in the tunnel and at the device.
pub const LENGTH: usize = 10;

/// Flag: the checksum is to be completed from `csum_start` on.
pub const NEEDS_CSUM: u8 = 1;
/// Flag: the checksum was verified.
pub const DATA_VALID: u8 = 2;

/// Not a super-packet.
pub const GSO_NONE: u8 = 0;
/// TCP in IPv4.
pub const GSO_TCPV4: u8 = 1;
/// TCP in IPv6.
pub const GSO_TCPV6: u8 = 4;
/// UDP in either; each segment is a datagram (`UDP_SEGMENT` in udp(7)).
pub const GSO_UDP_L4: u8 = 5;
/// Bit in the type: the TCP flag CWR is set, for the first segment alone.
pub const GSO_ECN: u8 = 0x80;

/// The smallest TCP segment payload in bytes. Linux goes no lower (`TCP_MIN_GSO_SIZE`: an MSS of 48
/// less 40 of options). With [`HEADERS_MAX`] it bounds one super-packet to 8,192 segments and 2.2
/// MB in all.
pub const TCP_SIZE_MIN: u16 = 8;
/// The most datagrams in one super-packet. Linux refuses more (`UDP_MAX_SEGMENTS`; from 6.7 until a
/// fix in 2024, it was 64).
pub const UDP_SEGMENTS_MAX: usize = 128;
/// The most bytes of headers that are repeated in every segment. IPv4 has at most 120.
pub const HEADERS_MAX: usize = 256;

/// The fields as received, not yet compared with a packet. The default asks for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// [`NEEDS_CSUM`], [`DATA_VALID`].
    pub flags: u8,
    /// [`GSO_NONE`], [`GSO_TCPV4`], [`GSO_TCPV6`], [`GSO_UDP_L4`]; [`GSO_ECN`] may be added.
    pub gso_type: u8,
    /// Bytes before the payload; a hint.
    pub hdr_len: u16,
    /// Bytes of payload in each segment but the last.
    pub gso_size: u16,
    /// Where the checksum's bytes begin, from the start of the packet: at the transport header.
    pub csum_start: u16,
    /// Where the checksum field is, from `csum_start`.
    pub csum_offset: u16,
}

impl Offload {
    /// Reads the header as it crosses the tunnel.
    #[must_use]
    pub fn from_wire(bytes: &[u8; LENGTH]) -> Self {
        Self::decode(bytes, u16::from_be_bytes)
    }

    /// Writes the header as it crosses the tunnel.
    #[must_use]
    pub fn to_wire(&self) -> [u8; LENGTH] {
        self.encode(u16::to_be_bytes)
    }

    /// Reads the header as this machine's TUN device delivers it.
    #[must_use]
    pub fn from_device(bytes: &[u8; LENGTH]) -> Self {
        Self::decode(bytes, u16::from_ne_bytes)
    }

    /// Writes the header as this machine's TUN device takes it.
    #[must_use]
    pub fn to_device(&self) -> [u8; LENGTH] {
        self.encode(u16::to_ne_bytes)
    }

    fn decode(bytes: &[u8; LENGTH], number: fn([u8; 2]) -> u16) -> Self {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1] = *bytes;
        let hdr_len = number([h0, h1]);
        let gso_size = number([g0, g1]);
        Self {
            flags,
            gso_type,
            hdr_len,
            gso_size,
            csum_start: number([s0, s1]),
            csum_offset: number([o0, o1]),
        }
    }

    fn encode(&self, bytes: fn(u16) -> [u8; 2]) -> [u8; LENGTH] {
        let [h0, h1] = bytes(self.hdr_len);
        let [g0, g1] = bytes(self.gso_size);
        let [s0, s1] = bytes(self.csum_start);
        let [o0, o1] = bytes(self.csum_offset);
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1]
    }

    /// Compares the header with its packet and makes it anew.
    ///
    /// # Errors
    /// [`OffloadError`], at the first thing that does not fit.
    pub fn check<'a>(&self, packet: &'a [u8]) -> Result<Checked<'a>, OffloadError> {
        // 1. Flags that are unknown here would mean something to a later kernel.
        if self.flags & !(NEEDS_CSUM | DATA_VALID) != 0 {
            return Err(OffloadError::Flags(self.flags));
        }
        // 2. Nothing remains to be done to an ordinary packet or a fragment. The other fields mean
        //    nothing then, and are cleared.
        if self.flags & NEEDS_CSUM == 0 {
            if self.gso_type != GSO_NONE {
                // Each segment needs a new checksum; for UDP this is EINVAL.
                return Err(OffloadError::Unsummed);
            }
            ip::addresses(packet)?;
            return Ok(Checked {
                packet,
                offload: Self::default(),
                work: Work::Nothing,
            });
        }
        // 3. The checksum must be where TCP and UDP have theirs. The kernel would write it
        //    anywhere.
        let ip = ip::parse(packet)?;
        if ip.fragment {
            return Err(OffloadError::Fragment); // the checksum covers more than this fragment
        }
        let transport = packet.get(ip.transport..).unwrap_or_default();
        let (csum_offset, length) = match ip.protocol {
            protocol::TCP => (16, tcp_header_length(transport)?),
            protocol::UDP => (6, udp_header_length(transport)?),
            other => return Err(OffloadError::Protocol(other)),
        };
        if (usize::from(self.csum_start), self.csum_offset) != (ip.transport, csum_offset) {
            return Err(OffloadError::ChecksumPlace);
        }
        // 4. The kernel gets a length that is computed here: `hdr_len` beyond the packet would be
        //    EINVAL.
        let payload = ip.transport + length;
        let hdr_len = u16::try_from(payload).map_err(|_| OffloadError::Headers)?;
        let mut offload = Self {
            flags: NEEDS_CSUM,
            hdr_len,
            csum_offset,
            ..*self
        };
        if self.gso_type != GSO_NONE {
            self.check_segments(packet, &ip, payload)?;
        }
        // 5. One segment is no super-packet, to the kernel as well. No payload is longer than
        //    0xffff, so this also removes that size. To the kernel it means "by fragments"
        //    (GSO_BY_FRAGS: EINVAL).
        if self.gso_type == GSO_NONE || packet.len() - payload <= usize::from(self.gso_size) {
            (offload.gso_type, offload.gso_size) = (GSO_NONE, 0);
            return Ok(Checked {
                packet,
                offload,
                work: Work::Checksum,
            });
        }
        Ok(Checked {
            packet,
            offload,
            work: Work::Segments { ip, payload },
        })
    }

    /// Completes the checksum of a packet inside this one (VXLAN, GENEVE, GRE, IP in IP). It is for
    /// a packet of this machine's kernel that [`Offload::check`] refuses, because the kernel has
    /// left a checksum open at an inner place. Returns whether it did. The packet then needs
    /// nothing more, so that no peer has to trust that place.
    ///
    /// The outer IP header must stay as it is, because a router has checked its addresses.
    pub fn complete_inner(&self, packet: &mut [u8]) -> bool {
        let is_plain = self.gso_type == GSO_NONE && self.flags & !DATA_VALID == NEEDS_CSUM;
        let Ok(ip) = ip::parse(packet) else {
            return false;
        };
        is_plain
            && !ip.fragment
            && usize::from(self.csum_start) >= ip.transport
            && checksum::complete(packet, self.csum_start, self.csum_offset).is_ok()
    }

    /// Compares type and size of the segments with the packet.
    fn check_segments(
        &self,
        packet: &[u8],
        ip: &ip::Header,
        payload: usize,
    ) -> Result<(), OffloadError> {
        // 1. The type must be the packet's, or the kernel would run one protocol's code over
        //    another's header. The ECN bit belongs to TCP; with UDP it is EINVAL.
        let tcp = if ip.source.is_ipv4() {
            GSO_TCPV4
        } else {
            GSO_TCPV6
        };
        let fits = match ip.protocol {
            protocol::TCP => self.gso_type & !GSO_ECN == tcp,
            _ => self.gso_type == GSO_UDP_L4,
        };
        if !fits {
            return Err(OffloadError::Type(self.gso_type));
        }
        // 2. Each segment repeats the headers; without a limit, one super-packet could grow to 100
        //    MB.
        if payload > HEADERS_MAX {
            return Err(OffloadError::Headers);
        }
        // 3. A size of zero is EINVAL, and segmentation would never end. A small one makes many
        //    segments.
        let size = usize::from(self.gso_size);
        let bytes = packet.len() - payload;
        let enough = match ip.protocol {
            protocol::TCP => self.gso_size >= TCP_SIZE_MIN,
            _ => size > 0 && bytes <= size * UDP_SEGMENTS_MAX,
        };
        if enough {
            Ok(())
        } else {
            Err(OffloadError::Size(self.gso_size))
        }
    }
}

/// A packet and a header that fit together.
#[derive(Debug, Clone, Copy)]
pub struct Checked<'a> {
    pub(super) packet: &'a [u8],
    pub(super) offload: Offload,
    pub(super) work: Work,
}

/// What remains to be done to a packet.
#[derive(Debug, Clone, Copy)]
pub(super) enum Work {
    Nothing,
    /// The checksum at the place that the header names, which is inside the packet.
    Checksum,
    /// The packet has to be split from the offset `payload` on, which is less than its length.
    Segments {
        ip: ip::Header,
        payload: usize,
    },
}

impl<'a> Checked<'a> {
    /// The packet itself.
    #[must_use]
    pub fn packet(&self) -> &'a [u8] {
        self.packet
    }

    /// The header to hand to the kernel or to a peer. It asks for what the packet needs, and every
    /// field is checked or made anew.
    #[must_use]
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// The number of packets into which `segmentation` splits this, at least one.
    #[must_use]
    pub fn segments(&self) -> usize {
        match self.work {
            Work::Nothing | Work::Checksum => 1,
            Work::Segments { payload, .. } => {
                (self.packet.len() - payload).div_ceil(usize::from(self.offload.gso_size))
            }
        }
    }
}

/// Why a header does not fit its packet. If a peer sent the header, it is the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffloadError {
    /// Not an IP packet.
    Malformed(ip::MalformedPacket),
    /// Flags other than [`NEEDS_CSUM`] and [`DATA_VALID`].
    Flags(u8),
    /// The type of super-packet is unknown, or not that of this packet.
    Type(u8),
    /// A super-packet without [`NEEDS_CSUM`].
    Unsummed,
    /// A fragment has no checksum to complete, and cannot be split.
    Fragment,
    /// This protocol is neither TCP nor UDP.
    Protocol(u8),
    /// The TCP or UDP header is cut short or contradicts itself.
    Transport,
    /// `csum_start` and `csum_offset` do not lead to the packet's checksum.
    ChecksumPlace,
    /// The headers are longer than [`HEADERS_MAX`].
    Headers,
    /// The `gso_size` is zero, or makes too many segments.
    Size(u16),
}

impl From<ip::MalformedPacket> for OffloadError {
    fn from(malformed: ip::MalformedPacket) -> Self {
        Self::Malformed(malformed)
    }
}

impl fmt::Display for OffloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(malformed) => malformed.fmt(f),
            Self::Flags(flags) => write!(f, "the offload header has unknown flags ({flags:#04x})"),
            Self::Type(kind) => write!(f, "the offload type {kind:#04x} does not fit the packet"),
            Self::Unsummed => write!(f, "a super-packet must ask for its checksums"),
            Self::Fragment => write!(f, "a fragment cannot be offloaded"),
            Self::Protocol(protocol) => {
                write!(
                    f,
                    "IP protocol {protocol} cannot be offloaded, only TCP and UDP can"
                )
            }
            Self::Transport => write!(
                f,
                "the TCP or UDP header is cut short or contradicts itself"
            ),
            Self::ChecksumPlace => {
                write!(
                    f,
                    "the offload header puts the checksum where the packet has none"
                )
            }
            Self::Headers => write!(
                f,
                "the super-packet's headers are longer than {HEADERS_MAX} bytes"
            ),
            Self::Size(size) => write!(
                f,
                "segments of {size} bytes are too small for the super-packet"
            ),
        }
    }
}

impl std::error::Error for OffloadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if let Self::Malformed(malformed) = self {
            Some(malformed)
        } else {
            None
        }
    }
}

/// Length of a TCP header in bytes, options included. Linux drops a super-packet whose data offset
/// is out of range.
fn tcp_header_length(transport: &[u8]) -> Result<usize, OffloadError> {
    let fixed = transport
        .first_chunk::<20>()
        .ok_or(OffloadError::Transport)?;
    let length = 4 * usize::from(fixed[12] >> 4);
    if (20..=transport.len()).contains(&length) {
        Ok(length)
    } else {
        Err(OffloadError::Transport)
    }
}

/// Length of a UDP header in bytes. Linux computes the segments' checksums from the UDP length, so
/// that must be right.
fn udp_header_length(transport: &[u8]) -> Result<usize, OffloadError> {
    let ([_, _, _, _, length @ .., _, _], _) = transport
        .split_first_chunk::<8>()
        .ok_or(OffloadError::Transport)?;
    if usize::from(u16::from_be_bytes(*length)) == transport.len() {
        Ok(8)
    } else {
        Err(OffloadError::Transport)
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Numbers, TCP4, UDP6, bytes, header};
    use super::*;

    fn tcp4() -> (Offload, Vec<u8>) {
        (header(GSO_TCPV4 | GSO_ECN, 8, 20, 16), bytes(TCP4))
    }

    fn udp6() -> (Offload, Vec<u8>) {
        (header(GSO_UDP_L4, 8, 48, 6), bytes(UDP6))
    }

    fn refusal(header: Offload, packet: &[u8]) -> OffloadError {
        header.check(packet).unwrap_err()
    }

    #[test]
    fn the_wire_is_big_endian_and_the_device_is_not_asked() {
        let header = header(GSO_TCPV6, 0x0102, 0x0304, 0x0506);
        assert_eq!(header.to_wire(), [1, 4, 0xff, 0xff, 1, 2, 3, 4, 5, 6]);
        assert_eq!(Offload::from_wire(&header.to_wire()), header);
        assert_eq!(Offload::from_device(&header.to_device()), header);
        assert_eq!(header.to_device()[4..6], 0x0102u16.to_ne_bytes());
    }

    #[test]
    fn lengths_are_ours_and_the_verdict_of_others_is_dropped() {
        let (mut header, packet) = tcp4();
        header.flags |= DATA_VALID;
        let checked = header.check(&packet).unwrap();
        assert_eq!(
            checked.offload(),
            Offload {
                flags: NEEDS_CSUM,
                hdr_len: 52,
                ..header
            }
        );
        assert_eq!(checked.segments(), 3);
        let (header, packet) = udp6();
        let checked = header.check(&packet).unwrap();
        assert_eq!((checked.offload().hdr_len, checked.segments()), (56, 3));
    }

    #[test]
    fn a_packet_that_asks_for_nothing_gets_an_empty_header() {
        let header = Offload {
            flags: DATA_VALID,
            hdr_len: 1,
            gso_size: 2,
            csum_start: 3,
            csum_offset: 4,
            gso_type: 0,
        };
        let mut fragment = bytes(TCP4);
        fragment[7] = 9;
        let checked = header.check(&fragment).unwrap();
        assert_eq!(
            (checked.offload(), checked.segments()),
            (Offload::default(), 1)
        );
        assert_eq!(
            refusal(header, &fragment[1..]),
            OffloadError::Malformed(ip::MalformedPacket::Version(0))
        );
    }

    #[test]
    fn one_segment_is_no_super_packet() {
        for (mut header, packet) in [tcp4(), udp6()] {
            for (size, segments) in [(20, 2), (21, 1), (22, 1), (0xffff, 1)] {
                header.gso_size = size;
                let checked = header.check(&packet).unwrap();
                assert_eq!(checked.segments(), segments);
                assert_eq!(checked.offload().gso_type == GSO_NONE, segments == 1);
                assert_eq!(checked.offload().flags, NEEDS_CSUM);
            }
        }
    }

    #[test]
    fn every_field_that_does_not_fit_is_refused() {
        for (good, packet) in [tcp4(), udp6()] {
            for flags in [4, 5, 8, 0x81] {
                assert_eq!(
                    refusal(Offload { flags, ..good }, &packet),
                    OffloadError::Flags(flags)
                );
            }
            for gso_type in
                (1..=255).filter(|kind| *kind != good.gso_type && *kind | GSO_ECN != good.gso_type)
            {
                assert_eq!(
                    refusal(Offload { gso_type, ..good }, &packet),
                    OffloadError::Type(gso_type)
                );
            }
            for gso_size in [0, if good.csum_offset == 16 { 7 } else { 0 }] {
                assert_eq!(
                    refusal(Offload { gso_size, ..good }, &packet),
                    OffloadError::Size(gso_size)
                );
            }
            for csum_start in [0, good.csum_start - 1, good.csum_start + 4, 0xffff] {
                assert_eq!(
                    refusal(Offload { csum_start, ..good }, &packet),
                    OffloadError::ChecksumPlace
                );
            }
            for csum_offset in [0, 22 - good.csum_offset, 0xffff] {
                assert_eq!(
                    refusal(
                        Offload {
                            csum_offset,
                            ..good
                        },
                        &packet
                    ),
                    OffloadError::ChecksumPlace
                );
            }
            assert_eq!(
                refusal(Offload { flags: 0, ..good }, &packet),
                OffloadError::Unsummed
            );
            assert_eq!(
                refusal(
                    Offload {
                        flags: DATA_VALID,
                        ..good
                    },
                    &packet
                ),
                OffloadError::Unsummed
            );
        }
    }

    #[test]
    fn every_packet_that_does_not_fit_is_refused() {
        let change = |(header, mut packet): (Offload, Vec<u8>), at: usize, value: u8| {
            packet[at] = value;
            refusal(header, &packet)
        };
        assert_eq!(change(tcp4(), 6, 0x20), OffloadError::Fragment);
        assert_eq!(change(tcp4(), 7, 1), OffloadError::Fragment);
        assert_eq!(change(tcp4(), 9, 1), OffloadError::Protocol(1));
        assert_eq!(change(tcp4(), 9, 51), OffloadError::Protocol(51));
        assert_eq!(change(tcp4(), 9, 17), OffloadError::Transport); // 0xffff is no UDP length
        for data_offset in [0x00, 0x40, 0xf0] {
            assert_eq!(change(tcp4(), 32, data_offset), OffloadError::Transport);
        }
        assert_eq!(change(udp6(), 6, 44), OffloadError::Fragment);
        assert_eq!(change(udp6(), 53, 0x1c), OffloadError::Transport);
        assert_eq!(change(udp6(), 40, 58), OffloadError::Protocol(58));
        let (mut header, packet) = udp6();
        (header.gso_type, header.csum_start) = (GSO_NONE, 40);
        assert_eq!(refusal(header, &packet), OffloadError::ChecksumPlace); // UDP begins at 48
    }

    /// An IPv6 datagram of `payload` bytes behind `extensions` bytes of options, and its header.
    fn datagram(extensions: usize, payload: usize) -> (Offload, Vec<u8>) {
        let mut options = vec![0; extensions];
        (options[0], options[1]) = (17, (extensions / 8 - 1) as u8);
        let udp = [
            [0; 4],
            [
                (payload + 8).to_be_bytes()[6],
                (payload + 8).to_be_bytes()[7],
                0,
                0,
            ],
        ]
        .concat();
        let mut packet = [bytes(UDP6)[..40].to_vec(), options, udp, vec![0; payload]].concat();
        let length = (packet.len() - 40) as u16;
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        packet[6] = 60;
        (header(GSO_UDP_L4, 8, 40 + extensions as u16, 6), packet)
    }

    /// A TCP segment inside `outer`. The segment's checksum only holds the sum of its
    /// pseudo-header.
    fn inside(outer: &str) -> (Offload, Vec<u8>, Vec<u8>) {
        let whole = bytes(TCP4);
        let mut open = whole.clone();
        let sum = checksum::pseudo_header([10, 7, 0, 2].into(), [10, 7, 0, 1].into(), 6, 53);
        open[36..38].copy_from_slice(&sum.to_be_bytes());
        let mut outer = bytes(outer);
        let length = outer.len() + whole.len();
        match outer[0] >> 4 {
            4 => outer[2..4].copy_from_slice(&(length as u16).to_be_bytes()),
            _ => outer[4..6].copy_from_slice(&(length as u16 - 40).to_be_bytes()),
        }
        let header = header(GSO_NONE, 0, outer.len() as u16 + 20, 16);
        (
            header,
            [outer.clone(), open].concat(),
            [outer, whole].concat(),
        )
    }

    #[test]
    fn the_checksum_of_a_packet_inside_is_completed_where_the_kernel_says() {
        for outer in [
            // These are IP in IP, GRE, and VXLAN in UDP over IPv6.
            "4500000000000000400400000a0800020a080001",
            "45000000000000004 02f00000a0800020a080001 00000800",
            "6000000000001140fd080000000000000000000000000002fd080000000000000000000000000001 \
             c00012b500000000 0800000000000700 0200000000010200000000020800",
        ] {
            let (header, open, whole) = inside(outer);
            assert!(header.check(&open).is_err(), "no peer may say so: {outer}");
            let mut packet = open.clone();
            assert!(header.complete_inner(&mut packet), "{outer}");
            assert_eq!(packet, whole, "{outer}");
            let before = |wrong: Offload| {
                let mut packet = open.clone();
                assert!(!wrong.complete_inner(&mut packet), "{wrong:?}");
                assert_eq!(packet, open, "{wrong:?}");
            };
            let outer = open.len() - bytes(TCP4).len();
            let ip_header = if open[0] >> 4 == 4 { 20 } else { 40 };
            for csum_start in [0, 8, ip_header - 1, open.len() as u16, u16::MAX] {
                before(Offload {
                    csum_start,
                    ..header
                });
            }
            for csum_offset in [(open.len() - outer - 21) as u16, u16::MAX] {
                before(Offload {
                    csum_offset,
                    ..header
                });
            }
            for flags in [0, DATA_VALID, NEEDS_CSUM | 4] {
                before(Offload { flags, ..header });
            }
            before(Offload {
                gso_type: GSO_TCPV4,
                gso_size: 20,
                ..header
            });
        }
    }

    #[test]
    fn what_one_super_packet_can_grow_to_is_bounded() {
        for (payload, taken) in [
            (8 * UDP_SEGMENTS_MAX, true),
            (8 * UDP_SEGMENTS_MAX + 1, false),
        ] {
            let (header, packet) = datagram(8, payload);
            assert_eq!(header.check(&packet).is_ok(), taken);
        }
        for (extensions, taken) in [(HEADERS_MAX - 48, true), (HEADERS_MAX - 40, false)] {
            let (mut header, packet) = datagram(extensions, 100);
            assert_eq!(header.check(&packet).is_ok(), taken);
            header.gso_type = GSO_NONE;
            assert!(header.check(&packet).is_ok());
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        for (header, packet) in [tcp4(), udp6()] {
            for length in 0..packet.len() {
                assert!(header.check(&packet[..length]).is_err());
                // The length in the IP header is made to agree, so that the transport is too short.
                let mut shorter = packet[..length].to_vec();
                let (at, before) = if packet[0] >> 4 == 4 { (2, 0) } else { (4, 40) };
                if length >= 40 {
                    shorter[at..at + 2].copy_from_slice(&((length - before) as u16).to_be_bytes());
                    let whole = packet[0] >> 4 == 4 && length >= 52;
                    assert_eq!(header.check(&shorter).is_ok(), whole, "{length} bytes");
                }
            }
        }
    }

    #[test]
    fn damaged_headers_and_packets_never_panic_and_never_split_without_end() {
        let mut numbers = Numbers(6);
        for round in 0..50_000 {
            let (header, mut packet) = if round % 2 == 0 { tcp4() } else { udp6() };
            let mut wire = header.to_wire();
            for _ in 0..numbers.below(3) {
                wire[numbers.below(LENGTH)] = numbers.below(256) as u8;
            }
            for _ in 0..numbers.below(3) {
                let at = numbers.below(packet.len());
                packet[at] = numbers.below(256) as u8;
            }
            if let Ok(checked) = Offload::from_wire(&wire).check(&packet) {
                let (count, again) = (checked.segments(), checked.offload());
                assert!((1..=21).contains(&count));
                assert_eq!(
                    again.check(&packet).unwrap().offload(),
                    again,
                    "checking twice changes nothing"
                );
                assert!(usize::from(again.hdr_len) <= packet.len());
            }
        }
    }
}
