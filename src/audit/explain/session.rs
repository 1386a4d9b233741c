//! What is said when all goes well? This goes through sections 2 to 8 of PROTOCOL.md.
//!
//! Two ends talk through the functions that a server and a client call. Each end opens the
//! frames of the other, in place. So the content that is shown is what the real code has decrypted.

use super::{Chapter, Derived, Layer, Source, Step, Value, hex, prose};
use crate::audit::fields;
use crate::fernet::token::{HEADER, MAC, open};
use crate::fernet::{Key, TokenError};
use crate::protocol::frame;
use crate::protocol::handshake::{
    Agreed, AwaitFinished, AwaitServerHello, Capabilities, ClientHello, FreshHello, Offer,
    client_hello,
};
use crate::protocol::key_schedule::{Root, TrafficSecret, hkdf};
use crate::protocol::ratchet::ServerState;
use crate::protocol::record::{Form, Fresh, HEADROOM, Opener, RecordType, Sealer, Suite};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use std::error::Error;
use std::slice;

/// The client's clock at the start, in seconds since 1970. The server's is two seconds ahead:
/// real clocks differ.
pub const TIME: u64 = 1_700_000_000;
/// The step of the ratcheted key.
const STEP: u64 = 41;
/// Bytes of the tag of an AEAD.
const TAG: usize = 16;

/// The content of Config.
const CONFIG: &str = "addresses=10.8.0.2/24,fd0f:e12e::2/64\n\
                      server=10.8.0.1,fd0f:e12e::1\nmtu=1500\n\
                      routes=192.168.7.0/24\ndns=10.8.0.1\nkeepalive=15\n";

/// An echo request from 10.8.0.2 to 10.8.0.1, and the reply: IP header, ICMP header, `Hello,
/// World!`.
const REQUEST: &[u8] = b"\x45\0\0\x29\x12\x34\x40\0\x40\x01\x14\x8e\x0a\x08\0\x02\x0a\x08\0\x01\
                         \x08\0\xb8\xd0\xfe\x01\0\x01Hello, World!";
const REPLY: &[u8] = b"\x45\0\0\x29\x12\x34\x40\0\x40\x01\x14\x8e\x0a\x08\0\x01\x0a\x08\0\x02\
                       \0\0\xc0\xd0\xfe\x01\0\x01Hello, World!";
/// A super-packet: offload header, IP header, TCP header with the sum of the pseudo-header, three
/// times 20 bytes.
const SUPER_PACKET: &[u8] = b"\x01\x01\0\x28\0\x14\0\x14\0\x10\
                              \x45\0\0\x64\x12\x34\x40\0\x40\x06\x14\x4e\
                              \x0a\x08\0\x02\x0a\x08\0\x01\
                              \xc0\0\0\x50\0\0\0\x01\0\0\0\x02\x50\x18\xff\xff\x14\x69\0\0\
                              one of three packets;two of three packets;3 of three packets";

