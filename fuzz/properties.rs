//! What must hold for any bytes at all? One function for each fuzz target; `tests/fuzz.rs` runs the
//! same functions.
//!
//! If bytes have to be authentic to get anywhere, a property seals them itself, under a key that it
//! knows. So it also knows everything that may be accepted. "No panic" is not enough for any of
//! them.
//!
//! | property | says |
//! |---|---|
//! | `token` | what opens was sealed; it has one spelling; one changed byte and it does not open |
//! | `key_file` | a key that is read is written as it was; a mistake names its line, but no key |
//! | `frame` | frames that are taken apart add up to what came in, and none is above the limit |
//! | `client_hello`, `server_hello` | an accepted hello was sealed, in its role, with this text |
//! | `record` | a record opens once, in its place, unchanged; a refused one changes nothing |
//! | `config` | what is read is what is written again |
//! | `offload` | segments are those of a reference; every checksum verifies |
//! | `icmp` | an answer is the request with its ends exchanged; other packets stay as they were |
//! | `configuration` | comments, blanks and line ends change nothing; a mistake has a line |
//! | `capture` | memory is bounded by the file; a file is read as written; sessions too |
//! | `inspect` | the verdict is that of `token::open`; nothing moves a cursor |
//! | `proxy` | an address is written as it was read; the header ends where it says |

use fernvpn::audit::capture::file::{Packet, Reader};
use fernvpn::audit::capture::inner::Writer;
use fernvpn::audit::capture::key_log::Line;
use fernvpn::audit::capture::report::{Counts, Report};
use fernvpn::audit::capture::search::Keys;
use fernvpn::audit::capture::session::Session;
use fernvpn::audit::capture::stream::OVERHEAD;
use fernvpn::audit::capture::{self as recording, link};
use fernvpn::audit::inspect::{self as drawing, Candidate};
use fernvpn::config::{file, key_file};
use fernvpn::fernet::{Fernet, Key, base64url, token};
use fernvpn::packet::offload::{GSO_NONE, LENGTH, NEEDS_CSUM, Offload};
use fernvpn::packet::{icmp, ip, protocol, segmentation};
use fernvpn::protocol::fields::Fields;
use fernvpn::protocol::frame;
use fernvpn::protocol::handshake::{
    Capabilities, ClientHello, FreshHello, Offer, client_hello as begin,
};
use fernvpn::protocol::key_schedule::Root;
use fernvpn::protocol::limits::{MAX_CONTENT, MAX_HELLO};
use fernvpn::protocol::ratchet::ClientState;
use fernvpn::protocol::record::{Fresh, HEADROOM, Opener, RecordType, Sealer, Suite};
use fernvpn::tunnel::wire::network_config::NetworkConfig;
use fernvpn::tunnel::wire::proxy_header as balancer;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::Path;

/// A property, by the name of its target.
pub type Property = (&'static str, fn(&[u8]));

/// All of them.
pub const PROPERTIES: [Property; 13] = [
    ("token", token),
    ("key_file", key_file),
    ("frame", frame),
    ("client_hello", client_hello),
    ("server_hello", server_hello),
    ("record", record),
    ("config", config),
    ("offload", offload),
    ("icmp", icmp),
    ("configuration", configuration),
    ("capture", capture),
    ("inspect", inspect),
    ("proxy", proxy),
];

/// Bytes that are taken as numbers and texts; zeros when they are used up.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    pub fn number(&mut self) -> usize {
        usize::from(u16::from_be_bytes([self.byte(), self.byte()]))
    }

    /// As many bytes as a number in front of them says, or those that are left.
    pub fn bytes(&mut self) -> &'a [u8] {
        let length = self.number().min(self.0.len());
        self.0.split_off(..length).unwrap_or_default()
    }
}

fn fernet(byte: u8) -> Fernet {
    Fernet::new(&Key::from_bytes(&[byte; 32]))
}

/// Another text of the same length.
fn changed(bytes: &[u8], at: usize, by: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = at % bytes.len();
    bytes[at] ^= by.max(1);
    bytes
}

/// Whatever comes: if it opens, one of the keys makes exactly this text of what was inside, up to
/// its padding.
fn one_spelling(keys: &[Fernet], data: &[u8]) {
    let mut text = data.to_vec();
    if let Ok(opened) = token::open(keys, &mut text, None) {
        let (time, message) = (opened.time, opened.message.to_vec());
        let mut raw = data.to_vec();
        let length = base64url::decode_in_place(&mut raw).expect("it opened");
        assert!(length >= token::HEADER + token::MAC);
        let iv = raw[9..25].try_into().expect("16 bytes");
        let unpadded = |text: &[u8]| {
            text.iter()
                .filter(|c| **c != b'=')
                .copied()
                .collect::<Vec<u8>>()
        };
        let made = keys
            .iter()
            .map(|key| unpadded(&key.seal(&message, time, iv)));
        assert!(
            made.into_iter().any(|made| made == unpadded(data)),
            "a token that nobody makes"
        );
    }
}

