//! Complete sessions with fixed key, time and randomness, in `tests/vectors/`: does the code still
//! make every byte of them, and does each frame open? With `FERNVPN_WRITE_VECTORS=1` the files are
//! written anew.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::common;
use common::body;
use fernvpn::fernet::{Key, token};
use fernvpn::protocol::frame;
use fernvpn::protocol::handshake::{
    Agreed, AwaitFinished, Capabilities, ClientHello, FreshHello, Offer, client_hello,
};
use fernvpn::protocol::key_schedule::{Root, TrafficSecret};
use fernvpn::protocol::ratchet::{ClientState, ServerState};
use fernvpn::protocol::record::{Form, Fresh, HEADROOM, Opener, RecordType, Sealer, Suite};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::path::{Path, PathBuf};

const TIME: u64 = 1_700_000_000;
const STEP: u64 = 41;
const CONFIG: &str = "addresses=10.8.0.2/24,fd0f:e12e::2/64\nserver=10.8.0.1,fd0f:e12e::1\n\
    mtu=1500\n\
                      routes=192.168.7.0/24\ndns=10.8.0.1\nkeepalive=15\n";

/// Bytes that count up from `first`.
fn count<const N: usize>(first: u8) -> [u8; N] {
    let mut next = first;
    std::array::from_fn(|_| {
        next = next.wrapping_add(1);
        next.wrapping_sub(1)
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

// ---------------------------------------------------------------- the fixed session

fn root() -> Root {
    Root::new(Key::from_bytes(&count(0)))
}

fn server_state() -> ServerState {
    ServerState {
        step: STEP,
        root: root(),
        secret: count::<32>(0x60).into(),
    }
}

fn offer(suites: &[Suite]) -> Offer {
    let capabilities = Capabilities {
        super_packets: true,
    };
    Offer {
        suites: suites.to_vec(),
        capabilities,
        software: "fernvpn vectors".to_owned(),
    }
}

fn client_fresh() -> FreshHello {
    FreshHello {
        nonce: count(0x20),
        token: Fresh {
            time: TIME,
            iv: count(0xa0),
        },
    }
}

/// The server's clock is two seconds ahead, as clocks are.
fn server_fresh() -> FreshHello {
    FreshHello {
        nonce: count(0x40),
        token: Fresh {
            time: TIME + 2,
            iv: count(0xb0),
        },
    }
}

/// What the client offers: the default suites, so that a new one leaves their files as they are.
fn offered(suite: Suite) -> Vec<Suite> {
    let mut suites = Suite::DEFAULT.to_vec();
    if !suites.contains(&suite) {
        suites.push(suite);
    }
    suites
}

/// The peers up to the ServerHello: both hello frames, and both states.
fn hellos(suite: Suite, ratcheted: bool) -> (Vec<u8>, Vec<u8>, Agreed, AwaitFinished) {
    let state = ratcheted.then(server_state);
    let (client, waiting) = client_hello(
        &root(),
        state.as_ref().map(|state| state.step),
        offer(&offered(suite)),
        client_fresh(),
    );
    let hello = ClientHello::receive(&root(), &body(&client), None).unwrap();
    let (server, finished) = hello.answer(&offer(&[suite]), state.as_ref(), server_fresh());
    let agreed = waiting.receive(&body(&server)).unwrap();
    (client, server, agreed, finished.unwrap())
}

/// The Internet checksum (RFC 1071), not yet complemented.
fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words
        .map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

const HERE: [u8; 4] = [10, 8, 0, 2];
const THERE: [u8; 4] = [10, 8, 0, 1];

fn ipv4(protocol: u8, from: [u8; 4], to: [u8; 4], inside: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + inside.len()).unwrap().to_be_bytes();
    let mut header = [
        &[0x45, 0],
        &length[..],
        &[0x12, 0x34, 0x40, 0, 64, protocol, 0, 0],
        &from,
        &to,
    ]
    .concat();
    let checksum = !sum(&[&header]);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    [&header, inside].concat()
}

/// A Ping's packet (type 8) or its answer (type 0), RFC 792.
fn icmp_echo(kind: u8, from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let mut inside = [&[kind, 0, 0, 0, 0xfe, 0x01, 0, 1], &b"Hello, World!"[..]].concat();
    let checksum = !sum(&[&inside]);
    inside[2..4].copy_from_slice(&checksum.to_be_bytes());
    ipv4(1, from, to, &inside)
}

/// The content of a Packets record.
fn packets(packets: &[Vec<u8>]) -> Vec<u8> {
    let with_length = |packet: &Vec<u8>| {
        [
            &u16::try_from(packet.len()).unwrap().to_be_bytes()[..],
            packet,
        ]
        .concat()
    };
    packets.iter().flat_map(with_length).collect()
}

/// The content of a SuperPacket record: TCP with 60 bytes that are to become three segments of 20,
/// and a checksum that so far covers the pseudo-header alone.
fn super_packet() -> Vec<u8> {
    let payload = b"one of three packets;two of three packets;3 of three packets";
    let tcp_length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let pseudo = sum(&[&HERE, &THERE, &[0, 6], &tcp_length]).to_be_bytes();
    let ports_and_numbers = [0xc0, 0x00, 0x00, 0x50, 0, 0, 0, 1, 0, 0, 0, 2];
    let tcp = [
        &ports_and_numbers[..],
        &[0x50, 0x18, 0xff, 0xff],
        &pseudo,
        &[0, 0],
        payload,
    ]
    .concat();
    // flags, gso type, header length, segment size, checksum start, checksum offset
    let offload = [1, 1, 0, 40, 0, 20, 0, 20, 0, 16];
    [&offload[..], &ipv4(6, HERE, THERE, &tcp)].concat()
}

/// A record after the handshake: a kind and its content, or a Rekey.
type Said = Option<(RecordType, Vec<u8>)>;

/// The messages after the handshake, and whether the client sends each.
fn conversation() -> Vec<(bool, Said)> {
    let (ping, pong) = (icmp_echo(8, HERE, THERE), icmp_echo(0, THERE, HERE));
    vec![
        (true, Some((RecordType::Ping, b"are you there?".to_vec()))),
        (false, Some((RecordType::Pong, b"are you there?".to_vec()))),
        (true, Some((RecordType::Message, b"Hello, World!".to_vec()))),
        (
            false,
            Some((RecordType::Message, b"Hello, client!".to_vec())),
        ),
        (
            true,
            Some((RecordType::Packets, packets(&[ping.clone(), ping]))),
        ),
        (false, Some((RecordType::Packets, packets(&[pong])))),
        (true, Some((RecordType::SuperPacket, super_packet()))),
        (true, None),
        (true, Some((RecordType::Ping, vec![]))),
        (false, None),
        (false, Some((RecordType::Pong, vec![]))),
        (true, Some((RecordType::Close, vec![0]))),
        (
            false,
            Some((RecordType::Close, b"\x01the server stops".to_vec())),
        ),
    ]
}

// ---------------------------------------------------------------- the file

/// One JSON object, its members in the order in which they are added.
struct Object(Vec<String>);

impl Object {
    fn text(&mut self, name: &str, value: &str) -> &mut Object {
        self.0.push(format!("\"{name}\": {}", Value::from(value)));
        self
    }

    fn bytes(&mut self, name: &str, value: &[u8]) -> &mut Object {
        self.text(name, &hex(value))
    }

    fn number(&mut self, name: &str, value: impl Into<u64>) -> &mut Object {
        self.0.push(format!("\"{name}\": {}", value.into()));
        self
    }

    fn objects(&mut self, name: &str, values: &[Object]) -> &mut Object {
        let values: Vec<_> = values.iter().map(|value| value.written("    ")).collect();
        self.0.push(format!(
            "\"{name}\": [\n    {}\n  ]",
            values.join(",\n    ")
        ));
        self
    }

    fn object(&mut self, name: &str, value: &Object) -> &mut Object {
        self.0.push(format!("\"{name}\": {}", value.written("  ")));
        self
    }

    fn written(&self, indent: &str) -> String {
        format!(
            "{{\n{indent}  {}\n{indent}}}",
            self.0.join(&format!(",\n{indent}  "))
        )
    }
}

fn hello_object(name: &str, from: &str, fresh: FreshHello, frame: &[u8]) -> Object {
    let mut text = frame[frame::HEADER + if from == "client" { 8 } else { 0 }..].to_vec();
    let opened = token::open(std::slice::from_ref(root().hello()), &mut text, None).unwrap();
    let mut object = Object(vec![]);
    object
        .text("name", name)
        .text("from", from)
        .bytes("nonce", &fresh.nonce);
    object
        .number("time", fresh.token.time)
        .bytes("token_iv", &fresh.token.iv);
    object
        .text("fields", str::from_utf8(opened.message).unwrap())
        .bytes("frame", frame);
    object
}

fn key_object(suite: Suite, from: &str, rekeys: u64, secret: &TrafficSecret) -> Object {
    let mut object = Object(vec![]);
    object
        .text("from", from)
        .number("rekeys", rekeys)
        .bytes("secret", secret.bytes());
    object.bytes("key", &secret.key()[..suite.key_len()]);
    if suite.form() == Form::Aead {
        object.bytes("iv", &secret.iv()[..]);
    }
    object
}

/// The records of a session as they are sealed.
struct Records {
    suite: Suite,
    objects: Vec<Object>,
    /// Of the client and of the server.
    rekeys: [u64; 2],
    counters: [u64; 2],
}

impl Records {
    /// The time and IV of the next record.
    fn fresh(&self) -> Fresh {
        let n = u8::try_from(self.objects.len()).unwrap();
        Fresh {
            time: TIME + 3 + u64::from(n),
            iv: count(n * 16),
        }
    }

    fn add(
        &mut self,
        from_client: bool,
        name: &str,
        message: (u8, &[u8]),
        secret: &TrafficSecret,
        frame: &[u8],
    ) {
        let (kind, content) = message;
        let (side, from) = if from_client {
            (0, "client")
        } else {
            (1, "server")
        };
        let mut object = Object(vec![]);
        object
            .text("name", name)
            .text("from", from)
            .number("rekeys", self.rekeys[side]);
        object
            .number("counter", self.counters[side])
            .number("type", kind)
            .bytes("content", content);
        match self.suite.form() {
            Form::Token => {
                let Fresh { time, iv } = self.fresh();
                object.number("time", time).bytes("token_iv", &iv);
            }
            Form::Aead => {
                let counter = [&[0; 4][..], &self.counters[side].to_be_bytes()].concat();
                let nonce: Vec<u8> = secret
                    .iv()
                    .iter()
                    .zip(counter)
                    .map(|(a, b)| a ^ b)
                    .collect();
                object.bytes("nonce", &nonce);
            }
        }
        object.bytes("frame", frame);
        self.objects.push(object);
        self.counters[side] += 1;
        if name == "Rekey" {
            (self.counters[side], self.rekeys[side]) = (0, self.rekeys[side] + 1);
        }
    }
}

/// The whole file.
fn session(suite: Suite, ratcheted: bool) -> String {
    let (client, server, agreed, finished) = hellos(suite, ratcheted);
    let transcript: [u8; 32] = Sha256::digest([&client[..], &server].concat()).into();
    let first = root().traffic_secrets(&transcript);
    let mut records = Records {
        suite,
        objects: vec![],
        rekeys: [0; 2],
        counters: [0; 2],
    };

    let fresh = records.fresh();
    let mut kept: Option<ClientState> = None;
    let keep = |next: &ClientState| {
        kept = Some(next.clone());
        Ok::<(), ()>(())
    };
    let (frame, waiting) = agreed.finish(keep, &mut || fresh).unwrap();
    records.add(true, "Finished", (1, b""), &first[0], &frame);
    let ready = finished.receive(&mut body(&frame)).unwrap();
    let fresh = records.fresh();
    let (frame, server_sealer, mut server_opener) =
        ready.configure(CONFIG.as_bytes(), &mut || fresh).unwrap();
    records.add(false, "Config", (2, CONFIG.as_bytes()), &first[1], &frame);
    let (config, client_sealer, mut client_opener) = waiting.receive(&mut body(&frame)).unwrap();
    assert_eq!(config, CONFIG.as_bytes());

    let mut keys = vec![
        key_object(suite, "client", 0, client_sealer.secret()),
        key_object(suite, "server", 0, server_sealer.secret()),
    ];
    assert_eq!(client_sealer.secret().bytes(), first[0].bytes());
    assert_eq!(server_sealer.secret().bytes(), first[1].bytes());
    let mut sealers = [client_sealer, server_sealer];
    for (from_client, said) in conversation() {
        let (sealer, opener) = match from_client {
            true => (&mut sealers[0], &mut server_opener),
            false => (&mut sealers[1], &mut client_opener),
        };
        let fresh = records.fresh();
        match said {
            Some((kind, content)) => {
                let mut frame = vec![0; suite.frame_len(content.len())];
                frame[HEADROOM..HEADROOM + content.len()].copy_from_slice(&content);
                sealer
                    .seal(kind, &mut frame, content.len(), &mut || fresh)
                    .unwrap();
                let opened = common::open(opener, &body(&frame));
                assert_eq!(opened, Ok((kind, content.clone())));
                let message = (kind.to_byte(), &content[..]);
                records.add(
                    from_client,
                    &format!("{kind:?}"),
                    message,
                    sealer.secret(),
                    &frame,
                );
            }
            None => {
                let last = sealer.secret().clone();
                let frame = sealer.rekey(&mut || fresh).unwrap();
                let opened = common::open(opener, &body(&frame));
                assert_eq!(opened, Ok((RecordType::Rekey, vec![])));
                records.add(from_client, "Rekey", (7, b""), &last, &frame);
                let from = if from_client { "client" } else { "server" };
                keys.push(key_object(suite, from, 1, sealer.secret()));
            }
        }
    }

    let mut derived = Object(vec![]);
    derived.bytes("id", &root().id());
    // The hello key itself stays inside the core; its bytes come from the formula, and the tokens
    // prove them.
    let mut hello_key = [0; 32];
    fernvpn::protocol::key_schedule::hkdf(
        root().key().bytes(),
        &[],
        b"fernvpn 1 hello",
        &mut hello_key,
    );
    derived.bytes("hello", &hello_key);
    derived.bytes("transcript", &transcript);
    derived
        .bytes("client", first[0].bytes())
        .bytes("server", first[1].bytes());
    if let Some(next) = &kept {
        derived
            .bytes("next", next.root.key().bytes())
            .bytes("next_id", &next.root.id());
    }

    let mut file = Object(vec![]);
    let kind = if ratcheted { "a ratcheted" } else { "a static" };
    file.text(
        "about",
        &format!("a whole session of fernvpn 1, suite {suite}, {kind} key: docs/PROTOCOL.md"),
    );
    file.text("suite", suite.name())
        .text("key", &root().key().to_text());
    if ratcheted {
        let mut ratchet = Object(vec![]);
        ratchet
            .number("step", STEP)
            .bytes("secret", &server_state().secret[..]);
        file.object("ratchet", &ratchet);
    }
    file.objects(
        "hellos",
        &[
            hello_object("ClientHello", "client", client_fresh(), &client),
            hello_object("ServerHello", "server", server_fresh(), &server),
        ],
    );
    file.object("derived", &derived)
        .objects("keys", &keys)
        .objects("records", &records.objects);
    file.written("") + "\n"
}

/// Each suite has a file with a ratcheted key, which shows everything that a static one does. The
/// first two suites also have one with a static key.
fn files() -> Vec<(PathBuf, Suite, bool)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let name = |suite, key| folder.join(format!("session-{suite}-{key}.json"));
    let mut files = Vec::new();
    for suite in Suite::ALL {
        files.push((name(suite, "ratcheted"), suite, true));
    }
    for suite in Suite::DEFAULT {
        files.push((name(suite, "static"), suite, false));
    }
    files
}

#[test]
fn the_code_makes_every_byte_of_the_files() {
    for (path, suite, ratcheted) in files() {
        let made = session(suite, ratcheted);
        if std::env::var_os("FERNVPN_WRITE_VECTORS").is_some_and(|value| value == "1") {
            std::fs::write(&path, &made).unwrap();
            continue;
        }
        let kept = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for (n, (made, kept)) in made.lines().zip(kept.lines()).enumerate() {
            assert_eq!(made, kept, "{} line {}", path.display(), n + 1);
        }
        assert_eq!(made, kept, "{}", path.display());
    }
}

#[test]
fn each_frame_of_the_files_opens() {
    for (path, suite, ratcheted) in files() {
        let file: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let frame_of = |object: &Value| unhex(object["frame"].as_str().unwrap());
        let [client, server] = [&file["hellos"][0], &file["hellos"][1]].map(frame_of);

        // Both hellos as they are in the file, to peers that have made their own.
        let hello = ClientHello::receive(&root(), &body(&client), None).unwrap();
        assert_eq!(hello.step, ratcheted.then_some(STEP));
        let (.., agreed, finished) = hellos(suite, ratcheted);
        let step = ratcheted.then_some(STEP);
        let (_, again) = client_hello(&root(), step, offer(&offered(suite)), client_fresh());
        let from_file = again.receive(&body(&server)).unwrap();
        assert_eq!(
            (from_file.suite, from_file.time),
            (agreed.suite, agreed.time)
        );

        let mut records = file["records"].as_array().unwrap().iter();
        let mut next = || body(&frame_of(records.next().unwrap()));
        let ready = finished.receive(&mut next()).unwrap();
        let (_, waiting) = from_file
            .finish(|_| Ok::<(), ()>(()), &mut common::counting())
            .unwrap();
        let (config, _, mut client_opener): (_, Sealer, Opener) =
            waiting.receive(&mut next()).unwrap();
        assert_eq!(config, CONFIG.as_bytes());
        let (_, _, mut server_opener) = ready.configure(b"", &mut common::counting()).unwrap();
        for record in records {
            let opener = if record["from"] == "client" {
                &mut server_opener
            } else {
                &mut client_opener
            };
            let (kind, content) = common::open(opener, &body(&frame_of(record))).unwrap();
            assert_eq!(record["name"], format!("{kind:?}"));
            assert_eq!(record["type"], kind.to_byte());
            assert_eq!(record["content"], hex(&content));
        }
    }
}
