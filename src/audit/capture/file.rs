//! Which packets are in this file? pcap and pcapng, as libpcap and Wireshark write them.
//!
//! ```text
//! pcap    | magic | version | 0 | 0 | snaplen | link type |
//!         | seconds | fraction | captured | length | packet |  modified: 8 bytes before the packet
//! pcapng  | block type | block length | body | block length |
//!           0a0d0d0a  section    | byte order | version | section length | options |
//!           1         interface  | link type u16 | 0 u16 | snaplen | options |
//!                                  option 9: resolution, 14: seconds to add
//!           2         packet     | interface u16 | drops u16 | as in 6, from the time on
//!           3         packet     | length | packet |    of interface 0, without a time
//!           6         packet     | interface | time, high | low | captured | length | packet |
//! ```
//!
//! All numbers are u32 in the order of the machine that wrote the file, which the magic tells. The
//! file is untrusted: what a length claims is only read as far as it is there, and no more than
//! [`MAX_BLOCK`] at a time.

use crate::os::reason;
use std::io::Read;

/// The longest packet or block, in bytes. libpcap takes packets of 256 KiB.
pub const MAX_BLOCK: u32 = 1 << 24;
/// Most interfaces of a section.
const MAX_INTERFACES: usize = 1 << 16;
const SECTION: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
const SECOND: u64 = 1_000_000_000;

/// A packet as it was captured.
#[derive(Debug, PartialEq, Eq)]
pub struct Packet {
    /// Nanoseconds since 1970.
    pub time: u64,
    /// The link type, by its number in the registry of tcpdump.org.
    pub link: u16,
    /// Its bytes from the link's header on, as many as were captured.
    pub bytes: Vec<u8>,
    /// Whether it had more.
    pub cut: bool,
}

/// What was read, or a sentence: where and why the file cannot be read on.
pub type Reading<T> = Result<T, String>;

/// Reads a capture from its beginning to its end.
pub struct Reader<R> {
    input: R,
    offset: u64,
    big_endian: bool,
    format: Format,
}

enum Format {
    Pcap {
        link: u16,
        fraction: u64,
        /// Bytes between a packet's header and the packet.
        extra: u32,
    },
    Pcapng(Vec<Interface>),
}

#[derive(Clone, Copy)]
struct Interface {
    link: u16,
    snaplen: u32,
    ticks_per_second: u128,
    add_seconds: i64,
}

/// A packet of an interface, as its block has it.
struct Taken<'a> {
    interface: u32,
    ticks: u64,
    captured: u32,
    length: u32,
    /// The packet, and what may follow it in the block.
    bytes: &'a [u8],
}

impl<R: Read> Reader<R> {
    /// Reads the file's first bytes.
    ///
    /// # Errors
    /// Fails if this is no capture.
    pub fn new(input: R) -> Reading<Reader<R>> {
        let mut reader = Reader {
            input,
            offset: 0,
            big_endian: true,
            format: Format::Pcapng(Vec::new()),
        };
        let magic = reader.due(4)?;
        let (big_endian, fraction, extra) = match magic[..] {
            [0xa1, 0xb2, 0xc3, 0xd4] => (true, 1000, 0),
            [0xd4, 0xc3, 0xb2, 0xa1] => (false, 1000, 0),
            [0xa1, 0xb2, 0x3c, 0x4d] => (true, 1, 0),
            [0x4d, 0x3c, 0xb2, 0xa1] => (false, 1, 0),
            [0xa1, 0xb2, 0xcd, 0x34] => (true, 1000, 8),
            [0x34, 0xcd, 0xb2, 0xa1] => (false, 1000, 8),
            _ if magic == SECTION => {
                let length = reader.due(4)?;
                return reader.section(&length).map(|()| reader);
            }
            _ => return reader.broken(other_format(&magic)),
        };
        reader.big_endian = big_endian;
        let header = reader.due(20)?;
        // The upper half of the link type tells of checksums at the end of frames, which nobody
        // looks at here.
        let [.., link] = halves(true, reader.u32(&header, 16)?);
        Ok(Reader {
            format: Format::Pcap {
                link,
                fraction,
                extra,
            },
            ..reader
        })
    }