pub fn token(data: &[u8]) {
    let keys = [fernet(1), fernet(2)];
    one_spelling(&keys, data);
    // What is sealed opens, under its own key only, and only as it is.
    let mut input = Input(data);
    let (at, by, time) = (
        input.number(),
        input.byte(),
        u64::from_be_bytes([input.byte(); 8]),
    );
    let message = input.0;
    let sealed = keys[1].seal(message, time, [by; 16]);
    let mut text = sealed.clone();
    let opened = token::open(&keys, &mut text, None).expect("sealed just now");
    assert_eq!((opened.time, &*opened.message), (time, message));
    assert!(token::open(&keys[..1], &mut sealed.clone(), None).is_err());
    assert!(
        token::open(&keys, &mut changed(&sealed, at, by), None).is_err(),
        "changed at {at} by {by}"
    );
    let cut = &sealed[..at % sealed.len()];
    one_spelling(&keys, &sealed);
    one_spelling(&keys, cut);
    one_spelling(&keys, sealed.strip_suffix(b"=").unwrap_or(cut));
    let padding = sealed.iter().filter(|c| **c == b'=').count();
    assert!(
        token::open(&keys, &mut cut.to_vec(), None).is_err() || cut.len() + padding == sealed.len()
    );
}

pub fn key_file(data: &[u8]) {
    let lines = data.split(|c| *c == b'\n').count();
    match key_file::parse(data) {
        Ok(keys) => {
            let text = String::from_utf8(data.to_vec()).expect("it was read as text");
            for named in &keys {
                let line = text
                    .split('\n')
                    .nth(named.line - 1)
                    .expect("a line of the file");
                let written = named.key.to_text();
                assert!(
                    line.contains(written.trim_end_matches('=')),
                    "a key that does not stand there"
                );
                let name = line
                    .split_once('#')
                    .map_or("", |(_, comment)| comment.trim());
                assert_eq!(named.name.as_deref().unwrap_or_default(), name);
            }
            let again: String = keys
                .iter()
                .map(|named| format!("{}\n", named.key.to_text()))
                .collect();
            let again = key_file::parse(again.as_bytes()).expect("what is written can be read");
            assert!(
                again
                    .iter()
                    .map(|named| named.key.to_text())
                    .eq(keys.iter().map(|named| named.key.to_text()))
            );
        }
        Err((line, reason)) => {
            assert!((1..=lines).contains(&line));
            assert!(!reason.contains(&SECRET[4..12]), "a key is never shown");
        }
    }
}

pub fn frame(data: &[u8]) {
    let mut input = Input(data);
    let limit = 1 + input.number() % 2000;
    let (stream, mut rest, mut again) = (input.0, input.0, Vec::new());
    while let Ok(Some(length)) = frame::whole(rest, limit) {
        let (whole, after) = rest.split_at(length);
        let body = &whole[frame::HEADER..];
        assert!((1..=limit).contains(&body.len()));
        again.extend(frame::frame(body));
        rest = after;
    }
    assert_eq!([&again, rest].concat(), stream);
    match rest.first_chunk() {
        None => assert_eq!(frame::whole(rest, limit), Ok(None)),
        Some(header) => match frame::length(*header, limit) {
            Ok(length) => assert!(
                rest.len() < frame::HEADER + length,
                "only the end is missing"
            ),
            Err(bad) => assert!(bad.length == 0 || bad.length as usize > limit),
        },
    }
    // A frame is a frame whatever follows it.
    if !stream.is_empty() && stream.len() <= limit {
        assert_eq!(
            frame::whole(&[&frame::frame(stream), data].concat(), limit),
            Ok(Some(frame::HEADER + stream.len()))
        );
    }
}

fn root() -> Root {
    Root::new(Key::from_bytes(&[7; 32]))
}

fn offer(suites: &[Suite]) -> Offer {
    Offer {
        suites: suites.to_vec(),
        capabilities: Capabilities {
            super_packets: true,
        },
        software: "fuzz".into(),
    }
}

fn fresh_hello(nonce: u8) -> FreshHello {
    FreshHello {
        nonce: [nonce; 32],
        token: fresh(),
    }
}

fn fresh() -> Fresh {
    Fresh {
        time: 9,
        iv: [9; 16],
    }
}

/// Fields as a reader that knows nothing of this program would find them.
fn field(text: &[u8], name: &str) -> Option<String> {
    let text = str::from_utf8(text).expect("fields are text");
    let mut found = text
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let value = found.next().map(str::to_owned);
    assert!(
        found.next().is_none(),
        "{name} stands twice and was accepted"
    );
    value
}

