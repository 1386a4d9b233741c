//! What does `capture` make of a recording? The sessions come from the real code. TCP segments made
//! here carry them, so that each can be lost, moved, repeated, cut, and written in every format.
//! One session was recorded between a real server and client.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use crate::common;
use crate::loopback;
use common::{Random, begin, body, counting, fresh_hello, offer, taken};
use fernvpn::audit::capture::file::{Packet, Reader};
use fernvpn::audit::capture::inner::Writer;
use fernvpn::audit::capture::report::{Counts, Report};
use fernvpn::audit::capture::search::Keys;
use fernvpn::audit::capture::tally::Tally;
use fernvpn::audit::capture::{MAX_CONNECTIONS, capture, key_log, link};
use fernvpn::packet::ip;
use fernvpn::protocol::frame;
use fernvpn::protocol::key_schedule::TrafficSecret;
use fernvpn::protocol::record::{Form, HEADROOM, RecordType, Sealer, Suite};
use loopback::{address, listed, packet, super_packet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;

const SECOND: u64 = 1_000_000_000;
const BEGIN: u64 = 1_795_471_487 * SECOND;
const CLIENT: usize = 0;
const SERVER: usize = 1;

// ---------------------------------------------------------------------- what is said

/// One end's half of a session, both of them by the real code.
struct Talk {
    tcp: Tcp,
    sealers: [Sealer; 2],
    /// The packets that went through, in order.
    packets: Vec<Vec<u8>>,
    key_log: String,
}

impl Talk {
    /// A connection, and the handshake on it.
    fn begin(suite: Suite, n: u8, ends: [&str; 2]) -> Talk {
        // The client's numbers soon wrap around.
        Talk::begin_with(suite, n, ends, [u32::MAX - 2000, 7])
    }

    fn begin_with(suite: Suite, n: u8, ends: [&str; 2], first: [u32; 2]) -> Talk {
        let mut tcp = Tcp::open(ends, first);
        let (hello, client) = begin(None, offer(&Suite::ALL), n);
        let (answer, server) = taken(&hello).answer(&offer(&[suite]), None, fresh_hello(n + 1));
        let (finished, client) = client
            .receive(&body(&answer))
            .unwrap()
            .finish(|_| Ok::<(), ()>(()), &mut counting())
            .unwrap();
        let ready = server.unwrap().receive(&mut body(&finished)).unwrap();
        let (config, server, _) = ready
            .configure(b"mtu=1500\nkeepalive=15\n", &mut counting())
            .unwrap();
        let (_, client, _) = client.receive(&mut body(&config)).unwrap();
        for (side, frame) in [
            (CLIENT, &frame::frame(&hello)),
            (SERVER, &answer),
            (CLIENT, &finished),
            (SERVER, &config),
        ] {
            tcp.say(side, frame);
        }
        let [of_client, of_server] = [&client, &server].map(|sealer| hex(sealer.secret()));
        let key_log = format!("fernvpn 1 {suite} {of_client} {of_server}\n");
        Talk {
            tcp,
            sealers: [client, server],
            packets: Vec::new(),
            key_log,
        }
    }

    fn seal(&mut self, side: usize, kind: RecordType, content: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; HEADROOM];
        frame.extend(content);
        frame.resize(self.sealers[side].suite().frame_len(content.len()), 0);
        self.sealers[side]
            .seal(kind, &mut frame, content.len(), &mut counting())
            .unwrap();
        frame
    }

    fn say(&mut self, side: usize, kind: RecordType, content: &[u8]) {
        let frame = self.seal(side, kind, content);
        self.tcp.say(side, &frame);
    }

    /// A record of packets.
    fn send(&mut self, side: usize, packets: &[Vec<u8>]) {
        self.say(
            side,
            RecordType::Packets,
            &listed(&packets.iter().map(|packet| &packet[..]).collect::<Vec<_>>()),
        );
        self.packets.extend_from_slice(packets);
    }

    fn rekey(&mut self, side: usize) {
        let frame = self.sealers[side].rekey(&mut counting()).unwrap();
        self.tcp.say(side, &frame);
    }

    /// Records of all sizes both ways, with a Rekey of each side among them.
    fn chat(&mut self, records: usize) {
        let mut random = Random(9);
        for number in 0..records {
            let side = random.below(2);
            let packets = (0..=random.below(3)).map(|_| numbered(number, random.below(1400)));
            let packets: Vec<Vec<u8>> = packets.collect();
            self.send(side, &packets);
            if number == records / 2 {
                self.rekey(CLIENT);
                self.rekey(SERVER);
            }
        }
    }

    fn close(&mut self) {
        self.say(CLIENT, RecordType::Close, b"\0bye");
        self.tcp.end(CLIENT);
        self.tcp.end(SERVER);
    }
}