    /// The next packet, or none at the end.
    ///
    /// # Errors
    /// Fails if the file ends too early or is damaged. There is no way to read on.
    pub fn packet(&mut self) -> Reading<Option<Packet>> {
        let Format::Pcap {
            link,
            fraction,
            extra,
        } = self.format
        else {
            return self.block();
        };
        let Some(header) = self.next(16)? else {
            return Ok(None);
        };
        let time =
            u64::from(self.u32(&header, 0)?) * SECOND + u64::from(self.u32(&header, 4)?) * fraction;
        let captured = self.u32(&header, 8)?;
        let length = self.u32(&header, 12)?;
        self.due(extra)?;
        Ok(Some(Packet {
            time,
            link,
            bytes: self.due(captured)?,
            cut: captured < length,
        }))
    }

    /// Reads blocks up to the next one with a packet.
    fn block(&mut self) -> Reading<Option<Packet>> {
        while let Some(head) = self.next(8)? {
            let (kind, length) = head.split_at(4);
            if kind == SECTION {
                self.section(length)?;
                continue;
            }
            let kind = self.u32(kind, 0)?;
            let body = self.body(length, 8)?;
            match kind {
                1 => self.interface(&body)?,
                2 | 6 => return self.packet_block(kind, &body).map(Some),
                3 => return self.simple_packet_block(&body).map(Some),
                _ => {}
            }
        }
        Ok(None)
    }

    fn packet_block(&self, kind: u32, body: &[u8]) -> Reading<Packet> {
        let interface = self.u32(body, 0)?;
        let [old_interface, _drops] = halves(self.big_endian, interface);
        self.taken(&Taken {
            interface: match kind {
                2 => old_interface.into(),
                _ => interface,
            },
            ticks: u64::from(self.u32(body, 4)?) << 32 | u64::from(self.u32(body, 8)?),
            captured: self.u32(body, 12)?,
            length: self.u32(body, 16)?,
            bytes: body.get(20..).unwrap_or_default(),
        })
    }

    /// A packet of the first interface. How much of it was captured follows from the most that this
    /// interface captures of any, where 0 stands for all.
    fn simple_packet_block(&self, body: &[u8]) -> Reading<Packet> {
        let length = self.u32(body, 0)?;
        let snaplen = match &self.format {
            Format::Pcapng(interfaces) => interfaces.first().map_or(0, |one| one.snaplen),
            Format::Pcap { .. } => 0,
        };
        self.taken(&Taken {
            interface: 0,
            ticks: 0,
            captured: if snaplen == 0 {
                length
            } else {
                length.min(snaplen)
            },
            length,
            bytes: body.get(4..).unwrap_or_default(),
        })
    }

    /// The rest of a section's header, from its length on. Its interfaces are numbered anew.
    fn section(&mut self, length: &[u8]) -> Reading<()> {
        self.big_endian = match self.due(4)?[..] {
            [0x1a, 0x2b, 0x3c, 0x4d] => true,
            [0x4d, 0x3c, 0x2b, 0x1a] => false,
            _ => return self.broken("a section without its byte order"),
        };
        self.format = Format::Pcapng(Vec::new());
        self.body(length, 12).map(|_| ())
    }

    /// The rest of a block, of which `read` bytes are read, without the length at its end.
    fn body(&mut self, length: &[u8], read: u32) -> Reading<Vec<u8>> {
        let length = self.u32(length, 0)?;
        let Some(rest) = length
            .checked_sub(read + 4)
            .filter(|_| length.is_multiple_of(4))
        else {
            return self.broken(&format!("a block of {length} bytes"));
        };
        let body = self.due(rest)?;
        let again = self.due(4)?;
        match self.u32(&again, 0)? {
            again if again == length => Ok(body),
            again => self.broken(&format!(
                "a block of {length} bytes says {again} at its end"
            )),
        }
    }

    fn interface(&mut self, body: &[u8]) -> Reading<()> {
        let [link, _reserved] = halves(self.big_endian, self.u32(body, 0)?);
        let mut interface = Interface {
            link,
            snaplen: self.u32(body, 4)?,
            ticks_per_second: 1_000_000,
            add_seconds: 0,
        };
        let mut options = body.get(8..).unwrap_or_default();
        while let Ok(head) = self.u32(options, 0) {
            let [code, length] = halves(self.big_endian, head);
            let length = usize::from(length);
            match (code, options.get(4..4 + length)) {
                (9, Some([resolution])) => {
                    let base: u128 = if resolution & 0x80 == 0 { 10 } else { 2 };
                    interface.ticks_per_second = base.saturating_pow((resolution & 0x7f).into());
                }
                (14, Some(seconds)) => {
                    let read = if self.big_endian {
                        i64::from_be_bytes
                    } else {
                        i64::from_le_bytes
                    };
                    interface.add_seconds = seconds.try_into().map_or(0, read);
                }
                (0, _) | (_, None) => break,
                _ => {}
            }
            options = options
                .get(4 + length.next_multiple_of(4)..)
                .unwrap_or_default();
        }
        match &mut self.format {
            Format::Pcapng(interfaces) if interfaces.len() < MAX_INTERFACES => {
                interfaces.push(interface)
            }
            _ => return self.broken("too many interfaces"),
        }
        Ok(())
    }