pub fn client_hello(data: &[u8]) {
    let root = root();
    // Nobody has sealed these bytes.
    assert!(ClientHello::receive(&root, data, None).is_err());
    // The same bytes as the fields of an authentic hello.
    let body = [&root.id()[..], &root.hello().seal(data, 5, [3; 16])].concat();
    let Ok(hello) = ClientHello::receive(&root, &body, None) else {
        return;
    };
    assert!(body.len() <= MAX_HELLO);
    assert_eq!(field(data, "role").as_deref(), Some("client"));
    assert_eq!(
        field(data, "nonce"),
        Some(fernvpn::protocol::fields::hex(&hello.nonce))
    );
    assert_eq!(
        field(data, "step").map(|step| step.parse().expect("a number")),
        hello.step
    );
    assert_eq!(field(data, "software").unwrap_or_default(), hello.software);
    let offered = |suite: Suite| {
        field(data, "suites").is_some_and(|list| list.split(',').any(|name| name == suite.name()))
    };
    let speaks =
        field(data, "versions").is_some_and(|list| list.split(',').any(|version| version == "1"));
    let step = hello.step;
    let (frame, answer) = hello.answer(&offer(&Suite::ALL), None, fresh_hello(2));
    let fits = speaks && step.is_none() && Suite::ALL.into_iter().any(offered);
    assert_eq!(answer.is_ok(), fits);
    if let Ok(next) = answer {
        assert!(offered(next.suite));
    }
    let mut token = frame[frame::HEADER..].to_vec();
    let opened =
        token::open(&[root.hello().clone()], &mut token, None).expect("an answer is a token");
    assert_eq!(
        Fields::parse(opened.message)
            .expect("fields")
            .value("refused")
            .is_some(),
        !fits
    );
}

pub fn server_hello(data: &[u8]) {
    let root = root();
    let await_hello = |step| begin(&root, step, offer(&[Suite::FERNET]), fresh_hello(1)).1;
    assert!(await_hello(None).receive(data).is_err());
    let step = data.first().filter(|first| **first & 1 == 1).map(|_| 7);
    let body = root.hello().seal(data, 5, [3; 16]);
    let Ok(agreed) = await_hello(step).receive(&body) else {
        return;
    };
    assert!(body.len() <= MAX_HELLO);
    assert_eq!(field(data, "role").as_deref(), Some("server"));
    assert_eq!(field(data, "client-nonce"), Some("01".repeat(32)));
    assert_eq!(field(data, "suite").as_deref(), Some("fernet"));
    assert_eq!(agreed.suite, Suite::FERNET);
    assert_eq!(field(data, "version").as_deref(), Some("1"));
    assert_eq!(field(data, "refused"), None);
    assert_eq!(
        field(data, "step").map(|step| step.parse().expect("a number")),
        step
    );
    let mut kept = None;
    let keep = |next: &ClientState| {
        kept = Some(next.step);
        Ok::<(), Infallible>(())
    };
    let Ok(_) = agreed.finish(keep, &mut fresh);
    assert_eq!(
        kept,
        step.map(|step| step + 1),
        "a ratcheted key moves one step, a static one none"
    );
}

/// Both ends of a session.
struct End {
    sealer: Sealer,
    opener: Opener,
    /// All that was ever sent to this end, and how many of it have arrived.
    sent: Vec<Sent>,
    arrived: usize,
}

#[derive(Clone)]
struct Sent {
    content: (RecordType, Vec<u8>),
    body: Vec<u8>,
}

impl End {
    /// The record that is due opens, and says what was put into it.
    fn arrives(&mut self) {
        let Some(Sent { content, mut body }) = self.sent.get(self.arrived).cloned() else {
            return;
        };
        let opened = self.opener.open(&mut body).expect("it is due");
        assert_eq!((opened.0, opened.1.to_vec()), content);
        self.arrived += 1;
    }

    fn refuses(&mut self, mut body: Vec<u8>) {
        let secret = *self.opener.secret().bytes();
        assert!(
            self.opener.open(&mut body).is_err(),
            "a record that was not due"
        );
        assert_eq!(*self.opener.secret().bytes(), secret);
    }
}

/// Both ends, the client first, and what each has said so far.
fn session(suite: Suite) -> ([End; 2], [Vec<u8>; 2]) {
    let root = root();
    let (mut client, next) = begin(&root, None, offer(&[suite]), fresh_hello(1));
    let hello = ClientHello::receive(&root, &client[frame::HEADER..], None).expect("a hello");
    let (mut server, await_finished) = hello.answer(&offer(&[suite]), None, fresh_hello(2));
    let agreed = next.receive(&server[frame::HEADER..]).expect("an answer");
    let Ok((mut frame, next)) = agreed.finish(|_| Ok::<(), Infallible>(()), &mut fresh);
    client.extend(&frame);
    let ready = await_finished
        .expect("an answer")
        .receive(&mut frame[frame::HEADER..])
        .expect("Finished");
    let (mut frame, sealer, opener) = ready.configure(b"", &mut fresh).expect("Config");
    server.extend(&frame);
    let there = End {
        sealer,
        opener,
        sent: Vec::new(),
        arrived: 0,
    };
    let (_, sealer, opener) = next.receive(&mut frame[frame::HEADER..]).expect("Config");
    (
        [
            End {
                sealer,
                opener,
                sent: Vec::new(),
                arrived: 0,
            },
            there,
        ],
        [client, server],
    )
}

/// A record of any kind, framed.
fn sealed(sealer: &mut Sealer, kind: RecordType, content: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; sealer.suite().frame_len(content.len())];
    frame[HEADROOM..HEADROOM + content.len()].copy_from_slice(content);
    let length = sealer
        .seal(kind, &mut frame, content.len(), &mut fresh)
        .expect("room");
    frame.truncate(length);
    frame
}

