//! What may a stream of events do to a server? A whole one, with its threads, on a socket of the
//! loopback: what it does depends on what arrives, not on when. Slower than a pure function (some
//! hundred streams a second), but it is the server that runs, and not a copy of its rules.
//!
//! Events come from the bytes: connections, bytes of strangers, handshakes that are finished, held
//! back or repeated, records that are right, wrong or repeated. A model says what has to happen:
//!
//! * a peer without a key, or one that repeats another's bytes, gets not one byte;
//! * a handshake that is finished makes a session and replaces this client's older one, unless a
//!   newer one is there;
//! * a right record is answered as the protocol says, a wrong one ends its connection;
//! * nothing of all that touches the session of a witness.

use fernvpn::config::settings::{Device, Peer, ServerSettings};
use fernvpn::fernet::Key;
use fernvpn::protocol::frame;
use fernvpn::protocol::handshake::{AwaitConfig, Capabilities, Offer, client_hello};
use fernvpn::protocol::key_schedule::Root;
use fernvpn::protocol::record::{HEADROOM, Opener, RecordType, Sealer, Suite};
use fernvpn::tunnel::server::Server;
use fernvpn::tunnel::{fresh, fresh_hello};
use std::convert::Infallible;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use crate::properties::Input;

/// Clients of the server; the last one is the witness.
const CLIENTS: u8 = 4;
/// Connections at once. Fewer events than the hellos that a server remembers (64) make it forget
/// none.
const SLOTS: usize = 5;
const EVENTS: usize = 48;
/// Nothing takes so long unless it fails.
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    port: u16,
    witness: Mutex<Session>,
    _server: Server,
}

/// A connection, as the model sees it.
enum Slot {
    /// Nothing was said.
    Fresh(TcpStream),
    /// A stranger has said something: no answer, ever.
    Silent(TcpStream),
    /// A hello was answered. The number orders the hellos of one client.
    Asked(Asked),
    Session(Session),
}

struct Asked {
    socket: TcpStream,
    client: u8,
    number: u64,
    super_packets: bool,
    finished: Vec<u8>,
    next: AwaitConfig,
}

struct Session {
    socket: TcpStream,
    client: u8,
    super_packets: bool,
    sealer: Sealer,
    opener: Opener,
    last: Vec<u8>,
}

fn key(client: u8) -> Key {
    Key::from_bytes(&[0x60 + client; 32])
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let peer = |n: u8| Peer {
            name: format!("client{n}"),
            keys: vec![key(n)],
            addresses: vec![format!("10.8.0.{}", n + 2).parse().expect("an address")],
            routes: Vec::new(),
            allow: None,
            ratchet: None,
        };
        let peers = (0..CLIENTS).map(peer).collect();
        // On a slow machine it may take a while until a client does something; nobody is given up
        // for that.
        let settings = ServerSettings {
            device: Device::None,
            keepalive: 3600,
            peers,
            ..ServerSettings::default()
        };
        let listener = TcpListener::bind("0.0.0.0:0").expect("a socket");
        let port = listener.local_addr().expect("an address").port();
        let server = Server::start(settings, vec![listener], None).expect("a server");
        let witness = ask(connect(port), CLIENTS - 1, Suite::AES_256_GCM, true, 0)
            .1
            .finish()
            .expect("a session");
        World {
            port,
            witness: Mutex::new(witness),
            _server: server,
        }
    })
}

/// To another address of the loopback each time: so ports do not run out.
fn connect(port: u16) -> TcpStream {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let [_, b, c, d] = (1 + COUNT.fetch_add(1, Ordering::Relaxed) % 0x00ff_fffd).to_be_bytes();
    let socket = TcpStream::connect((Ipv4Addr::new(127, b, c, d), port)).expect("a connection");
    socket.set_nodelay(true).expect("an option");
    socket.set_read_timeout(Some(PATIENCE)).expect("an option");
    socket
}

/// Sends a hello and reads its answer. Returns the hello's frame, to repeat it, and the next state.
fn ask(
    mut socket: TcpStream,
    client: u8,
    suite: Suite,
    super_packets: bool,
    number: u64,
) -> (Vec<u8>, Asked) {
    let offer = Offer {
        suites: vec![suite],
        capabilities: Capabilities { super_packets },
        software: "fuzz".to_owned(),
    };
    let (hello, next) = client_hello(&Root::new(key(client)), None, offer, fresh_hello());
    socket.write_all(&hello).expect("a hello is sent");
    let agreed = next
        .receive(&read_frame(&mut socket).expect("a new hello is answered"))
        .expect("an answer");
    let Ok((finished, next)) = agreed.finish(|_| Ok::<(), Infallible>(()), &mut fresh);
    (
        hello,
        Asked {
            socket,
            client,
            number,
            super_packets,
            finished,
            next,
        },
    )
}