    fn taken(&self, packet: &Taken) -> Reading<Packet> {
        let Format::Pcapng(interfaces) = &self.format else {
            return self.broken("a block");
        };
        let number = packet.interface;
        let interface = usize::try_from(number)
            .ok()
            .and_then(|number| interfaces.get(number));
        let captured = usize::try_from(packet.captured)
            .ok()
            .and_then(|captured| packet.bytes.get(..captured));
        let (Some(interface), Some(bytes)) = (interface, captured) else {
            return self.broken(&format!(
                "a packet of interface {number}, which is unknown, or longer than its block"
            ));
        };
        let time = u128::from(packet.ticks) * u128::from(SECOND) / interface.ticks_per_second;
        let time = u64::try_from(time).unwrap_or(u64::MAX);
        let time = time.saturating_add_signed(interface.add_seconds.saturating_mul(1_000_000_000));
        Ok(Packet {
            time,
            link: interface.link,
            bytes: bytes.to_vec(),
            cut: packet.captured < packet.length,
        })
    }

    fn u32(&self, bytes: &[u8], at: usize) -> Reading<u32> {
        let read = if self.big_endian {
            u32::from_be_bytes
        } else {
            u32::from_le_bytes
        };
        match bytes.get(at..).and_then(|rest| rest.first_chunk()) {
            Some(bytes) => Ok(read(*bytes)),
            None => self.broken("a block that is too short for its kind"),
        }
    }

    /// The next `length` bytes, which have to be there.
    fn due(&mut self, length: u32) -> Reading<Vec<u8>> {
        match self.next(length)? {
            Some(bytes) => Ok(bytes),
            None => self.broken(&format!(
                "the file is cut short: {length} bytes are due here"
            )),
        }
    }

    /// The next `length` bytes, or none if the file has ended before them.
    fn next(&mut self, length: u32) -> Reading<Option<Vec<u8>>> {
        if length > MAX_BLOCK {
            return self.broken(&format!("{length} bytes in one piece: the file is damaged"));
        }
        let mut bytes = Vec::new();
        let read = self
            .input
            .by_ref()
            .take(length.into())
            .read_to_end(&mut bytes);
        match (u64::from(length).saturating_sub(bytes.len() as u64), read) {
            (_, Err(error)) => return self.broken(&reason(&error)),
            (0, _) => self.offset += bytes.len() as u64,
            _ if bytes.is_empty() => return Ok(None),
            (missing, _) => {
                return self.broken(&format!(
                    "the file is cut short: {missing} of {length} bytes are missing"
                ));
            }
        }
        Ok(Some(bytes))
    }

    fn broken<T>(&self, reason: &str) -> Reading<T> {
        Err(format!("byte {}: {reason}", self.offset))
    }
}

/// What a file is instead, by its first bytes, and how to make a capture of it.
fn other_format(magic: &[u8]) -> &'static str {
    match magic {
        [0x1f, 0x8b, ..] => "this is compressed. Try: gzip -dc FILE | fernvpn capture -",
        [0x28, 0xb5, 0x2f, 0xfd] => "this is compressed. Try: zstd -dc FILE | fernvpn capture -",
        [0x04, 0x22, 0x4d, 0x18] => "this is compressed. Try: lz4 -dc FILE | fernvpn capture -",
        [0xfd, b'7', b'z', b'X'] => "this is compressed. Try: xz -dc FILE | fernvpn capture -",
        _ => "this is neither pcap nor pcapng. Try: editcap -F pcapng FILE NEW",
    }
}

/// Two numbers of 16 bits that were read as one of 32, in their order in the file.
fn halves(big_endian: bool, number: u32) -> [u16; 2] {
    let [a, b, c, d] = number.to_be_bytes();
    let halves = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
    if big_endian {
        halves
    } else {
        [halves[1], halves[0]]
    }
}