/// The messages after the handshake. Each says whether the client sends it, and has its paragraph
/// in the prose and the content of a record. A Rekey has no content.
type Said = (bool, &'static str, Option<(RecordType, Vec<u8>)>);

fn conversation() -> [Said; 13] {
    let said = |kind, content: &[u8]| Some((kind, content.to_vec()));
    let packets = |packets: &[&[u8]]| {
        let with_length =
            |packet: &&[u8]| [&[0, u8::try_from(packet.len()).unwrap_or(0)], *packet].concat();
        Some((
            RecordType::Packets,
            packets.iter().flat_map(with_length).collect(),
        ))
    };
    [
        (true, "Ping", said(RecordType::Ping, b"are you there?")),
        (false, "Pong", said(RecordType::Pong, b"are you there?")),
        (true, "Message", said(RecordType::Message, b"Hello, World!")),
        (
            false,
            "Message answered",
            said(RecordType::Message, b"Hello, client!"),
        ),
        (true, "Packets", packets(&[REQUEST, REQUEST])),
        (false, "Packets answered", packets(&[REPLY])),
        (
            true,
            "SuperPacket",
            said(RecordType::SuperPacket, SUPER_PACKET),
        ),
        (true, "Rekey", None),
        (true, "Ping again", said(RecordType::Ping, b"")),
        (false, "Rekey answered", None),
        (false, "Pong again", said(RecordType::Pong, b"")),
        (true, "Close", said(RecordType::Close, b"\0")),
        (
            false,
            "Close of the server",
            said(RecordType::Close, b"\x01the server stops"),
        ),
    ]
}

/// What the client, the server and a listener know after a message: the row of PROTOCOL.md section
/// 10.
fn known(name: &str, by_client: bool) -> [&'static str; 3] {
    let (_, section) = include_str!("../../../docs/PROTOCOL.md")
        .split_once("\n## 10. ")
        .unwrap_or_default();
    let row = |name: &str| {
        section.lines().find_map(|line| {
            line.strip_prefix(&format!("| {name} | "))?
                .strip_suffix(" |")
        })
    };
    let mut cells = row(name)
        .or(row("a record"))
        .unwrap_or_default()
        .split(" | ");
    let mut known = [(); 3].map(|()| cells.next().unwrap_or_default());
    if row(name).is_none() {
        // The sender of a record learns nothing new by it.
        known[usize::from(!by_client)] = "-";
    }
    known
}

/// Both ends with fixed key and randomness.
pub(super) struct Ends<'a> {
    suite: Suite,
    ratcheted: bool,
    source: Source<'a>,
    pub(super) root: Root,
}

/// A handshake up to the ServerHello: both frames, and both states.
pub(super) struct Hellos {
    pub(super) client: Vec<u8>,
    pub(super) server: Vec<u8>,
    pub(super) agreed: Agreed,
    pub(super) finished: AwaitFinished,
}

impl Hellos {
    fn transcript(&self) -> [u8; 32] {
        Sha256::digest([&self.client[..], &self.server].concat()).into()
    }
}

/// A frame, and its body as the other end's opener has left it.
type Sent = (Vec<u8>, Vec<u8>);

/// A session after its handshake: both ends, and Finished and Config.
pub(super) struct Established {
    pub(super) client: (Sealer, Opener),
    pub(super) server: (Sealer, Opener),
    sent: [Sent; 2],
}