fn hex(secret: &TrafficSecret) -> String {
    secret
        .bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A packet that is like no other.
fn numbered(number: usize, length: usize) -> Vec<u8> {
    packet(
        address("10.8.0.2"),
        address("10.8.0.1"),
        &[&number.to_be_bytes()[..], &vec![7; length]].concat(),
    )
}

// ---------------------------------------------------------------------- what carries it

/// A segment on its way, as an IP packet.
#[derive(Clone)]
struct Segment {
    time: u64,
    sender: usize,
    bytes: Vec<u8>,
    payload: usize,
}

/// A TCP connection.
struct Tcp {
    ends: [SocketAddr; 2],
    next: [u32; 2],
    mss: usize,
    time: u64,
    segments: Vec<Segment>,
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const ACK: u8 = 16;

impl Tcp {
    fn open(ends: [&str; 2], first: [u32; 2]) -> Tcp {
        let ends = ends.map(|end| end.parse().unwrap());
        let mut tcp = Tcp {
            ends,
            next: first,
            mss: 1448,
            time: BEGIN,
            segments: Vec::new(),
        };
        tcp.segment(CLIENT, SYN, &[]);
        tcp.segment(SERVER, SYN | ACK, &[]);
        tcp.segment(CLIENT, ACK, &[]);
        tcp
    }

    /// Says it in segments, each of which is acknowledged.
    fn say(&mut self, side: usize, bytes: &[u8]) {
        for chunk in bytes.chunks(self.mss) {
            self.segment(side, ACK, chunk);
            self.segment(1 - side, ACK, &[]);
        }
    }

    fn end(&mut self, side: usize) {
        self.segment(side, FIN | ACK, &[]);
        self.segment(1 - side, ACK, &[]);
    }

    fn segment(&mut self, sender: usize, flags: u8, payload: &[u8]) {
        let (from, to) = (self.ends[sender], self.ends[1 - sender]);
        let acknowledged = if flags & ACK == 0 {
            0
        } else {
            self.next[1 - sender]
        };
        let tcp = [
            &from.port().to_be_bytes()[..],
            &to.port().to_be_bytes(),
            &self.next[sender].to_be_bytes(),
            &acknowledged.to_be_bytes(),
            &[0x60, flags, 255, 255, 0, 0, 0, 0, 1, 1, 1, 1], // four bytes of options
            payload,
        ]
        .concat();
        let mut bytes = packet(from.ip(), to.ip(), &tcp);
        bytes[if from.is_ipv4() { 9 } else { 6 }] = 6;
        self.segments.push(Segment {
            time: self.time,
            sender,
            bytes,
            payload: payload.len(),
        });
        self.next[sender] = self.next[sender]
            .wrapping_add(payload.len() as u32 + u32::from(flags & (SYN | FIN) != 0));
        self.time += 1_234_000;
    }
}

/// The places of all segments with data.
fn with_data(segments: &[Segment]) -> Vec<usize> {
    (0..segments.len())
        .filter(|at| segments[*at].payload > 0)
        .collect()
}

// ---------------------------------------------------------------------- how it is written down

/// A format of capture files.
#[derive(Clone, Copy, Debug)]
enum Format {
    Pcap { big_endian: bool, nanoseconds: bool },
    Pcapng { big_endian: bool },
}

const LINKS: [u16; 8] = [1, 0, 108, 101, 12, 228, 113, 276];
const PCAP: Format = Format::Pcap {
    big_endian: false,
    nanoseconds: false,
};
const FORMATS: [Format; 6] = [
    PCAP,
    Format::Pcap {
        big_endian: true,
        nanoseconds: false,
    },
    Format::Pcap {
        big_endian: false,
        nanoseconds: true,
    },
    Format::Pcap {
        big_endian: true,
        nanoseconds: true,
    },
    Format::Pcapng { big_endian: false },
    Format::Pcapng { big_endian: true },
];

/// A packet behind the header of its link.
fn linked(link: u16, packet: &[u8]) -> Vec<u8> {
    let kind = if packet.first().is_none_or(|first| first >> 4 == 4) {
        [8, 0]
    } else {
        [0x86, 0xdd]
    };
    let padding = vec![0xee; 46_usize.saturating_sub(packet.len())];
    match link {
        1 => [
            &[2; 12][..],
            &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 7],
            &kind,
            packet,
            &padding,
        ]
        .concat(),
        0 | 108 => [&[0, 0, 0, 2], packet].concat(),
        113 => [&[0; 14], &kind[..], packet].concat(),
        276 => [&kind[..], &[0; 18], packet].concat(),
        _ => packet.to_vec(),
    }
}

/// A capture file in this format. In pcapng there are two sections, the first with two interfaces
/// of different clocks.
fn written(format: Format, link: u16, segments: &[Segment]) -> Vec<u8> {
    let (Format::Pcap { big_endian, .. } | Format::Pcapng { big_endian }) = format;
    let u16 = |n: u16| {
        if big_endian {
            n.to_be_bytes()
        } else {
            n.to_le_bytes()
        }
    };
    let u32 = |n: u64| {
        if big_endian {
            (n as u32).to_be_bytes()
        } else {
            (n as u32).to_le_bytes()
        }
    };
    let mut file = Vec::new();
    if let Format::Pcap { nanoseconds, .. } = format {
        let (magic, unit) = if nanoseconds {
            (0xa1b2_3c4d, 1)
        } else {
            (0xa1b2_c3d4, 1000)
        };
        file.extend(
            [
                u32(magic),
                [u16(2), u16(4)].concat().try_into().unwrap(),
                u32(0),
                u32(0),
                u32(262_144),
            ]
            .concat(),
        );
        file.extend(u32(u64::from(link) | 0x1400_0000)); // and a frame check sequence of 2 bytes
        for segment in segments {
            let bytes = linked(link, &segment.bytes);
            let length = bytes.len() as u64;
            let time = [
                u32(segment.time / SECOND),
                u32(segment.time % SECOND / unit),
            ]
            .concat();
            file.extend([&time[..], &u32(length), &u32(length), &bytes].concat());
        }
        return file;
    }
    let block = |kind: u64, body: &[u8]| {
        let padding = vec![0; body.len().next_multiple_of(4) - body.len()];
        let length = u32((12 + body.len() + padding.len()) as u64);
        [&u32(kind), &length, body, &padding, &length].concat()
    };
    let interface = |resolution: u8, add: i64| {
        let add = if big_endian {
            add.to_be_bytes()
        } else {
            add.to_le_bytes()
        };
        let options = [
            &u16(2)[..],
            &u16(3),
            b"eth\0",
            &u16(9),
            &u16(1),
            &[resolution, 0, 0, 0],
            &u16(14),
            &u16(8),
            &add,
        ];
        block(
            1,
            &[&u16(link), &u16(0), &u32(0)[..], &options.concat(), &[0; 4]].concat(),
        )
    };
    let section = block(
        0x0a0d_0d0a,
        &[&u32(0x1a2b_3c4d), &u16(1)[..], &u16(0), &[0xff; 8]].concat(),
    );
    let (first, second) = segments.split_at(segments.len() / 2);
    for segments in [first, second] {
        file.extend(
            [
                &section[..],
                &interface(9, 0),
                &block(0xbad, b"unknown"),
                &interface(6, 1000),
            ]
            .concat(),
        );
        for (number, segment) in segments.iter().enumerate() {
            let bytes = linked(link, &segment.bytes);
            let number = number as u64 % 2;
            let ticks = if number == 0 {
                segment.time
            } else {
                segment.time / 1000 - 1_000_000_000
            };
            let length = u32(bytes.len() as u64);
            let body = [
                &u32(number),
                &u32(ticks >> 32),
                &u32(ticks & 0xffff_ffff),
                &length,
                &length,
                &bytes[..],
            ];
            file.extend(block(6, &body.concat()));
        }
    }
    file
}

// ---------------------------------------------------------------------- what comes out

#[derive(Debug)]
struct Told {
    text: String,
    inner: Vec<Packet>,
    broken: Option<String>,
}

impl Told {
    fn has(&self, part: &str) -> bool {
        self.text.contains(part)
    }

    fn packets(&self) -> Vec<Vec<u8>> {
        self.inner
            .iter()
            .map(|packet| packet.bytes.clone())
            .collect()
    }
}

fn tell(file: &[u8], keys: &str, whole: bool, verbose: bool) -> Told {
    let (mut text, mut inner) = (Vec::new(), Vec::new());
    let lines = key_log::parse(keys.as_bytes()).unwrap();
    let writer = Some(Writer::new(&mut inner as &mut dyn Write).unwrap());
    let mut report = Report {
        time: 0,
        out: &mut text,
        inner: writer,
        whole,
        verbose,
        counts: Counts::default(),
    };
    let broken = capture(
        file,
        Keys {
            lines,
            work: 1 << 28,
        },
        &mut report,
    )
    .unwrap()
    .err();
    let mut reader = Reader::new(&inner[..]).unwrap();
    let packets = std::iter::from_fn(|| reader.packet().unwrap()).collect();
    Told {
        text: String::from_utf8(text).unwrap(),
        inner: packets,
        broken,
    }
}

fn told(segments: &[Segment], keys: &str) -> Told {
    tell(&written(PCAP, 1, segments), keys, false, false)
}

/// All of it came out.
fn is_complete(told: &Told, talk: &Talk) {
    assert_eq!(told.packets(), talk.packets, "{}", told.text);
    assert!(
        told.has(" 0 of them not opened") && !told.has("not in the capture"),
        "{}",
        told.text
    );
    assert_eq!(told.broken, None);
}

const ENDS: [&str; 2] = ["192.0.2.7:50000", "203.0.113.2:12345"];
const ENDS6: [&str; 2] = ["[2001:db8::7]:50000", "[2001:db8::2]:443"];

#[test]
fn every_format_and_link_tells_the_same() {
    for (suite, ends) in [(Suite::AES_256_GCM, ENDS), (Suite::FERNET, ENDS6)] {
        let mut talk = Talk::begin(suite, 1, ends);
        talk.say(
            CLIENT,
            RecordType::Message,
            "Hello, World!\n\u{1b}[2J\u{202e}".as_bytes(),
        );
        talk.say(SERVER, RecordType::Ping, b"are you there?");
        talk.chat(20);
        talk.close();
        let first = told(&talk.tcp.segments, &talk.key_log);
        is_complete(&first, &talk);
        for part in [
            "ClientHello",
            "ServerHello",
            "0.0 ",
            "0.1 \"Hello, World! \\u{1b}[2J\\u{202e}\"",
            "1.0 ",
            "Config",
            "\"mtu=1500 keepalive=15\"",
            "Rekey",
            "code 0, \"bye\"",
            "the stream ends, after a Close",
            "1 sessions, ",
            &format!("session 1: {} > {}", ends[0], ends[1]),
        ] {
            assert!(first.has(part), "{part} in\n{}", first.text);
        }
        assert!(
            first.inner.is_sorted_by_key(|packet| packet.time)
                && first.inner.iter().all(|packet| packet.link == 101)
        );
        for format in FORMATS {
            for link in LINKS {
                let file = written(format, link, &talk.tcp.segments);
                let told = tell(&file, &talk.key_log, false, false);
                assert_eq!(
                    (&told.text, &told.inner),
                    (&first.text, &first.inner),
                    "{format:?} {link}"
                );
            }
        }
    }
}

// ---------------------------------------------------------------------- what wraps it

/// An IPv4 packet of this protocol.
fn in_ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = packet(address("198.51.100.1"), address("198.51.100.2"), payload);
    bytes[9] = protocol;
    bytes
}