/// Events between two ends of a session. Only the oldest record that has not arrived opens, and
/// only at its own end.
pub fn record(data: &[u8]) {
    let mut input = Input(data);
    let suite = Suite::ALL[usize::from(input.byte()) % Suite::ALL.len()];
    let (mut ends, _) = session(suite);
    let mut written = 0;
    while !input.0.is_empty() && written < 1 << 20 {
        let event = input.byte();
        let (from, to) = (usize::from(event >> 7), usize::from(1 - (event >> 7)));
        match event % 8 {
            // Seal a record of any kind and content.
            0 | 1 => {
                let kinds: Vec<_> = RecordType::of_tunnel().collect();
                let kind = kinds[usize::from(event / 8) % kinds.len()];
                let content = input.bytes();
                let frame = sealed(&mut ends[from].sealer, kind, content);
                written += frame.len();
                let body = frame[frame::HEADER..].to_vec();
                ends[to].sent.push(Sent {
                    content: (kind, content.to_vec()),
                    body,
                });
            }
            2 => {
                let frame = ends[from].sealer.rekey(&mut fresh).expect("room");
                written += frame.len();
                ends[to].sent.push(Sent {
                    content: (RecordType::Rekey, vec![]),
                    body: frame[frame::HEADER..].to_vec(),
                });
            }
            3 | 4 => ends[to].arrives(),
            // Something else arrives: of the past or the future, of the other direction, changed,
            // or made up.
            5 => {
                let which = input.number().checked_rem(ends[to].sent.len());
                if let Some(which) = which.filter(|which| *which != ends[to].arrived) {
                    let body = ends[to].sent[which].body.clone();
                    ends[to].refuses(body);
                }
            }
            6 => {
                let which = input.number().checked_rem(ends[from].sent.len());
                if let Some(which) = which {
                    let body = ends[from].sent[which].body.clone();
                    ends[to].refuses(body);
                }
            }
            _ => {
                let (at, by) = (input.number(), input.byte());
                let due = ends[to].sent.get(ends[to].arrived);
                let body =
                    due.map_or_else(|| input.bytes().to_vec(), |due| changed(&due.body, at, by));
                ends[to].refuses(body);
            }
        }
    }
    // After all of it, both directions are as good as ever.
    for end in &mut ends {
        (end.arrived..end.sent.len()).for_each(|_| end.arrives());
    }
}

pub fn config(data: &[u8]) {
    let Ok(config) = NetworkConfig::decode(data) else {
        return;
    };
    let written = config.encode();
    assert_eq!(NetworkConfig::decode(&written).as_ref(), Ok(&config));
    assert_eq!(config.encode(), written);
    assert!(config.mtu >= 576 && !config.keepalive.is_zero());
    let (addresses, server) = (config.addresses.len(), config.server.len());
    let (routes, dns) = (config.routes.len(), config.dns.len());
    for (name, found) in [
        ("addresses", addresses),
        ("server", server),
        ("routes", routes),
        ("dns", dns),
    ] {
        let items = field(data, name).expect("it is required");
        let count = items.split(',').filter(|item| !item.is_empty()).count();
        assert!(count == found && count <= 1000, "{name}");
    }
    assert!(
        data.len() > MAX_CONTENT || written.len() < 64 * (data.len() + 1),
        "it grows without bound"
    );
}