impl<'a> Ends<'a> {
    pub(super) fn new(suite: Suite, ratcheted: bool, source: Source<'a>) -> Ends<'a> {
        Ends {
            suite,
            ratcheted,
            source,
            root: Root::new(Key::from_bytes(&source.bytes("key", 0))),
        }
    }

    fn state(&self) -> Option<ServerState> {
        let secret = self.source.bytes::<32>("ratchet secret", 0x60).into();
        self.ratcheted.then(|| ServerState {
            step: STEP,
            root: self.root.clone(),
            secret,
        })
    }

    /// The client's offer. It is that of the test vectors, so that a new suite changes no session.
    pub(super) fn offered(&self) -> Vec<Suite> {
        let mut suites = Suite::DEFAULT.to_vec();
        if !suites.contains(&self.suite) {
            suites.push(self.suite);
        }
        suites
    }

    pub(super) fn offer(&self, suites: &[Suite]) -> Offer {
        let capabilities = Capabilities {
            super_packets: true,
        };
        Offer {
            suites: suites.to_vec(),
            capabilities,
            software: "fernvpn vectors".into(),
        }
    }

    pub(super) fn fresh(&self, who: &str, first: u8, iv: u8, time: u64) -> FreshHello {
        let nonce = self.source.bytes(&format!("{who} nonce"), first);
        FreshHello {
            nonce,
            token: Fresh {
                time,
                iv: self.source.bytes(&format!("{who} hello IV"), iv),
            },
        }
    }

    /// The time and IV of the record with this number.
    pub(super) fn fresh_record(&self, number: u8) -> Fresh {
        let iv = self
            .source
            .bytes(&format!("record {number} IV"), number.wrapping_mul(16));
        Fresh {
            time: TIME + 3 + u64::from(number),
            iv,
        }
    }

    pub(super) fn begin(&self) -> (Vec<u8>, AwaitServerHello) {
        let step = self.ratcheted.then_some(STEP);
        client_hello(
            &self.root,
            step,
            self.offer(&self.offered()),
            self.fresh("client", 0x20, 0xa0, TIME),
        )
    }

    pub(super) fn hellos(&self) -> Result<Hellos, Box<dyn Error>> {
        let (client, waiting) = self.begin();
        let hello = ClientHello::receive(&self.root, body(&client), None)?;
        let fresh = self.fresh("server", 0x40, 0xb0, TIME + 2);
        let (server, finished) =
            hello.answer(&self.offer(&[self.suite]), self.state().as_ref(), fresh);
        let agreed = waiting.receive(body(&server))?;
        Ok(Hellos {
            client,
            server,
            agreed,
            finished: finished?,
        })
    }

    /// The steps up to the session's keys.
    fn steps(&self, hellos: &Hellos) -> Result<Vec<Step>, Box<dyn Error>> {
        let hello = |by_client, frame| hello(self, by_client, frame);
        let schedule = key_schedule(self.suite, &self.root, &hellos.transcript());
        Ok(vec![
            key(&self.root),
            hello(true, &hellos.client)?,
            hello(false, &hellos.server)?,
            schedule,
        ])
    }

    /// All of them as one step, with which the chapters of refusals begin.
    pub(super) fn before(&self) -> Result<Step, Box<dyn Error>> {
        let python = self
            .steps(&self.hellos()?)?
            .into_iter()
            .map(|step| step.python)
            .collect();
        Ok(Step {
            python,
            ..Step::new("What went well", "both", "4")
        })
    }

    /// The rest of the handshake.
    pub(super) fn establish(&self, hellos: Hellos) -> Result<Established, Box<dyn Error>> {
        let (finished, waiting) = hellos
            .agreed
            .finish(|_| Ok::<_, Infallible>(()), &mut || self.fresh_record(0))?;
        let mut opened = body(&finished).to_vec();
        let ready = hellos.finished.receive(&mut opened)?;
        let finished = (finished, opened);
        let (config, sealer, opener) =
            ready.configure(CONFIG.as_bytes(), &mut || self.fresh_record(1))?;
        let mut opened = body(&config).to_vec();
        let (_, client_sealer, client_opener) = waiting.receive(&mut opened)?;
        let client = (client_sealer, client_opener);
        let server = (sealer, opener);
        Ok(Established {
            client,
            server,
            sent: [finished, (config, opened)],
        })
    }
}

/// A whole session.
pub(super) fn session(
    suite: Suite,
    ratcheted: bool,
    source: Source,
) -> Result<Chapter, Box<dyn Error>> {
    let ends = Ends::new(suite, ratcheted, source);
    // 2 to 5: the key, the hellos, the session's keys.
    let hellos = ends.hellos()?;
    let mut steps = ends.steps(&hellos)?;
    steps.extend(ends.state().map(|state| next_key(&state)));

    // 4.4, 4.5: Finished and Config.
    let mut records = Records::new(&ends, &hellos, 0);
    let Established {
        client,
        server,
        sent: [finished, config],
    } = ends.establish(hellos)?;
    steps.push(records.step(true, "Finished", &finished)?);
    steps.push(records.step(false, "Config", &config)?);

    // 6, 7: the conversation.
    let mut sealers = [client.0, server.0];
    let mut openers = [server.1, client.1];
    for (by_client, about, said) in conversation() {
        let sealer = &mut sealers[usize::from(!by_client)];
        let opener = &mut openers[usize::from(!by_client)];
        let fresh = ends.fresh_record(records.number);
        let frame = match &said {
            Some((kind, content)) => seal(sealer, *kind, content, fresh)?,
            None => sealer.rekey(&mut || fresh)?,
        };
        let mut opened = body(&frame).to_vec();
        let (kind, _) = opener.open(&mut opened)?;
        let stepped = kind == RecordType::Rekey;
        steps.push(records.step(by_client, about, &(frame, opened))?);
        if stepped {
            steps.push(records.rekey(by_client, opener.secret().clone()));
        }
    }
    let kind = if ratcheted { "ratcheted" } else { "static" };
    let about = match suite.form() {
        _ if ratcheted => prose(kind),
        Form::Aead => prose("aead"),
        Form::Token => prose("token"),
    };
    Ok(Chapter {
        id: format!("{suite}-{kind}"),
        title: format!("A session: {suite}, {kind} key"),
        about,
        steps,
    })
}

/// The body of a frame.
pub(super) fn body(frame: &[u8]) -> &[u8] {
    frame.get(frame::HEADER..).unwrap_or_default()
}

/// Seals a record into a frame of its own.
pub(super) fn seal(
    sealer: &mut Sealer,
    kind: RecordType,
    content: &[u8],
    fresh: Fresh,
) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut frame = vec![0; sealer.suite().frame_len(content.len())];
    frame[HEADROOM..HEADROOM + content.len()].copy_from_slice(content);
    sealer.seal(kind, &mut frame, content.len(), &mut || fresh)?;
    Ok(frame)
}