fn in_ipv6(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = packet(address("2001:db8:1::1"), address("2001:db8:1::2"), payload);
    bytes[6] = protocol;
    bytes
}

fn in_udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let ports = [&50_000_u16.to_be_bytes()[..], &port.to_be_bytes()].concat();
    in_ipv4(
        17,
        &[&ports, &length.to_be_bytes()[..], &[0, 0], payload].concat(),
    )
}

/// The Ethernet type of an IP packet, and PPP's number of it.
fn kinds(packet: &[u8]) -> ([u8; 2], [u8; 2]) {
    match packet[0] >> 4 {
        4 => ([8, 0], [0, 0x21]),
        _ => ([0x86, 0xdd], [0, 0x57]),
    }
}

fn ethernet(kind: &[u8], payload: &[u8]) -> Vec<u8> {
    [&[2; 12], kind, payload].concat()
}

fn plain(packet: &[u8]) -> Vec<u8> {
    ethernet(&kinds(packet).0, packet)
}

/// A way to carry an IP packet in another one.
type Tunnel = (&'static str, fn(&[u8]) -> Vec<u8>);

const TUNNELS: [Tunnel; 24] = [
    ("IP in IP", |ip| {
        in_ipv4(if ip[0] >> 4 == 4 { 4 } else { 41 }, ip)
    }),
    ("IP in IPv6", |ip| {
        in_ipv6(if ip[0] >> 4 == 4 { 4 } else { 41 }, ip)
    }),
    ("GRE", |ip| {
        in_ipv4(47, &[&[0, 0], &kinds(ip).0[..], ip].concat())
    }),
    ("GRE with all fields", |ip| {
        in_ipv6(47, &[&[0xb0, 0], &kinds(ip).0[..], &[9; 12], ip].concat())
    }),
    ("GRE with a frame", |ip| {
        in_ipv4(
            47,
            &[&[0x20, 0, 0x65, 0x58, 0, 0, 7, 0][..], &plain(ip)].concat(),
        )
    }),
    ("GRE of PPTP", |ip| {
        let head = [
            0x30, 0x81, 0x88, 0x0b, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 2, 0xff, 3,
        ];
        in_ipv4(47, &[&head, &kinds(ip).1[..], ip].concat())
    }),
    ("ERSPAN I", |ip| {
        in_ipv4(47, &[&[0, 0, 0x88, 0xbe][..], &plain(ip)].concat())
    }),
    ("ERSPAN II", |ip| {
        let head = [0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 7, 0, 1, 0, 0, 0, 0];
        in_ipv4(47, &[&head[..], &plain(ip)].concat())
    }),
    ("ERSPAN III", |ip| {
        let head = [
            0x10, 0, 0x22, 0xeb, 0, 0, 0, 1, 0x20, 7, 0, 1, 9, 9, 9, 9, 0, 0, 0, 0,
        ];
        in_ipv4(47, &[&head[..], &plain(ip)].concat())
    }),
    ("ERSPAN III with more", |ip| {
        let head = [
            0x10, 0, 0x22, 0xeb, 0, 0, 0, 1, 0x20, 7, 0, 1, 9, 9, 9, 9, 0, 0, 0, 1,
        ];
        in_ipv4(47, &[&head[..], &[8; 8], &plain(ip)].concat())
    }),
    ("VXLAN", |ip| {
        in_udp(4789, &[&[8, 0, 0, 0, 0, 0, 7, 0][..], &plain(ip)].concat())
    }),
    ("VXLAN on Linux's first port", |ip| {
        in_udp(8472, &[&[8, 0, 0, 0, 0, 0, 7, 0][..], &plain(ip)].concat())
    }),
    ("VXLAN-GPE", |ip| {
        let next = if ip[0] >> 4 == 4 { 1 } else { 2 };
        in_udp(4790, &[&[0x0c, 0, 0, next, 0, 0, 7, 0][..], ip].concat())
    }),
    ("GENEVE", |ip| {
        let head = [2, 0, 0x65, 0x58, 0, 0, 7, 0, 1, 1, 0, 1, 9, 9, 9, 9];
        in_udp(6081, &[&head[..], &plain(ip)].concat())
    }),
    ("GENEVE of IP", |ip| {
        in_udp(
            6081,
            &[&[0, 0], &kinds(ip).0[..], &[0, 0, 7, 0], ip].concat(),
        )
    }),
    ("MPLS in UDP", |ip| {
        in_udp(6635, &[&[0, 6, 0x41, 64][..], ip].concat())
    }),
    ("MPLS in IP", |ip| {
        in_ipv4(137, &[&[0, 6, 0x40, 64, 0, 6, 0x41, 64][..], ip].concat())
    }),
    ("EtherIP", |ip| {
        in_ipv4(97, &[&[0x30, 0][..], &plain(ip)].concat())
    }),
    ("AH", |ip| {
        let next = if ip[0] >> 4 == 4 { 4 } else { 41 };
        in_ipv4(
            51,
            &[&[next, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1][..], &[7; 12], ip].concat(),
        )
    }),
    ("AH and IPv6's headers", |ip| {
        let next = if ip[0] >> 4 == 4 { 4 } else { 41 };
        let head = [51, 0, 1, 4, 0, 0, 0, 0, 60, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1];
        let options = [next, 0, 1, 4, 0, 0, 0, 0];
        in_ipv6(0, &[&head[..], &[7; 12], &options, ip].concat())
    }),
    ("a fragment header of a whole packet", |ip| {
        let next = if ip[0] >> 4 == 4 { 4 } else { 41 };
        in_ipv6(44, &[&[next, 0, 0, 0, 0, 0, 0, 9][..], ip].concat())
    }),
    ("a pseudowire in GRE", |ip| {
        let head = [0, 0, 0x88, 0x47, 0, 6, 0x41, 64, 0, 0, 0, 0];
        in_ipv4(47, &[&head[..], &plain(ip)].concat())
    }),
    ("a pseudowire without a control word", |ip| {
        in_ipv4(
            47,
            &[&[0, 0, 0x88, 0x47, 0, 6, 0x41, 64][..], &plain(ip)].concat(),
        )
    }),
    ("a backbone's bridge in GRE", |ip| {
        in_ipv4(
            47,
            &[&[0, 0, 0x88, 0xe7, 0, 0, 0, 1][..], &plain(ip)].concat(),
        )
    }),
];

/// A way to carry an IP packet over a link of this type.
type Link = (&'static str, u16, fn(&[u8]) -> Vec<u8>);

const WRAPPED_LINKS: [Link; 16] = [
    ("PPPoE", 1, |ip| {
        let length = (ip.len() as u16 + 2).to_be_bytes();
        ethernet(
            &[0x88, 0x64],
            &[&[0x11, 0, 0, 1], &length[..], &kinds(ip).1, ip].concat(),
        )
    }),
    ("PPPoE, short protocol", 51, |ip| {
        let length = (ip.len() as u16 + 1).to_be_bytes();
        [&[0x11, 0, 0, 1], &length[..], &kinds(ip).1[1..], ip].concat()
    }),
    ("PPP", 9, |ip| [&kinds(ip).1[..], ip].concat()),
    ("PPP in HDLC", 50, |ip| {
        [&[0xff, 3], &kinds(ip).1[..], ip].concat()
    }),
    ("HDLC", 104, |ip| {
        [&[0x0f, 0], &kinds(ip).0[..], ip].concat()
    }),
    ("MPLS", 219, |ip| [&[0, 6, 0x41, 64][..], ip].concat()),
    ("MPLS, three labels", 1, |ip| {
        ethernet(
            &[0x88, 0x48],
            &[&[0, 6, 0x40, 64, 0, 6, 0x40, 64, 0, 6, 0x41, 64][..], ip].concat(),
        )
    }),
    ("SNAP", 1, |ip| {
        let length = (ip.len() as u16 + 8).min(1500).to_be_bytes();
        ethernet(
            &length,
            &[&[0xaa, 0xaa, 3, 0, 0, 0], &kinds(ip).0[..], ip].concat(),
        )
    }),
    ("LLC without SNAP", 100, |ip| [&[6, 6, 3][..], ip].concat()),
    ("a bridged frame in LLC", 100, |ip| {
        [&[0xaa, 0xaa, 3, 0, 0x80, 0xc2, 0, 7, 0, 0][..], &plain(ip)].concat()
    }),
    ("cooked v2 with two tags", 276, |ip| {
        let head = [&[0x88, 0xa8][..], &[0; 18], &[0, 5, 0x81, 0, 0, 7]].concat();
        [&head, &kinds(ip).0[..], ip].concat()
    }),
    ("cooked with a tag", 113, |ip| {
        let head = [&[0; 14][..], &[0x81, 0, 0, 7]].concat();
        [&head, &kinds(ip).0[..], ip].concat()
    }),
    ("cooked LLC", 113, |ip| {
        let head = [&[0; 14][..], &[0, 4, 0xaa, 0xaa, 3, 0, 0, 0]].concat();
        [&head, &kinds(ip).0[..], ip].concat()
    }),
    ("802.1BR", 1, |ip| {
        let tag = [&[0x89, 0x3f][..], &[0; 6]].concat();
        ethernet(&tag, &[&kinds(ip).0[..], ip].concat())
    }),
    ("a backbone's bridge", 1, |ip| {
        let outer = [0x88, 0xa8, 0, 5, 0x88, 0xe7];
        ethernet(&outer, &[&[0, 0, 0, 1][..], &plain(ip)].concat())
    }),
    ("tags of all ages", 1, |ip| {
        let tags = [
            0x92, 0, 0, 1, 0x91, 0, 0, 2, 0x88, 0xa8, 0, 3, 0x81, 0, 0, 4,
        ];
        ethernet(&tags, &[&kinds(ip).0[..], ip].concat())
    }),
];

/// A pcap file of frames.
fn framed(link: u16, segments: &[Segment], frame: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut file = written(PCAP, link, &[]);
    for segment in segments {
        let bytes = frame(&segment.bytes);
        let length = (bytes.len() as u32).to_le_bytes();
        let second = ((segment.time / SECOND) as u32).to_le_bytes();
        let rest = ((segment.time % SECOND / 1000) as u32).to_le_bytes();
        file.extend([&second[..], &rest, &length, &length, &bytes].concat());
    }
    file
}

#[test]
fn whatever_it_is_wrapped_in_the_carrier_is_found() {
    for ends in [ENDS, ENDS6] {
        let mut talk = Talk::begin(Suite::AES_256_GCM, 1, ends);
        talk.chat(6);
        talk.close();
        let segments = &talk.tcp.segments;
        let first = told(segments, &talk.key_log);
        is_complete(&first, &talk);
        let same = |name: &str, link: u16, frame: &dyn Fn(&[u8]) -> Vec<u8>| {
            let file = framed(link, segments, frame);
            let told = tell(&file, &talk.key_log, false, false);
            assert_eq!(told.text, first.text, "{name}");
        };
        for (name, link, frame) in WRAPPED_LINKS {
            same(name, link, &frame);
            for (tunnel, inner) in TUNNELS {
                same(&format!("{tunnel} over {name}"), link, &|ip| {
                    frame(&inner(ip))
                });
            }
        }
        for (outer_name, outer) in TUNNELS {
            for (name, inner) in TUNNELS {
                let name = format!("{name} in {outer_name}");
                same(&name, 1, &|ip| plain(&outer(&inner(ip))));
            }
        }
    }
}

#[test]
fn headers_in_each_other_are_walked_up_to_a_limit_and_cut_nowhere() {
    let syn = Talk::begin(Suite::AES_256_GCM, 1, ENDS).tcp.segments[0].clone();
    for (name, tunnel) in TUNNELS {
        let mut bytes = syn.bytes.clone();
        for depth in 0..40 {
            let frame = plain(&bytes);
            match link::segment(1, &frame) {
                Ok(segment) => assert!(segment.syn && segment.to.port() == 12345, "{name}"),
                Err(reason) => {
                    assert_eq!(reason, link::NoSegment::Deep, "{name} {depth}");
                    assert!(depth > 3, "{name}");
                }
            }
            bytes = tunnel(&bytes);
        }
        assert_eq!(link::segment(101, &bytes), Err(link::NoSegment::Deep));
        // Cut anywhere: the segment, or that it is not all there.
        let frame = plain(&tunnel(&syn.bytes));
        for length in 0..frame.len() {
            match link::segment(1, &frame[..length]) {
                Ok(segment) => assert_eq!(segment.payload, b"", "{name}"),
                Err(link::NoSegment::Short(_) | link::NoSegment::Udp(_)) => {}
                Err(reason) => panic!("{name} {length}: {reason}"),
            }
        }
    }
}

// ---------------------------------------------------------------------- in which order

/// The same with the times of this side's segments moved, and in the order of time again.
fn skewed(segments: &[Segment], side: usize, by: i64) -> Vec<Segment> {
    let mut segments = segments.to_vec();
    for segment in &mut segments {
        if segment.sender == side {
            segment.time = segment.time.saturating_add_signed(by);
        }
    }
    segments.sort_by_key(|segment| segment.time);
    segments
}

#[test]
fn in_any_order_of_time_there_is_one_session_and_no_false_truncation() {
    for suite in Suite::ALL {
        let mut talk = Talk::begin(suite, 1, ENDS);
        talk.chat(40);
        talk.close();
        let segments = talk.tcp.segments.clone();
        let half = segments.len() / 2;
        let mut orders = vec![
            ("reversed", segments.iter().rev().cloned().collect()),
            (
                "the second half first",
                [&segments[half..], &segments[..half]].concat(),
            ),
            (
                "each twice",
                segments
                    .iter()
                    .flat_map(|one| [one.clone(), one.clone()])
                    .collect(),
            ),
            ("all of it twice", [&segments[..], &segments].concat()),
        ];
        for milliseconds in [1, 2, 50, 100_000] {
            for side in [CLIENT, SERVER] {
                let by = -milliseconds * 1_000_000;
                orders.push(("two clocks", skewed(&segments, side, by)));
            }
        }
        let (mut even, mut odd) = (Vec::new(), Vec::new());
        for (number, segment) in segments.iter().enumerate() {
            if number % 2 == 0 { &mut even } else { &mut odd }.push(segment.clone());
        }
        orders.push(("two links, one after the other", [odd, even].concat()));
        let mut random = Random(3);
        for _ in 0..10 {
            let mut shuffled = segments.clone();
            for at in (1..shuffled.len()).rev() {
                shuffled.swap(at, random.below(at + 1));
            }
            orders.push(("shuffled", shuffled));
        }
        talk.packets.sort();
        for (name, segments) in orders {
            let mut told = told(&segments, &talk.key_log);
            told.inner.sort_by_cached_key(|packet| packet.bytes.clone());
            is_complete(&told, &talk);
            assert!(told.has("1 sessions, "), "{name}\n{}", told.text);
            assert!(!told.has("a truncation"), "{name}\n{}", told.text);
            assert_eq!(
                told.text.matches("the stream ends, after a Close").count(),
                2,
                "{name}\n{}",
                told.text
            );
        }
    }
}

/// TCP Fast Open (RFC 7413): the SYN-ACK acknowledges more than the SYN.
#[test]
fn a_syn_with_data_before_and_behind_its_answer() {
    let mut talk = Talk::begin(Suite::AES_256_GCM, 1, ENDS);
    talk.chat(6);
    talk.close();
    let mut segments = talk.tcp.segments.clone();
    // The hello moves into the SYN; the ACK between them goes.
    let hello = segments[3].clone();
    let mut syn = segments[0].clone();
    syn.bytes
        .extend(&hello.bytes[hello.bytes.len() - hello.payload..]);
    let length = (syn.bytes.len() as u16).to_be_bytes();
    syn.bytes[2..4].copy_from_slice(&length);
    let mut answer = segments[1].clone();
    let acknowledged = segments[4].bytes[28..32].to_vec();
    answer.bytes[28..32].copy_from_slice(&acknowledged);
    segments.drain(..4);
    for begin in [[&syn, &answer], [&answer, &syn]] {
        let all = [&begin.map(Clone::clone)[..], &segments].concat();
        let told = told(&all, &talk.key_log);
        is_complete(&told, &talk);
        assert!(told.has("1 sessions, "), "{}", told.text);
    }
}

#[test]
fn what_is_not_in_the_capture_may_have_been_a_close() {
    let mut talk = Talk::begin(Suite::AES_256_GCM, 1, ENDS);
    talk.chat(6);
    let before = talk.tcp.segments.len();
    talk.close();
    let segments = talk.tcp.segments.clone();
    // The client's direction is missing, or only its Close, or its end.
    let close = (before..segments.len())
        .find(|at| segments[*at].payload > 0)
        .unwrap();
    let mut holed = segments.clone();
    holed.remove(close);
    let of_server: Vec<Segment> = segments
        .iter()
        .filter(|segment| segment.sender == SERVER)
        .cloned()
        .collect();
    let mut open = segments.clone();
    open.retain(|segment| segment.sender == SERVER || segment.time < segments[before].time);
    // And cut: the Close, and FIN with it, in a packet of which only the beginning was captured.
    let mut cut = segments.clone();
    cut[close].bytes[33] |= FIN;
    cut[close].bytes.truncate(50);
    for segments in [holed, of_server, open, cut] {
        let told = told(&segments, &talk.key_log);
        assert!(!told.has("a truncation"), "{}", told.text);
        assert!(told.has("no Close is in the capture"), "{}", told.text);
    }
}

#[test]
fn old_and_rare_forms_of_the_file() {
    let mut talk = Talk::begin(Suite::AES_256_GCM, 1, ENDS);
    talk.tcp.mss = 101; // so that blocks have padding
    talk.chat(6);
    talk.close();
    let segments = &talk.tcp.segments;
    let section = written(FORMATS[4], 1, &[])[..28].to_vec();
    let block = |kind: u32, body: &[u8]| {
        let padding = vec![0xee; body.len().next_multiple_of(4) - body.len()];
        let length = (12 + body.len() + padding.len()) as u32;
        let length = length.to_le_bytes();
        [&kind.to_le_bytes()[..], &length, body, &padding, &length].concat()
    };
    let interface = |snaplen: u32| {
        let body = [&101_u16.to_le_bytes()[..], &[0, 0], &snaplen.to_le_bytes()].concat();
        block(1, &body)
    };
    // The packet block that came before the enhanced one, of the second interface, with drops.
    let mut old = [&section[..], &interface(0), &interface(0)].concat();
    // The simple one, which does not say how much was captured.
    let mut simple = [&section[..], &interface(96)].concat();
    // pcap with eight bytes more before each packet.
    let mut modified = written(PCAP, 101, &[]);
    modified[..4].copy_from_slice(&0xa1b2_cd34_u32.to_le_bytes());
    for segment in segments {
        let length = (segment.bytes.len() as u32).to_le_bytes();
        let ticks = segment.time / 1000;
        let (high, low) = ((ticks >> 32) as u32, ticks as u32);
        let time = [high.to_le_bytes(), low.to_le_bytes()].concat();
        old.extend(block(
            2,
            &[&[1, 0, 9, 0][..], &time, &length, &length, &segment.bytes].concat(),
        ));
        let captured = &segment.bytes[..segment.bytes.len().min(96)];
        simple.extend(block(3, &[&length[..], captured].concat()));
        let second = ((segment.time / SECOND) as u32).to_le_bytes();
        let rest = ((segment.time % SECOND / 1000) as u32).to_le_bytes();
        modified.extend(
            [
                &second[..],
                &rest,
                &length,
                &length,
                &[9; 8],
                &segment.bytes,
            ]
            .concat(),
        );
    }
    for file in [old, modified] {
        is_complete(&tell(&file, &talk.key_log, false, false), &talk);
    }
    // All that was captured of a packet and none of the block's padding.
    let mut reader = Reader::new(&simple[..]).unwrap();
    for segment in segments {
        let packet = reader.packet().unwrap().unwrap();
        assert_eq!(packet.bytes, segment.bytes[..segment.bytes.len().min(96)]);
        assert_eq!(packet.cut, segment.bytes.len() > 96);
    }
    let cut = tell(&simple, &talk.key_log, false, false);
    assert!(
        cut.has("were cut short when they were captured"),
        "{}",
        cut.text
    );
}

#[test]
fn what_comes_twice_late_or_in_other_pieces_is_put_together() {
    for suite in Suite::ALL {
        let mut random = Random(77);
        for _ in 0..20 {
            let mut talk = Talk::begin(suite, 1, ENDS);
            talk.tcp.mss = [1, 100, 1448, 60_000][random.below(4)];
            talk.chat(if talk.tcp.mss == 1 { 3 } else { 30 });
            talk.close();
            let mut segments = talk.tcp.segments.clone();
            for _ in 0..segments.len() / 5 {
                // Moved back by a few places, or there again; never before the SYN of its side.
                let at = 3 + random.below(segments.len() - 3);
                let other = (at + random.below(8)).min(segments.len() - 1);
                let segment = if random.below(2) == 0 {
                    segments.remove(at)
                } else {
                    segments[at].clone()
                };
                segments.insert(other, segment);
            }
            // In the order of the capture now, which for the two sides together is another one.
            let mut told = told(&segments, &talk.key_log);
            told.inner.sort_by_cached_key(|packet| packet.bytes.clone());
            talk.packets.sort();
            is_complete(&told, &talk);
        }
    }
}

#[test]
fn overlapping_segments_are_each_byte_once() {
    let mut talk = Talk::begin(Suite::AES_256_GCM, 1, ENDS);
    talk.chat(10);
    let mut whole = Tcp::open(ENDS, [100, 200]);
    // All that each side says, from every place again up to 500 bytes further.
    for at in with_data(&talk.tcp.segments) {
        let segment = &talk.tcp.segments[at];
        let payload = &segment.bytes[segment.bytes.len() - segment.payload..];
        let before = whole.next[segment.sender];
        whole.segment(segment.sender, ACK, payload);
        let after = std::mem::replace(&mut whole.next[segment.sender], before);
        for begin in (0..payload.len()).step_by(100) {
            whole.next[segment.sender] = before + begin as u32;
            let end = (begin + 500).min(payload.len());
            whole.segment(segment.sender, ACK, &payload[begin..end]);
        }
        whole.next[segment.sender] = after;
    }
    is_complete(&told(&whole.segments, &talk.key_log), &talk);
    // The same without the segments that are whole: only the overlapping parts.
    let mut parts = whole.segments.clone();
    parts.retain(|segment| segment.payload <= 500);
    assert!(parts.len() < whole.segments.len());
    is_complete(&told(&parts, &talk.key_log), &talk);
}

/// Whether the packets of `told` are those of `talk` but for a few in a row.
fn misses_some(told: &Told, talk: &Talk) -> usize {
    let found = told.packets();
    let same = found
        .iter()
        .zip(&talk.packets)
        .take_while(|(a, b)| a == b)
        .count();
    let missing = talk.packets.len() - found.len();
    assert_eq!(
        found[same..],
        talk.packets[same + missing..],
        "{}",
        told.text
    );
    missing
}

#[test]
fn a_hole_in_the_capture_costs_what_was_in_it_and_no_more() {
    for suite in Suite::ALL {
        let mut talk = Talk::begin(suite, 1, ENDS);
        for number in 0..40 {
            talk.send(CLIENT, &[numbered(number, number * 30)]);
            if number % 10 == 5 {
                talk.rekey(CLIENT); // so that some holes hold one
            }
        }
        talk.close();
        let data = with_data(&talk.tcp.segments);
        let from_client: Vec<usize> = data[4..]
            .iter()
            .copied()
            .filter(|at| talk.tcp.segments[*at].sender == CLIENT)
            .collect();
        for length in [1, 2, 7, 20] {
            for hole in from_client.windows(length).step_by(5) {
                let mut segments = talk.tcp.segments.clone();
                hole.iter().rev().for_each(|at| _ = segments.remove(*at));
                let told = told(&segments, &talk.key_log);
                let missing = misses_some(&told, &talk);
                // Each segment may hold the end of one record and the beginning of another.
                assert!(
                    missing <= length + 1,
                    "{missing} of {length} in\n{}",
                    told.text
                );
                assert!(
                    told.has("not in the capture") && told.has(" 0 of them not opened"),
                    "{}",
                    told.text
                );
            }
        }
    }
}

#[test]
fn a_capture_that_begins_late_is_opened_from_there() {
    for suite in Suite::ALL {
        for rekeys in [0, 3] {
            let mut talk = Talk::begin(suite, 1, ENDS);
            talk.tcp.mss = 100;
            for number in 0..60 {
                talk.send(number % 2, &[numbered(number, 200)]);
                if number < rekeys * 10 && number % 10 == 5 {
                    talk.rekey(CLIENT);
                }
            }
            talk.close();
            // With other keys in the log, and the start at any place, in the middle of a record
            // too.
            let keys = [&Talk::begin(suite, 5, ENDS).key_log[..], &talk.key_log].concat();
            // And with the end, or without it.
            for (start, without) in (4..80)
                .step_by(11)
                .flat_map(|start| [(start, 0), (start, 6)])
            {
                let told = told(
                    &talk.tcp.segments[start..talk.tcp.segments.len() - without],
                    &keys,
                );
                assert!(!told.packets().is_empty() || start > 75);
                let mut rest = talk.packets.clone();
                let mut take = |one| {
                    rest.iter()
                        .position(|packet| packet == one)
                        .map(|at| rest.remove(at))
                };
                assert!(
                    told.packets().iter().all(|one| take(one).is_some()),
                    "{start}: none twice"
                );
                assert!(
                    told.packets().len() + start / 3 + 4 + without / 2 >= talk.packets.len(),
                    "{start}\n{}",
                    told.text
                );
                assert!(
                    told.has("opened by line 2") && told.has(" 0 of them not opened"),
                    "{}",
                    told.text
                );
            }
        }
    }
}

#[test]
fn packets_that_were_cut_short_are_holes() {
    let mut talk = Talk::begin(Suite::AES_256_GCM, 1, ENDS);
    talk.chat(30);
    talk.close();
    for snaplen in [0, 13, 40, 60, 200, 1000] {
        let mut segments = talk.tcp.segments.clone();
        segments
            .iter_mut()
            .for_each(|segment| segment.bytes.truncate(snaplen));
        let cut = told(&segments, &talk.key_log);
        let mut rest = talk.packets.clone();
        let mut take = |one| {
            rest.iter()
                .position(|packet| packet == one)
                .map(|at| rest.remove(at))
        };
        assert!(
            cut.packets().iter().all(|one| take(one).is_some()),
            "{snaplen}: none twice"
        );
        assert_eq!(
            cut.has("not in the capture"),
            snaplen >= 200,
            "{}",
            cut.text
        );
    }
}

#[test]
fn large_segments_and_packets_without_a_length() {
    let mut talk = Talk::begin(Suite::AES_256_GCM, 1, ENDS);
    talk.tcp.mss = 60_000;
    let large: Vec<Vec<u8>> = (0..40).map(|number| numbered(number, 1400)).collect();
    talk.send(CLIENT, &large);
    let mut segments = talk.tcp.segments.clone();
    segments
        .iter_mut()
        .filter(|one| one.payload > 1448)
        .for_each(|one| one.bytes[2..4].fill(0));
    is_complete(&told(&segments, &talk.key_log), &talk);
}

#[test]
fn ipv6_extension_headers_are_walked_and_fragments_told() {
    let mut talk = Talk::begin(Suite::AES_256_GCM, 1, ENDS6);
    talk.chat(5);
    let mut segments = talk.tcp.segments.clone();
    let put = |segment: &mut Segment, header: [u8; 8], kind: u8| {
        segment.bytes.splice(40..40, header);
        segment.bytes[6] = kind;
        let length = (segment.bytes.len() - 40) as u16;
        segment.bytes[4..6].copy_from_slice(&length.to_be_bytes());
    };
    segments
        .iter_mut()
        .for_each(|segment| put(segment, [6, 0, 1, 4, 0, 0, 0, 0], 60));
    is_complete(&told(&segments, &talk.key_log), &talk);
    segments
        .iter_mut()
        .for_each(|segment| put(segment, [60, 0, 0, 1, 0, 0, 0, 9], 44));
    let told = told(&segments, &talk.key_log);
    assert!(
        told.has(&format!(
            "{} packets of the capture were passed over: fragments",
            segments.len()
        )),
        "{}",
        told.text
    );
}

#[test]
fn sessions_at_once_and_the_same_ports_again() {
    let mut talks = [
        Talk::begin(Suite::AES_256_GCM, 1, ENDS),
        Talk::begin(Suite::FERNET, 3, ["192.0.2.8:50000", ENDS[1]]),
        Talk::begin_with(Suite::AES_256_GCM, 5, ENDS, [1000, 2000]),
    ];
    for talk in &mut talks {
        talk.chat(10);
        talk.close();
    }
    let keys: String = talks.iter().map(|talk| &talk.key_log[..]).collect();
    // The first and second mixed; then the third, between the ends of the first.
    let [first, second, third] = talks.each_ref().map(|talk| talk.tcp.segments.clone());
    let mut both = [first, second].concat();
    both.sort_by_key(|segment| segment.time);
    let mut expected: Vec<Vec<u8>> = talks.iter().flat_map(|talk| talk.packets.clone()).collect();
    expected.sort();
    // The third as it was, and with its SYN-ACK before its SYN.
    for by in [0, -2_000_000] {
        let told = told(&[&both[..], &skewed(&third, SERVER, by)].concat(), &keys);
        let mut found = told.packets();
        found.sort();
        assert!(found == expected, "{}", told.text);
        assert!(
            told.has("3 sessions, ") && told.has(" 0 of them not opened"),
            "{}",
            told.text
        );
    }
}

#[test]
fn without_the_key_there_is_an_outline() {
    let mut talk = Talk::begin(Suite::FERNET, 1, ENDS);
    talk.chat(4);
    talk.close();
    for keys in [String::new(), Talk::begin(Suite::FERNET, 7, ENDS).key_log] {
        let told = told(&talk.tcp.segments, &keys);
        let hello = "id ";
        assert!(
            told.has("ClientHello")
                && told.has(hello)
                && told.has("token made at 2023-11-14T22:13:20Z"),
            "{}",
            told.text
        );
        assert_eq!(
            told.text.matches(" sealed").count(),
            2 + 4 + 2 + 1,
            "{}",
            told.text
        );
        assert_eq!(
            told.text.matches("no line of the key log opens it").count(),
            if keys.is_empty() { 0 } else { 2 }
        );
        assert!(told.inner.is_empty());
    }
}

#[test]
fn other_connections_are_counted_and_not_told() {
    let mut tcp = Tcp::open(ENDS, [1, 2]);
    tcp.say(CLIENT, b"GET / HTTP/1.1\r\n\r\n");
    tcp.say(SERVER, b"\0\0\0\x10this is no hello");
    let mut other = Tcp::open(ENDS6, [1, 2]);
    other.say(CLIENT, &frame::frame(&[0; 200]));
    other.say(SERVER, &frame::frame(&[0; 200]));
    tcp.segments.extend(other.segments);
    let told = told(&tcp.segments, &Talk::begin(Suite::FERNET, 7, ENDS).key_log);
    assert_eq!(told.text.lines().count(), 5, "{}", told.text);
    for part in [
        "0 sessions, 0 frames",
        "2 other connections",
        "of these, 1 to port 443, 1 to port 12345",
    ] {
        assert!(told.has(part), "{part} in\n{}", told.text);
    }
}

#[test]
fn no_session_is_never_the_whole_answer() {
    let keys = Talk::begin(Suite::FERNET, 7, ENDS).key_log;
    let http = {
        let mut tcp = Tcp::open(ENDS, [1, 2]);
        tcp.say(CLIENT, b"GET / HTTP/1.1\r\n\r\n");
        tcp.segments
    };
    let arp = Segment {
        bytes: vec![0; 28],
        ..http[0].clone()
    };
    let mut frames = written(PCAP, 1, &http);
    for _ in 0..3 {
        let frame = [&[2; 12][..], &[8, 6], &arp.bytes].concat();
        let length = (frame.len() as u32).to_le_bytes();
        frames.extend([&[0; 8][..], &length, &length, &frame].concat());
    }
    // The last packet has 100 bytes more than were captured.
    let mut cut = frames.clone();
    let last = cut.len() - 42 - 4;
    cut[last] += 100;
    let empty = written(PCAP, 1, &[]);
    for (file, keys, parts) in [
        (&empty, "", &["in 0 packets", "Try: tcpdump"][..]),
        (
            &frames,
            "",
            &[
                "in 8 packets, 5 of them TCP",
                "1 to port 12345",
                "3 packets of the capture were passed over: Ethernet type 0806 (ARP)",
                "Try: --keylog FILE",
            ],
        ),
        (&frames, &keys, &["before the client connects"]),
        (
            &cut,
            &keys,
            &["1 packets were cut short", "too little was captured"],
        ),
    ] {
        let told = tell(file, keys, false, false);
        for part in parts {
            assert!(told.has(part), "{part} in\n{}", told.text);
        }
    }
}

/// Every part of a capture that is of no use is counted, with its reason: none is lost.
#[test]
fn each_packet_is_used_or_counted() {
    let kinds = [
        (1, [&[2; 12][..], &[0x88, 0xcc], &[0; 40]].concat()),
        (
            1,
            [&[2; 12][..], &[0, 40, 0x42, 0x42, 3], &[0; 40]].concat(),
        ),
        (1, vec![2; 13]),
        (
            101,
            [&[0x45, 0, 0, 28, 0, 0, 0, 0, 9, 50, 0, 0][..], &[1; 16]].concat(),
        ),
        (
            101,
            [&[0x45, 0, 0, 28, 0, 0, 0, 0, 9, 17, 0, 0][..], &[1; 16]].concat(),
        ),
        (
            101,
            [&[0x45, 0, 0, 28, 0, 0, 0x20, 0, 9, 6, 0, 0][..], &[1; 16]].concat(),
        ),
        (
            101,
            [&[0x45, 0, 0, 28, 0, 0, 0, 0, 9, 6, 0, 0][..], &[1; 16]].concat(),
        ),
        (
            101,
            [&[0x44, 0, 0, 40, 0, 0, 0, 0, 9, 6, 0, 0][..], &[1; 28]].concat(),
        ),
        (101, vec![0x70; 40]),
        (101, [&[0x45; 1][..], &[0; 18]].concat()),
        (
            51,
            [&[0x11, 0, 0, 1, 0, 4, 0xc0, 0x21][..], &[0; 4]].concat(),
        ),
        (51, vec![0x21; 12]),
        (105, vec![8; 60]),
        (
            219,
            [0, 0, 0, 9]
                .repeat(40)
                .into_iter()
                .map(|byte| byte & 8)
                .collect(),
        ),
    ];
    let reasons = [
        "Ethernet type 88cc (LLDP)",
        "LLC service access point 42",
        "the packet ends within its Ethernet header",
        "IP protocol 50 (ESP)",
        "UDP port 257",
        "fragments are not put together here",
        "the packet ends within its TCP header",
        "the IP header is malformed",
        "the IP header is malformed",
        "the packet ends within its IP header",
        "PPP protocol c021",
        "the PPPoE header is malformed",
        "links of type 105 are not known here",
        "more than 32 headers in each other",
    ];
    for ((link, bytes), reason) in kinds.into_iter().zip(reasons) {
        let found = link::segment(link, &bytes).unwrap_err();
        assert_eq!(found.to_string(), reason);
    }
    let mut tally = Tally::default();
    for port in 0..40 {
        tally.packet(port == 7);
        tally.pass_over(link::NoSegment::Udp(port));
    }
    let lines = tally.lines(1, true);
    let counted: u64 = lines
        .iter()
        .filter(|line| line.contains("passed over"))
        .map(|line| line.split(' ').next().unwrap().parse::<u64>().unwrap())
        .sum();
    assert_eq!(counted, 40, "{lines:?}");
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("1 packets were cut short"))
    );
}