pub fn offload(data: &[u8]) {
    let Some((header, packet)) = data.split_first_chunk::<LENGTH>() else {
        return;
    };
    let header = Offload::from_wire(header);
    assert_eq!(&header.to_wire(), &data[..LENGTH]);
    assert_eq!(Offload::from_device(&header.to_device()), header);
    let Ok(checked) = header.check(packet) else {
        // The checksum of a packet inside: one field behind the IP header changes, or nothing does.
        let mut made = packet.to_vec();
        if header.complete_inner(&mut made) {
            let behind = ip::parse(packet).expect("it was read").transport;
            let start = usize::from(header.csum_start);
            let field = start + usize::from(header.csum_offset);
            assert!(start >= behind);
            let sum = naive_sum(&packet[start..]);
            let sum = if sum == 0xffff { sum } else { !sum };
            let expected = [&packet[..field], &sum.to_be_bytes(), &packet[field + 2..]].concat();
            assert_eq!(made, expected);
            assert!(Offload::default().check(&made).is_ok());
        } else {
            assert_eq!(made, packet);
        }
        return;
    };
    // What goes on to a kernel passes every check again, unchanged.
    let again = checked
        .offload()
        .check(packet)
        .expect("what was checked fits");
    assert_eq!(
        (again.offload(), again.segments()),
        (checked.offload(), checked.segments())
    );
    let mut made = Vec::new();
    let count = segmentation::segment(&checked, &mut vec![1; 3], |segment| {
        made.push(segment.to_vec())
    });
    assert_eq!((count, made.len()), (checked.segments(), count));
    if checked.offload().flags & NEEDS_CSUM == 0 {
        return assert_eq!(made, [packet]);
    }
    let whole = ip::parse(packet).expect("it was checked");
    if checked.offload().gso_type == GSO_NONE {
        // One checksum is completed from what its sender has put there; nothing else changes.
        let field = whole.transport + usize::from(header.csum_offset);
        let sum = naive_sum(&packet[whole.transport..]);
        let sum = if sum == 0xffff { sum } else { !sum };
        let expected = [&packet[..field], &sum.to_be_bytes(), &packet[field + 2..]].concat();
        return assert_eq!(made, [expected]);
    }
    let tcp = whole.protocol == protocol::TCP;
    let payload_at = |segment: &[u8]| {
        whole.transport
            + if tcp {
                4 * usize::from(segment[whole.transport + 12] >> 4)
            } else {
                8
            }
    };
    let mut payload = Vec::new();
    for (index, segment) in made.iter().enumerate() {
        let ip = ip::parse(segment).expect("a segment is a packet, as long as it says");
        assert_eq!(
            (ip.source, ip.destination, ip.protocol, ip.transport),
            (
                whole.source,
                whole.destination,
                whole.protocol,
                whole.transport
            )
        );
        let whole_udp = tcp
            || usize::from(u16::from_be_bytes([
                segment[ip.transport + 4],
                segment[ip.transport + 5],
            ])) == segment.len() - ip.transport;
        assert!(whole_udp, "a datagram of another length");
        if tcp {
            let sequence = |packet: &[u8]| {
                u32::from_be_bytes(
                    packet[whole.transport + 4..][..4]
                        .try_into()
                        .expect("4 bytes"),
                )
            };
            let before = u32::try_from(payload.len()).expect("below 64 KiB");
            assert_eq!(sequence(segment), sequence(packet).wrapping_add(before));
        }
        assert_eq!(
            naive_sum(&pseudo(segment, ip.transport, ip.protocol)),
            0xffff,
            "segment {index}: its checksum"
        );
        if segment[0] >> 4 == 4 {
            assert_eq!(
                naive_sum(&segment[..ip.transport]),
                0xffff,
                "segment {index}: the header's checksum"
            );
        }
        payload.extend_from_slice(&segment[payload_at(segment)..]);
    }
    assert_eq!(payload, packet[payload_at(packet)..]);
}

/// The transport part behind its pseudo-header, RFC 9293 section 3.1 and RFC 8200 section 8.1.
fn pseudo(packet: &[u8], transport: usize, protocol: u8) -> Vec<u8> {
    let addresses = if packet[0] >> 4 == 4 { 12..20 } else { 8..40 };
    let length = u32::try_from(packet.len() - transport)
        .expect("below 64 KiB")
        .to_be_bytes();
    [
        &packet[addresses],
        &length,
        &[0, 0, 0, protocol],
        &packet[transport..],
    ]
    .concat()
}

/// RFC 1071, one word after the other.
fn naive_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) * 256 + pair.get(1).map_or(0, |low| u32::from(*low));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}

pub fn icmp(data: &[u8]) {
    let mut packet = data.to_vec();
    let asked = ip::parse(data);
    if icmp::answer_echo(&mut packet) {
        let asked = asked.expect("it was answered");
        let reply = icmp::echo_reply(&packet).expect("an answer is a reply");
        assert_eq!(
            (reply.source, reply.destination),
            (asked.destination, asked.source)
        );
        assert!(ip::one_host(reply.destination) && ip::one_host(reply.source));
        assert_eq!(reply.payload, &data[asked.transport + 8..]);
        assert!(!icmp::answer_echo(&mut packet), "a reply is not answered");
    } else {
        assert_eq!(packet, data, "what is not answered is left alone");
    }
    // Whatever payload, a request of ours is answered, and gets it back.
    for (from, to) in [("10.8.0.2", "10.8.0.1"), ("fd08::2", "fd08::1")] {
        let (from, to) = (from.parse().expect("one"), to.parse().expect("one"));
        let mut request = Vec::new();
        if icmp::echo_request(from, to, 1, 2, data, &mut request).is_some() {
            assert!(icmp::answer_echo(&mut request));
            let reply = icmp::echo_reply(&request).expect("a reply");
            assert_eq!(
                (reply.identifier, reply.sequence, reply.payload),
                (1, 2, data)
            );
        }
    }
}

pub fn configuration(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let read = |text: &str| {
        let read = file::parse(text, Path::new("/nowhere/fuzz.conf"));
        read.map(|read| format!("{read:?}"))
            .map_err(|mistakes| mistakes.list)
    };
    // A file that names other files says what they hold.
    if text.contains("file") || text.contains("include") {
        return;
    }
    let found = read(text);
    if let Err(list) = &found {
        assert!(!list.is_empty());
        let lines = text.lines().count();
        assert!(
            list.iter().all(|mistake| mistake
                .line
                .is_none_or(|line| (1..=lines.max(1)).contains(&line))),
            "{list:?}"
        );
        for mistake in list {
            let line = mistake
                .line
                .and_then(|line| text.lines().nth(line - 1))
                .unwrap_or_default();
            let shown =
                line.trim_start().starts_with("key") && mistake.reason.contains(&SECRET[4..12]);
            assert!(!shown, "a key is never shown: {}", mistake.reason);
        }
    }
    assert_eq!(
        read(&format!("{text}\n\n   # the end\n")),
        found,
        "a comment changes nothing"
    );
    if !text.contains('\r') {
        assert_eq!(
            read(&text.replace('\n', "\r\n")),
            found,
            "the line ends of other systems change nothing"
        );
    }
}