// -------------------------------------------------------------------- steps

/// Bytes, and their name in Python.
type Named<'a> = (&'a str, &'a [u8]);

/// No salt.
const NONE: Named = ("", &[]);

/// Adds a derived value, and the Python line that derives it.
fn derive(step: &mut Step, name: &str, key: Named, salt: Named, label: &'static str, bytes: &[u8]) {
    let written = if salt.0.is_empty() { "b\"\"" } else { salt.0 };
    step.python += &format!(
        "{name} = derive({}, {written}, b\"{label}\", {})\n",
        key.0,
        bytes.len()
    );
    let meaning = prose(&format!("value {label}"));
    let extract = Hmac::<Sha256>::new_from_slice(salt.1)
        .expect("HMAC takes a key of any length")
        .chain_update(key.1);
    let extract = extract.finalize().into_bytes().into();
    let derived = Some(Derived {
        key: key.0.into(),
        salt: written.into(),
        label,
        extract,
    });
    step.values.push(Value {
        meaning,
        python: name.into(),
        bytes: bytes.to_vec(),
        derived,
    });
}

/// Adds a value that is not derived; `formula` is how Python has it.
pub(super) fn given(step: &mut Step, name: &str, formula: &str, bytes: &[u8]) {
    step.python += &format!("{name} = {formula}\n");
    let meaning = prose(&format!(
        "value {}",
        name.trim_end_matches(|c: char| c.is_ascii_digit())
    ));
    step.values.push(Value {
        meaning,
        python: name.into(),
        bytes: bytes.to_vec(),
        derived: None,
    });
}

/// Bytes as Python writes them.
pub(super) fn literal(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) if bytes.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n')) => {
            format!("b{text:?}")
        }
        _ => format!("bytes.fromhex(\"{}\")", hex(bytes)),
    }
}

/// Section 2.
fn key(root: &Root) -> Step {
    let mut step = Step::new("The key", "both", "2");
    let formula = format!("base64.urlsafe_b64decode(\"{}\")", root.key().to_text());
    given(&mut step, "K", &formula, root.key().bytes());
    derive(
        &mut step,
        "id",
        ("K", root.key().bytes()),
        NONE,
        "id",
        &root.id(),
    );
    // The hello key itself stays inside the core. Python makes the same tokens with these bytes,
    // which shows that they are right.
    let mut hello = [0; 32];
    hkdf(root.key().bytes(), &[], b"fernvpn 1 hello", &mut hello);
    derive(
        &mut step,
        "hello",
        ("K", root.key().bytes()),
        NONE,
        "hello",
        &hello,
    );
    step
}