#[test]
fn a_record_that_is_refused_is_shown_as_such() {
    for suite in Suite::ALL {
        let mut talk = Talk::begin(suite, 1, ENDS);
        talk.send(CLIENT, &[numbered(1, 10)]);
        let mut flipped = talk.seal(CLIENT, RecordType::Ping, b"x");
        flipped[15] ^= 1;
        talk.tcp.say(CLIENT, &flipped);
        talk.send(CLIENT, &[numbered(2, 10)]);
        let told = told(&talk.tcp.segments, &talk.key_log);
        assert_eq!(told.packets(), talk.packets, "{}", told.text);
        assert!(
            told.has("REFUSED: ") && told.has(" 1 of them not opened"),
            "{}",
            told.text
        );
        assert!(
            told.text
                .trim_end()
                .lines()
                .any(|line| line.contains("0.3 ")),
            "{}",
            told.text
        );
    }
}

#[test]
fn the_end_without_a_close_is_a_truncation() {
    let mut talk = Talk::begin(Suite::AES_256_GCM, 1, ENDS);
    let frame = talk.seal(CLIENT, RecordType::Ping, b"x");
    talk.tcp.say(CLIENT, &frame[..10]);
    talk.tcp.end(CLIENT);
    talk.tcp.end(SERVER);
    let told = told(&talk.tcp.segments, &talk.key_log);
    assert!(
        told.has("> -- the stream ends in the middle of a frame"),
        "{}",
        told.text
    );
    assert!(
        told.has("< -- the stream ends without a Close: a truncation"),
        "{}",
        told.text
    );
}