/// Bytes that may be tried for one capture: some dozen attempts for each search.
const WORK: u64 = 1 << 17;

/// What a report says, and the packets that it has written.
fn report(run: impl FnOnce(&mut Report)) -> (String, Vec<Packet>) {
    let (mut out, mut inner) = (Vec::new(), Vec::new());
    let writer = Writer::new(&mut inner as &mut dyn std::io::Write).expect("into memory");
    let counts = Counts::default();
    run(&mut Report {
        time: 0,
        out: &mut out,
        inner: Some(writer),
        whole: false,
        verbose: true,
        counts,
    });
    (
        String::from_utf8(out).expect("text"),
        packets(&inner).expect("what is written can be read"),
    )
}

/// The packets of a file; as an error those before the place where it is broken.
fn packets(file: &[u8]) -> Result<Vec<Packet>, Vec<Packet>> {
    let mut packets = Vec::new();
    let Ok(mut reader) = Reader::new(file) else {
        return Err(packets);
    };
    loop {
        match reader.packet() {
            Ok(Some(packet)) => packets.push(packet),
            Ok(None) => return Ok(packets),
            Err(_) => return Err(packets),
        }
    }
}

/// Text that stays where it is put on a terminal.
fn plain(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || !c.is_control())
}

pub fn capture(data: &[u8]) {
    let lines: Vec<Line> = Suite::ALL
        .into_iter()
        .zip(1..)
        .map(|(suite, number)| {
            let ([client, server], _) = session(suite);
            Line {
                number,
                suite,
                secrets: [
                    server.opener.secret().clone(),
                    client.opener.secret().clone(),
                ],
            }
        })
        .collect();
    let keys = || Keys {
        lines: lines.clone(),
        work: WORK,
    };
    // Whatever comes: what is read, what waits and what is told is bounded by it.
    let read = packets(data).unwrap_or_else(|before| before);
    assert!(read.iter().map(|packet| packet.bytes.len()).sum::<usize>() <= data.len());
    let (mut keys_left, mut open, mut taken) = (keys(), BTreeMap::<_, Session>::new(), 0);
    report(|report| {
        for segment in read
            .iter()
            .filter_map(|packet| link::segment(packet.link, &packet.bytes).ok())
        {
            let mut ends = [segment.from, segment.to];
            ends.sort_unstable();
            let session = open
                .entry(ends)
                .or_insert_with(|| Session::new(&segment, 0));
            session
                .segment(&segment, &mut keys_left, report)
                .expect("into memory");
            taken += segment.payload.len() + OVERHEAD;
            assert!(
                open.values().map(Session::held).sum::<usize>() <= taken,
                "more waits than came"
            );
        }
    });
    read.iter().for_each(wrapped);
    let (told, _) =
        report(|report| _ = recording::capture(data, keys(), report).expect("into memory"));
    assert!(
        plain(&told) && told.len() <= 1000 * (data.len() + 1),
        "{} bytes told",
        told.len()
    );
    written(data);
    conversation(data, keys());
}