/// Sections 4.2 and 4.3.
pub(super) fn hello(ends: &Ends, by_client: bool, frame: &[u8]) -> Result<Step, Box<dyn Error>> {
    let side = SIDES[usize::from(!by_client)];
    let (name, section) = if by_client {
        ("ClientHello", "4.2")
    } else {
        ("ServerHello", "4.3")
    };
    let (id, skip) = if by_client { ("id + ", 8) } else { ("", 0) };
    let mut step = Step::new(name, side, section);
    let mut text = body(frame)[skip..].to_vec();
    let raw = fields::decode(&text).map_err(TokenError::Text)?;
    let message = open(slice::from_ref(ends.root.hello()), &mut text, None)?
        .message
        .len();
    let padded = &text[HEADER..raw.len() - MAC];
    let lines: Vec<String> = padded[..message]
        .split_inclusive(|byte| *byte == b'\n')
        .map(literal)
        .collect();
    step.python = format!("{side}_fields = ({})\n", lines.join("\n    "));
    token(
        &mut step,
        &format!("{side}_token"),
        "hello",
        &format!("{side}_fields"),
        &raw,
    );
    step.python += &format!("{side}_hello = frame({id}{side}_token)\n");
    let fields = fields::frame(&format!("{side} hello"), frame);
    step.layers.insert(
        0,
        Layer::new("frame", format!("{side}_hello"), frame, fields),
    );
    step.layers.push(Layer::new(
        "message",
        format!("pad({side}_fields)"),
        padded,
        fields::hello_message(padded),
    ));
    step.known = Some(known(name, by_client));
    Ok(step)
}

/// Adds a token's bytes, and the Python line that makes its text.
fn token(step: &mut Step, name: &str, key: &str, message: &str, raw: &[u8]) {
    let fields = fields::token(raw);
    let time = fields
        .get(1)
        .map_or("", |field| field.value.split(':').next().unwrap_or(""));
    let iv = hex(&raw[HEADER - 16..HEADER]);
    step.python += &format!("{name} = token({key}, {message}, {time}, bytes.fromhex(\"{iv}\"))\n");
    step.layers.push(Layer::new(
        "token",
        format!("base64.urlsafe_b64decode({name})"),
        raw,
        fields,
    ));
}

/// Section 5.
fn key_schedule(suite: Suite, root: &Root, transcript: &[u8; 32]) -> Step {
    let mut step = Step::new("The session's keys", "both", "5");
    let formula = "hashlib.sha256(client_hello + server_hello).digest()";
    given(&mut step, "transcript", formula, transcript);
    for (side, secret) in SIDES.into_iter().zip(root.traffic_secrets(transcript)) {
        derive(
            &mut step,
            side,
            ("K", root.key().bytes()),
            ("transcript", transcript),
            side,
            secret.bytes(),
        );
        traffic_keys(&mut step, suite, side, &secret);
    }
    step
}

fn traffic_keys(step: &mut Step, suite: Suite, name: &str, secret: &TrafficSecret) {
    derive(
        step,
        &format!("{name}_key"),
        (name, secret.bytes()),
        NONE,
        "key",
        &secret.key()[..suite.key_len()],
    );
    if suite.form() == Form::Aead {
        derive(
            step,
            &format!("{name}_iv"),
            (name, secret.bytes()),
            NONE,
            "iv",
            &secret.iv()[..],
        );
    }
}

/// Section 8.
fn next_key(state: &ServerState) -> Step {
    let mut step = Step::new("The next key", "both", "8");
    let formula = literal(&state.secret[..]);
    given(&mut step, "r", &formula, &state.secret[..]);
    let next = state.root.next(&state.secret);
    derive(
        &mut step,
        "next_K",
        ("K", state.root.key().bytes()),
        ("r", &state.secret[..]),
        "next",
        next.key().bytes(),
    );
    derive(
        &mut step,
        "next_id",
        ("next_K", next.key().bytes()),
        NONE,
        "id",
        &next.id(),
    );
    step
}

/// The records of a session.
pub(super) struct Records {
    suite: Suite,
    number: u8,
    /// For each direction the traffic secret, its number, and how many records it has sealed.
    keys: [(TrafficSecret, u8, u64); 2],
}

/// The sides as Python names their secrets.
const SIDES: [&str; 2] = ["client", "server"];

/// The name of a side's traffic secret: the first, the second, …
fn secret_name(side: usize, which: u8) -> String {
    if which == 1 {
        SIDES[side].into()
    } else {
        format!("{}{which}", SIDES[side])
    }
}