#[test]
fn super_packets_in_segments_or_whole() {
    let mut talk = Talk::begin(Suite::AES_256_GCM, 1, ENDS);
    let (offload, packet) =
        super_packet(address("10.8.0.2"), address("10.8.0.1"), &[5; 3000], 1000);
    let content = [&offload.to_wire()[..], &packet].concat();
    talk.say(CLIENT, RecordType::SuperPacket, &content);
    talk.say(
        CLIENT,
        RecordType::SuperPacket,
        &[&[9; 10], &packet[..]].concat(),
    );
    talk.say(CLIENT, RecordType::SuperPacket, b"short");
    talk.say(CLIENT, RecordType::Packets, b"\0\x14too short\0");
    let file = written(PCAP, 1, &talk.tcp.segments);
    let segments = tell(&file, &talk.key_log, false, false);
    assert_eq!(
        segments.packets().iter().map(Vec::len).collect::<Vec<_>>(),
        [1040; 3]
    );
    assert!(
        segments
            .packets()
            .iter()
            .all(|packet| ip::parse(packet).is_ok())
    );
    assert!(
        segments.has("tcp 10.8.0.2:0 > 10.8.0.1:0, 3040 bytes in 3 segments"),
        "{}",
        segments.text
    );
    assert!(
        segments.has("malformed: the offload header has unknown flags"),
        "{}",
        segments.text
    );
    assert!(
        segments.has("malformed: the packet is of IP version") && segments.has(", 2 malformed"),
        "{}",
        segments.text
    );
    let whole = tell(&file, &talk.key_log, true, false);
    assert_eq!(whole.packets(), [packet]);
}