/// A tunnel around a packet changes nothing about the segment in it, however many there are, up to
/// the limit.
fn wrapped(packet: &Packet) {
    let plain = link::segment(packet.link, &packet.bytes);
    if let Ok(segment) = &plain {
        let payload = segment.payload.as_ptr_range();
        let all = packet.bytes.as_ptr_range();
        assert!(segment.payload.is_empty() || all.start <= payload.start && payload.end <= all.end);
    }
    if packet.link != 1 || packet.bytes.len() > 1 << 12 {
        return;
    }
    let mut frame = packet.bytes.clone();
    for _ in 0..packet.bytes.first().map_or(0, |first| first % 16) {
        let length = u16::try_from(frame.len() + 24).expect("a few KiB");
        let mut outer = vec![2; 12];
        outer.extend([8, 0, 0x45, 0]);
        outer.extend(length.to_be_bytes());
        outer.extend([0, 0, 0, 0, 64, 47, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        outer.extend([0, 0, 0x65, 0x58]);
        outer.extend(frame);
        frame = outer;
    }
    match (link::segment(1, &frame), plain) {
        (Err(link::NoSegment::Deep), _) => {}
        (inner, plain) => assert_eq!(inner, plain),
    }
}

/// What is written is read: the same packets at the same times, or their beginning if the end is
/// cut off.
fn written(data: &[u8]) {
    let mut input = Input(data);
    let (cut, mut file, mut expected) = (input.number(), Vec::new(), Vec::new());
    let mut writer = Writer::new(&mut file).expect("into memory");
    while !input.0.is_empty() {
        let (time, bytes) = (
            u64::from_be_bytes([0; 8].map(|_: u8| input.byte())),
            input.bytes().to_vec(),
        );
        writer.packet(time, &bytes).expect("into memory");
        expected.push(Packet {
            cut: false,
            time,
            link: 101,
            bytes,
        });
    }
    writer.finish().expect("into memory");
    let cut = packets(&file[..cut % file.len()]).unwrap_or_else(|before| before);
    assert!(expected.starts_with(&cut));
    assert_eq!(packets(&file), Ok(expected));
}

/// A session in segments that overlap and come in any order. The packets that went in come out, in
/// their order; of one with holes no others.
fn conversation(data: &[u8], keys: Keys) {
    let mut input = Input(data);
    let suite = Suite::ALL[usize::from(input.byte()) % Suite::ALL.len()];
    let (mut ends, mut streams) = session(suite);
    let hosts = ["10.8.0.2", "10.8.0.1"].map(|host| host.parse::<IpAddr>().expect("one"));
    let (mut sent, mut ready) = ([Vec::new(), Vec::new()], [0, 0]);
    let mut segments: Vec<(usize, Range<usize>)> = Vec::new();
    let (first, mut holes) = (u32::from_be_bytes([input.byte(); 4]), false);
    while !input.0.is_empty() && streams[0].len() + streams[1].len() < 1 << 17 {
        let event = input.byte();
        let from = usize::from(event >> 7);
        match event % 8 {
            0 | 1 => {
                let mut packet = vec![0, 0];
                let length = icmp::echo_request(
                    hosts[from],
                    hosts[1 - from],
                    1,
                    2,
                    input.bytes(),
                    &mut packet,
                );
                packet[..2].copy_from_slice(
                    &u16::try_from(length.expect("short"))
                        .expect("short")
                        .to_be_bytes(),
                );
                streams[from].extend(sealed(&mut ends[from].sealer, RecordType::Packets, &packet));
                sent[from].push(packet.split_off(2));
            }
            2 => streams[from].extend(sealed(
                &mut ends[from].sealer,
                RecordType::Message,
                input.bytes(),
            )),
            3 => streams[from].extend(ends[from].sealer.rekey(&mut fresh).expect("room")),
            // What is due next, or something again, cut elsewhere.
            4 => {
                let end = (ready[from] + input.number()).min(streams[from].len());
                segments.push((from, ready[from]..end));
                ready[from] = end;
            }
            5 => {
                let at = input.number() % streams[from].len();
                segments.push((from, at..(at + input.number()).min(ready[from]).max(at)));
            }
            6 if segments.len() > 1 => {
                let (one, other) = (input.number() % segments.len(), segments.len() - 1);
                segments.swap(one, other);
            }
            7 if !segments.is_empty() => {
                segments.remove(input.number() % segments.len());
                holes = true;
            }
            _ => {}
        }
    }
    for (from, stream) in streams.iter().enumerate() {
        let starts = (ready[from]..stream.len()).step_by(1400);
        segments.extend(starts.map(|at| (from, at..stream.len().min(at + 1400))));
        segments.push((from, stream.len()..stream.len()));
    }
    let mut file = Vec::new();
    let mut writer = Writer::new(&mut file).expect("into memory");
    let mut segment = |time: u64, from: usize, sequence: u32, flags: u8, payload: &[u8]| {
        writer
            .packet(time, &carrier(from, sequence, flags, payload))
            .expect("into memory");
    };
    segment(0, 0, first.wrapping_sub(1), SYN, &[]);
    segment(1, 1, first.wrapping_sub(1), SYN | ACK, &[]);
    for (time, (from, range)) in (2..).zip(segments) {
        let sequence = first.wrapping_add(u32::try_from(range.start).expect("short"));
        let flags = if range.start == streams[from].len() {
            FIN
        } else {
            0
        };
        segment(time, from, sequence, flags, &streams[from][range]);
    }
    let (told, inner) = report(|report| {
        recording::capture(&file[..], keys, report)
            .expect("into memory")
            .expect("the file is whole");
    });
    assert!(plain(&told), "{told}");
    for (from, sent) in sent.iter().enumerate() {
        let source =
            |packet: &&Packet| ip::parse(&packet.bytes).expect("a packet").source == hosts[from];
        let found: Vec<&Vec<u8>> = inner
            .iter()
            .filter(source)
            .map(|packet| &packet.bytes)
            .collect();
        let mut rest = sent.iter();
        assert!(
            found.iter().all(|found| rest.any(|sent| sent == *found)),
            "a packet that was not sent"
        );
        assert!(
            holes || found.len() == sent.len(),
            "{} of {} packets:\n{told}",
            found.len(),
            sent.len()
        );
    }
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// An IPv4 packet of the connection that carries the session: RFC 791, RFC 9293; without checksums.
fn carrier(from: usize, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut ends = [([192, 0, 2, 7], 50_000_u16), ([192, 0, 2, 1], 443)];
    ends.rotate_left(from);
    let [(source, source_port), (destination, port)] = ends;
    let length = u16::try_from(40 + payload.len()).unwrap_or(0).to_be_bytes();
    let ip = [
        &[0x45, 0],
        &length[..],
        &[0, 0, 0, 0, 64, 6, 0, 0],
        &source,
        &destination,
    ]
    .concat();
    let numbers = [
        &sequence.to_be_bytes()[..],
        &[0; 4],
        &[0x50, flags, 0xff, 0xff, 0, 0, 0, 0],
    ]
    .concat();
    [
        &ip[..],
        &source_port.to_be_bytes(),
        &port.to_be_bytes(),
        &numbers,
        payload,
    ]
    .concat()
}

pub fn inspect(data: &[u8]) {
    let candidate = |byte: u8| Candidate {
        key: fernet(byte),
        name: format!("key number {byte}"),
        hello: byte == 2,
    };
    let all = [candidate(1), candidate(2)];
    let mut input = Input(data);
    let (time, ttl, iv) = (input.number(), input.number(), input.byte());
    let (time, ttl) = (
        u64::try_from(time).expect("16 bits"),
        u64::try_from(ttl).expect("16 bits"),
    );
    let sealed = all[1].key.seal(input.0, time, [iv; 16]);
    for text in [data, &sealed, &changed(&sealed, input.number(), iv)] {
        for (keys, ttl) in [
            (&all[..], None),
            (&all[..1], None),
            (&all[1..], Some(ttl)),
            (&all[..0], Some(ttl)),
        ] {
            let now = 40_000;
            let report = drawing::inspect(text, keys, now, ttl);
            let bare: Vec<Fernet> = keys.iter().map(|candidate| candidate.key.clone()).collect();
            let age = ttl.map(|ttl| token::Age { now, ttl });
            let opened = token::open(&bare, &mut text.to_vec(), age).map(drop);
            // Without a key it takes the steps that need none.
            let refused = opened
                .err()
                .filter(|reason| !keys.is_empty() || *reason != token::TokenError::Mac);
            // Not the reason: it calls a key a key, and not a token of another version.
            assert_eq!(
                report.refusal.map(drawing::step),
                refused.map(drawing::step),
                "{}",
                report.text
            );
            let made = !keys.is_empty() && refused.is_none_or(|reason| drawing::step(reason) > 3);
            assert_eq!(
                report.text.contains("made with the key number"),
                made,
                "{}",
                report.text
            );
            assert!(
                plain(&report.text) && report.text.len() < 8192 + 200 * (text.len() + 1),
                "{}",
                report.text
            );
        }
    }
    assert!(
        drawing::inspect(&sealed, &all, 0, None).refusal.is_none(),
        "sealed just now"
    );
}

pub fn proxy(data: &[u8]) {
    const FIXED: usize = 16;
    match balancer::header(data) {
        Ok(Some((length, origin))) => {
            assert_eq!(
                length,
                FIXED + usize::from(u16::from_be_bytes([data[14], data[15]]))
            );
            assert_eq!(
                balancer::header(&data[..length]),
                Ok(Some((length, origin))),
                "it needs what follows it"
            );
            assert!(
                (0..length).all(|end| balancer::header(&data[..end]) == Ok(None)),
                "it does not need all of it"
            );
            if let balancer::Origin::Client(source) = origin {
                let ip = match source.ip() {
                    IpAddr::V4(ip) if data[13] == 0x11 => ip.octets().to_vec(),
                    IpAddr::V4(ip) => ip.to_ipv6_mapped().octets().to_vec(),
                    IpAddr::V6(ip) => ip.octets().to_vec(),
                };
                let (sources, ports) = data[FIXED..length].split_at(2 * ip.len());
                assert!(
                    sources.starts_with(&ip)
                        && ports.starts_with(&source.port().to_be_bytes())
                        && ports.len() >= 4
                );
            } else {
                let is_local = origin == balancer::Origin::Balancer;
                assert_eq!(data[12] == 0x20, is_local);
                assert!(is_local || data[13] == 0, "an address is passed over");
            }
        }
        Ok(None) => assert!(data.len() < FIXED + 512, "it waits without bound"),
        Err(reason) => assert_eq!(
            balancer::header(&[data, data].concat()),
            Err(reason),
            "more bytes mend it"
        ),
    }
    // What a balancer writes is read.
    let mut input = Input(data);
    let (port, octets) = (input.number(), [0; 16].map(|_: u8| input.byte()));
    let ports = [
        u16::try_from(port).expect("16 bits").to_be_bytes(),
        [1, 187],
    ]
    .concat();
    let [a, b, c, d, ..] = octets;
    for (family, ip) in [
        (0x11, IpAddr::from([a, b, c, d])),
        (0x21, IpAddr::from(octets)),
    ] {
        let source = if ip.is_ipv4() {
            &octets[..4]
        } else {
            &octets[..]
        };
        let rest = [source, source, &ports, input.0].concat();
        let length = u16::try_from(rest.len()).unwrap_or(u16::MAX).to_be_bytes();
        let written = [b"\r\n\r\n\0\r\nQUIT\n", &[0x21, family][..], &length, &rest].concat();
        let source = SocketAddr::new(ip.to_canonical(), u16::from_be_bytes([ports[0], ports[1]]));
        let expected =
            (rest.len() <= 512).then_some(Some((written.len(), balancer::Origin::Client(source))));
        assert_eq!(balancer::header(&written).ok(), expected);
    }
}

/// A key that stands in the seeds.
const SECRET: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4";