fn read_frame(socket: &mut TcpStream) -> Option<Vec<u8>> {
    let mut header = [0; frame::HEADER];
    ended(socket.read_exact(&mut header))?;
    let mut body = vec![0; frame::length(header, 100_000).expect("a length")];
    ended(socket.read_exact(&mut body))?;
    Some(body)
}

/// `None` at the end of a connection. That nothing comes at all is never right.
fn ended(read: std::io::Result<()>) -> Option<()> {
    if let Err(error) = &read {
        assert!(
            !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            "the server hangs"
        );
    }
    read.ok()
}

/// A peer without a session leaves: what did the server send?
fn said_to(mut socket: TcpStream) -> usize {
    let _ = socket.shutdown(Shutdown::Write);
    let mut said = Vec::new();
    let _ = ended(socket.read_to_end(&mut said).map(|_| ()));
    said.len()
}

impl Asked {
    fn finish(mut self) -> Option<Session> {
        let _ = self.socket.write_all(&self.finished);
        let mut body = read_frame(&mut self.socket)?;
        let (_, sealer, opener) = self.next.receive(&mut body).expect("Config");
        let Asked {
            socket,
            client,
            super_packets,
            finished,
            ..
        } = self;
        Some(Session {
            socket,
            client,
            super_packets,
            sealer,
            opener,
            last: finished,
        })
    }
}

impl Session {
    fn send(&mut self, kind: RecordType, content: &[u8]) {
        let mut frame = vec![0; self.sealer.suite().frame_len(content.len())];
        frame[HEADROOM..HEADROOM + content.len()].copy_from_slice(content);
        let length = self
            .sealer
            .seal(kind, &mut frame, content.len(), &mut fresh)
            .expect("room");
        frame.truncate(length);
        // It may have been replaced meanwhile, which the end shows.
        let _ = self.socket.write_all(&frame);
        self.last = frame;
    }

    fn receive(&mut self) -> Option<(RecordType, Vec<u8>)> {
        loop {
            let mut body = read_frame(&mut self.socket)?;
            let (kind, content) = self
                .opener
                .open(&mut body)
                .expect("what a server sends opens");
            if kind != RecordType::Rekey {
                return Some((kind, content.to_vec()));
            }
        }
    }

    /// Asks whether it is there, and returns the texts that came before the answer.
    fn messages_until_pong(&mut self, content: &[u8]) -> usize {
        self.send(RecordType::Ping, content);
        let mut messages = 0;
        loop {
            match self.receive().expect("a session goes on") {
                (RecordType::Pong, found) if found == content => return messages,
                (RecordType::Message, _) => messages += 1,
                (RecordType::Packets | RecordType::SuperPacket | RecordType::Pong, _) => {}
                (kind, _) => panic!("{kind:?} where a Pong is due"),
            }
        }
    }

    /// After a record that is wrong, or a Close: it ends, without a Close.
    fn ends(mut self) {
        while let Some((kind, _)) = self.receive() {
            assert_ne!(kind, RecordType::Close, "a wrong record gets no reason");
        }
    }

    fn was_replaced(mut self) {
        loop {
            match self.receive().expect("a Close comes first") {
                (RecordType::Close, content) => return assert_eq!(content[0], 2, "replaced"),
                _ => continue,
            }
        }
    }
}

/// The types that a client sends here: those of which [`is_right`] knows the content.
const KINDS: [RecordType; 6] = [
    RecordType::Packets,
    RecordType::SuperPacket,
    RecordType::Ping,
    RecordType::Pong,
    RecordType::Message,
    RecordType::Close,
];

/// Whether a server takes such a record, as the table in PROTOCOL.md section 6 has it.
fn is_right(kind: RecordType, content: &[u8], super_packets: bool) -> bool {
    match kind {
        RecordType::Packets => {
            let mut rest = content;
            while let Some((length, after)) = rest.split_first_chunk::<2>() {
                let Some(after) = after.get(usize::from(u16::from_be_bytes(*length))..) else {
                    return false;
                };
                rest = after;
            }
            rest.is_empty() && !content.is_empty()
        }
        RecordType::SuperPacket => super_packets && content.len() >= 10,
        RecordType::Ping | RecordType::Pong => content.len() <= 64,
        RecordType::Message => content.len() <= 4096 && str::from_utf8(content).is_ok(),
        _ => false, // a Close, right or not, is the end
    }
}