#[test]
fn verbose_has_every_byte() {
    for suite in Suite::ALL {
        let mut talk = Talk::begin(suite, 1, ENDS);
        talk.send(CLIENT, &[numbered(1, 10)]);
        talk.say(CLIENT, RecordType::Message, b"here is all of it");
        let told = tell(
            &written(PCAP, 1, &talk.tcp.segments),
            &talk.key_log,
            false,
            true,
        );
        for part in [
            "id: 8 bytes",
            "timestamp: 8 bytes",
            "IV: 16 bytes",
            "HMAC: 32 bytes",
            "here.is.all.of.i",
            "type: 1 bytes",
        ] {
            assert!(told.has(part), "{part} in\n{}", told.text);
        }
        // The packet, and what it was sealed into.
        let digits: String = told
            .text
            .lines()
            .filter_map(|line| line.get(14..61))
            .collect();
        let digits: String = digits.split_whitespace().collect();
        let packet: String = talk.packets[0]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert!(digits.contains(&packet), "{digits}");
        assert_eq!(told.has("tag: 16 bytes"), suite.form() == Form::Aead);
    }
}

// ---------------------------------------------------------------------- what is broken, or made up

#[test]
fn a_broken_file_tells_where_and_all_before_it() {
    let mut talk = Talk::begin(Suite::AES_256_GCM, 1, ENDS);
    talk.chat(4);
    for format in FORMATS {
        let file = written(format, 1, &talk.tcp.segments);
        let all = tell(&file, &talk.key_log, false, false).text;
        for length in (0..file.len()).step_by(7) {
            let told = tell(&file[..length], &talk.key_log, false, false);
            let lines = told
                .text
                .lines()
                .filter(|line| line.contains("Z  1 "))
                .count();
            assert!(
                told.text.lines().take(lines).eq(all.lines().take(lines)),
                "{format:?} {length}"
            );
            if let Some(reason) = told.broken {
                let at: usize = reason["byte ".len()..]
                    .split(':')
                    .next()
                    .unwrap()
                    .parse()
                    .unwrap();
                assert!(
                    at <= length && reason.contains("cut short"),
                    "{length}: {reason}"
                );
            }
        }
    }
    let section = &written(FORMATS[4], 1, &[])[..28];
    for (file, part) in [
        (&b"\x1f\x8b\x08\0"[..], "compressed"),
        (b"hello, world", "neither pcap nor pcapng"),
        (
            b"\x0a\x0d\x0d\x0a\x1c\0\0\0abcd",
            "byte 12: a section without its byte order",
        ),
        (
            &[
                section,
                &[6, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0],
            ]
            .concat(),
            "too short for its kind",
        ),
        (
            &[section, &[9, 0, 0, 0, 0x0c, 0, 0, 0, 0x10, 0, 0, 0]].concat(),
            "a block of 12 bytes says 16 at its end",
        ),
        (
            &[section, &[9, 0, 0, 0, 0x0d, 0, 0, 0]].concat(),
            "a block of 13 bytes",
        ),
        (
            &[section, &[9, 0, 0, 0, 0, 0, 0, 0]].concat(),
            "a block of 0 bytes",
        ),
        (
            &[section, &[9, 0, 0, 0, 0xf8, 0xff, 0xff, 0xff]].concat(),
            "damaged",
        ),
        (
            &[
                section,
                &[3, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0],
            ]
            .concat(),
            "interface 0, which is unknown",
        ),
    ] {
        let reason = tell(file, "", false, false).broken.unwrap();
        assert!(
            reason.contains(part) && reason.starts_with("byte "),
            "{reason}"
        );
    }
}