impl Records {
    /// The records of both directions from this counter on.
    pub(super) fn new(ends: &Ends, hellos: &Hellos, counter: u8) -> Records {
        let keys = ends
            .root
            .traffic_secrets(&hellos.transcript())
            .map(|secret| (secret, 1, counter.into()));
        Records {
            suite: ends.suite,
            number: 2 * counter,
            keys,
        }
    }

    /// A record.
    pub(super) fn step(
        &mut self,
        by_client: bool,
        about: &'static str,
        (frame, opened): &Sent,
    ) -> Result<Step, Box<dyn Error>> {
        let n = self.number;
        let side = usize::from(!by_client);
        let (secret, which, counter) = &mut self.keys[side];
        let name = secret_name(side, *which);
        let mut step = Step::new(about, SIDES[side], "6");
        let sections = [
            ("Finished", "4.4"),
            ("Config", "4.5"),
            ("Close", "6.2"),
            ("Rekey", "7"),
        ];
        step.section = sections
            .iter()
            .find(|(name, _)| *name == step.name)
            .map_or("6", |(_, section)| section);
        let fields = fields::frame(layout(self.suite), frame);
        step.layers
            .push(Layer::new("frame", format!("record{n}"), frame, fields));
        let (message, padded) = match self.suite.form() {
            Form::Aead => {
                let message = &opened[..opened.len() - TAG];
                step.python = format!("message{n} = {}\n", typed(message));
                let count = [&[0; 4][..], &counter.to_be_bytes()].concat();
                let nonce: Vec<u8> = secret
                    .iv()
                    .iter()
                    .zip(count)
                    .map(|(iv, count)| iv ^ count)
                    .collect();
                let formula = format!("xor({name}_iv, u(12, {counter}))");
                given(&mut step, &format!("nonce{n}"), &formula, &nonce);
                step.python += &format!("record{n} = gcm({name}_key, nonce{n}, message{n})\n");
                (format!("message{n}"), message)
            }
            Form::Token => {
                let raw = fields::decode(body(frame)).map_err(TokenError::Text)?;
                let padded = &opened[HEADER..raw.len() - MAC];
                step.python = format!(
                    "message{n} = u(8, {counter}) + {}\n",
                    typed(&padded[8..fields::unpadded(padded)])
                );
                token(
                    &mut step,
                    &format!("token{n}"),
                    &format!("{name}_key"),
                    &format!("message{n}"),
                    &raw,
                );
                step.python += &format!("record{n} = frame(token{n})\n");
                (format!("pad(message{n})"), padded)
            }
        };
        if step.name == "Packets" {
            // Both records end with the same packet, which has this length.
            step.python += &format!(
                "packet = message{n}[-{}:]\n{}",
                REPLY.len(),
                prose("python Packets")
            );
        }
        step.layers.push(Layer::new(
            "message",
            message,
            padded,
            fields::record_message(self.suite, padded),
        ));
        step.known = Some(known(step.name, by_client));
        self.number = n + 1;
        *counter += 1;
        Ok(step)
    }

    /// The key after a Rekey.
    fn rekey(&mut self, by_client: bool, secret: TrafficSecret) -> Step {
        let side = usize::from(!by_client);
        let which = self.keys[side].1 + 1;
        let before = secret_name(side, which - 1);
        let name = secret_name(side, which);
        let mut step = Step::new("The next traffic secret", "both", "7");
        derive(
            &mut step,
            &name,
            (&before, self.keys[side].0.bytes()),
            NONE,
            "rekey",
            secret.bytes(),
        );
        traffic_keys(&mut step, self.suite, &name, &secret);
        self.keys[side] = (secret, which, 0);
        step
    }
}

/// The layout of a record's frame.
pub(super) fn layout(suite: Suite) -> &'static str {
    match suite.form() {
        Form::Aead => "aead frame",
        Form::Token => "token frame",
    }
}

/// A record's type and content in Python.
fn typed(message: &[u8]) -> String {
    match message {
        [kind] => format!("u(1, {kind})"),
        [kind, content @ ..] => format!("u(1, {kind}) + {}", literal(content)),
        [] => literal(message),
    }
}