/// Runs a stream of events.
pub fn server(data: &[u8]) {
    let world = world();
    let mut input = Input(data);
    let mut slots: [Option<Slot>; SLOTS] = [const { None }; SLOTS];
    let mut hellos: Vec<Vec<u8>> = Vec::new();
    let (mut number, mut finished) = (0, [0; CLIENTS as usize]);
    for _ in 0..EVENTS {
        if input.0.is_empty() {
            break;
        }
        let event = input.byte();
        let at = usize::from(event >> 4) % SLOTS;
        let slot = slots[at].take();
        slots[at] = match (event & 15, slot) {
            (_, None) => Some(Slot::Fresh(connect(world.port))),
            // A stranger's bytes, on any connection that has no session.
            (
                0 | 1,
                Some(
                    Slot::Fresh(socket) | Slot::Silent(socket) | Slot::Asked(Asked { socket, .. }),
                ),
            ) => {
                let _ = (&socket).write_all(input.bytes());
                Some(Slot::Silent(socket))
            }
            // A recorded hello.
            (2, Some(Slot::Fresh(socket))) => {
                let which = usize::from(input.byte()).checked_rem(hellos.len());
                let _ = (&socket).write_all(which.map_or(&[0], |which| &hellos[which][..]));
                Some(Slot::Silent(socket))
            }
            // A handshake, and its end, now or later.
            (_, Some(Slot::Fresh(socket))) => {
                number += 1;
                let how = input.byte();
                let suite = Suite::ALL[usize::from(how & 1)];
                let (hello, asked) = ask(
                    socket,
                    (how >> 2) % (CLIENTS - 1),
                    suite,
                    how & 2 != 0,
                    number,
                );
                hellos.push(hello);
                Some(Slot::Asked(asked))
            }
            (2..=13, Some(Slot::Asked(asked))) => {
                let (client, number) = (asked.client, asked.number);
                let session = asked.finish();
                let newest = &mut finished[usize::from(client)];
                assert_eq!(
                    session.is_some(),
                    number > *newest,
                    "hello {number}, and {newest} has finished"
                );
                if session.is_some() {
                    *newest = number;
                    for other in &mut slots {
                        if matches!(other, Some(Slot::Session(older)) if older.client == client)
                            && let Some(Slot::Session(older)) = other.take()
                        {
                            older.was_replaced();
                        }
                    }
                }
                session.map(Slot::Session)
            }
            // A record of the client: right, wrong, repeated, or made up.
            (0..=9, Some(Slot::Session(mut session))) => {
                let kind = KINDS[usize::from(input.byte()) % KINDS.len()];
                let content = input.bytes();
                session.send(kind, content);
                if is_right(kind, content, session.super_packets) {
                    let messages = session.messages_until_pong(b"and then?");
                    assert_eq!(messages, usize::from(kind == RecordType::Message));
                    Some(Slot::Session(session))
                } else {
                    session.ends();
                    None
                }
            }
            (10, Some(Slot::Session(mut session))) => {
                let rekey = session.sealer.rekey(&mut fresh).expect("room");
                let _ = session.socket.write_all(&rekey);
                session.messages_until_pong(b"after a Rekey");
                Some(Slot::Session(session))
            }
            (11, Some(Slot::Session(mut session))) => {
                let last = session.last.clone();
                let _ = session.socket.write_all(&last);
                session.ends();
                None
            }
            (12, Some(Slot::Session(mut session))) => {
                let body = input.bytes();
                if !body.is_empty() {
                    let _ = session.socket.write_all(&frame::frame(body));
                    session.ends();
                }
                None
            }
            // A peer goes away.
            (_, Some(Slot::Silent(socket) | Slot::Asked(Asked { socket, .. }))) => {
                assert_eq!(said_to(socket), 0, "a stranger got an answer");
                None
            }
            (_, Some(Slot::Session(_))) => None,
        };
    }
    for slot in slots.into_iter().flatten() {
        match slot {
            Slot::Session(mut session) => {
                assert_eq!(session.messages_until_pong(b"still there?"), 0)
            }
            Slot::Fresh(socket) | Slot::Silent(socket) | Slot::Asked(Asked { socket, .. }) => {
                assert_eq!(said_to(socket), 0, "a stranger got an answer");
            }
        }
    }
    let mut witness = world.witness.lock().expect("one at a time");
    assert_eq!(witness.messages_until_pong(b"witness"), 0);
}