#[test]
fn damaged_captures_never_panic() {
    let mut random = Random(4);
    let mut talk = Talk::begin(Suite::AES_256_GCM, 1, ENDS);
    talk.tcp.mss = 300;
    talk.chat(12);
    talk.close();
    let keys = &talk.key_log;
    for round in 0..400 {
        let format = FORMATS[round % FORMATS.len()];
        let mut file = written(format, LINKS[round % LINKS.len()], &talk.tcp.segments);
        for _ in 0..=random.below(12) {
            let at = random.below(file.len());
            file[at] = if random.below(3) == 0 {
                [0, 1, 0x7f, 0x80, 0xff][random.below(5)]
            } else {
                random.next() as u8
            };
        }
        let told = tell(&file, keys, round % 3 == 0, round % 5 == 0);
        let known = |packet: &Vec<u8>| talk.packets.contains(packet);
        assert!(
            told.packets().iter().all(known),
            "nothing unauthentic comes out"
        );
    }
}

#[test]
fn a_flood_of_connections_forgets_the_oldest_and_goes_on() {
    let mut talk = Talk::begin(Suite::AES_256_GCM, 1, ENDS);
    talk.chat(4);
    let mut segments = talk.tcp.segments.clone();
    let syn = segments[0].clone();
    for number in 0..MAX_CONNECTIONS as u32 + 10 {
        let mut one = syn.clone();
        one.bytes[12..16].copy_from_slice(&number.to_be_bytes());
        segments.push(one);
    }
    let again = Talk::begin(Suite::AES_256_GCM, 1, ["192.0.2.9:1", ENDS[1]]);
    segments.extend(again.tcp.segments);
    let told = told(&segments, &talk.key_log);
    assert_eq!(told.packets(), talk.packets);
    assert!(told.has("2 sessions"), "{}", &told.text[..2000]);
}

#[test]
fn a_key_log_says_which_line_is_wrong_and_shows_none_of_it() {
    let good = Talk::begin(Suite::FERNET, 1, ENDS).key_log;
    assert_eq!(
        key_log::parse(format!("# mine\n\n  {good}\r\n{good}").as_bytes())
            .unwrap()
            .len(),
        2
    );
    let secret = good.split(' ').next_back().unwrap().trim();
    for bad in [
        good.replace("fernvpn", "CLIENT_RANDOM"),
        good.replace(" 1 ", " 2 "),
        good.replace("fernet", "rot13"),
        good.replace(secret, &secret[1..]),
        good.replace(secret, &format!("{secret}00")),
        good.replace(secret, &format!("+{}", &secret[1..])),
        good.replace('\n', " more"),
    ] {
        let Err(reason) = key_log::parse(format!("{good}{bad}").as_bytes()) else {
            panic!("{bad}")
        };
        assert!(
            reason.starts_with("line 2: ") && !reason.contains(&secret[10..]),
            "{reason}"
        );
    }
}

// ---------------------------------------------------------------------- a real server and client

/// Passes bytes both ways between a client and the server, and writes down what goes through.
fn recorder(server: SocketAddr) -> (SocketAddr, mpsc::Receiver<(usize, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, (sender, said)) = (listener.local_addr().unwrap(), mpsc::channel());
    thread::spawn(move || {
        let near = listener.accept().unwrap().0;
        let far = TcpStream::connect(server).unwrap();
        for (side, mut from, mut to) in [
            (CLIENT, near.try_clone().unwrap(), far.try_clone().unwrap()),
            (SERVER, far, near),
        ] {
            let sender = sender.clone();
            thread::spawn(move || {
                let mut buffer = vec![0; 100_000];
                while let Ok(length @ 1..) = from.read(&mut buffer) {
                    // Noted before it goes on, so that no answer is noted earlier.
                    sender.send((side, buffer[..length].to_vec())).unwrap();
                    if to.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
                let _ = to.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    (address, said)
}

#[cfg(unix)]
#[test]
fn the_key_logs_of_server_and_client_open_their_session() {
    use std::os::unix::fs::PermissionsExt;
    for suite in Suite::ALL {
        let file = |name| {
            std::env::temp_dir().join(format!(
                "fernvpn-{}-{name}-{suite}.keys",
                std::process::id()
            ))
        };
        let logs = [file("server"), file("client")];
        let settings = fernvpn::config::settings::ServerSettings {
            keylog: Some(logs[0].clone()),
            ..loopback::settings(1)
        };
        let (server, address) = loopback::serve(settings, None);
        let (address, said) = recorder(address);
        let settings = fernvpn::config::settings::ClientSettings {
            keylog: Some(logs[1].clone()),
            suites: vec![suite],
            send: Some("Hello, World!".into()),
            pings: Some(1),
            once: true,
            ..loopback::client_settings(address, 0)
        };
        loopback::Running::start(settings, None).end().unwrap();
        server.stop();
        let mut tcp = Tcp::open(ENDS, [0, 0]);
        for (side, bytes) in said {
            tcp.say(side, &bytes);
        }
        let keys = logs
            .each_ref()
            .map(|log| std::fs::read_to_string(log).unwrap());
        assert_eq!(keys[0], keys[1]);
        for (log, keys) in logs.iter().zip(keys) {
            assert_eq!(log.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            std::fs::remove_file(log).unwrap();
            let told = told(&tcp.segments, &keys);
            assert_eq!(
                told.inner.len(),
                2,
                "a ping and its answer in\n{}",
                told.text
            );
            assert!(
                told.has("\"Hello, World!\"")
                    && told.has("\"Hello, client0!")
                    && told.has("code 0"),
                "{}",
                told.text
            );
            assert!(told.has(" 0 of them not opened"), "{}", told.text);
        }
    }
}
