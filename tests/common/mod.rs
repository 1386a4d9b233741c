//! What the tests of the conversation share: two peers with fixed keys, time and randomness.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "tests")]

use fernvpn::fernet::Key;
use fernvpn::protocol::frame;
use fernvpn::protocol::handshake::{
    AwaitServerHello, Capabilities, ClientHello, FreshHello, Offer, client_hello,
};
use fernvpn::protocol::key_schedule::Root;
use fernvpn::protocol::ratchet::{ClientState, ServerState};
use fernvpn::protocol::record::{Fresh, HEADROOM, Opener, RecordError, RecordType, Sealer, Suite};

/// The key of both peers.
pub const KEY: [u8; 32] = *b"the key of the tests, 32 bytes..";
/// The time on both clocks.
pub const TIME: u64 = 1_700_000_000;
/// The ratchet secret of the server.
pub const SECRET: [u8; 32] = [0x52; 32];
/// The step of ratcheted keys.
pub const STEP: u64 = 7;

pub fn root() -> Root {
    Root::new(Key::from_bytes(&KEY))
}

pub fn state(step: u64) -> ServerState {
    ServerState {
        step,
        root: root(),
        secret: SECRET.into(),
    }
}

pub fn offer(suites: &[Suite]) -> Offer {
    Offer {
        suites: suites.to_vec(),
        capabilities: Capabilities {
            super_packets: true,
        },
        software: "fernvpn tests".to_owned(),
    }
}

pub fn fresh_hello(nonce: u8) -> FreshHello {
    FreshHello {
        nonce: [nonce; 32],
        token: Fresh {
            time: TIME,
            iv: [nonce; 16],
        },
    }
}

/// A source of IVs that counts.
pub fn counting() -> impl FnMut() -> Fresh {
    let mut count = 0u128;
    move || {
        count += 1;
        Fresh {
            time: TIME,
            iv: count.to_be_bytes(),
        }
    }
}

/// The body of a frame.
pub fn body(frame: &[u8]) -> Vec<u8> {
    let whole = frame::whole(frame, 1 << 20).unwrap();
    assert_eq!(whole, Some(frame.len()), "one whole frame");
    frame[frame::HEADER..].to_vec()
}

/// A client's hello.
pub fn begin(step: Option<u64>, offer: Offer, nonce: u8) -> (Vec<u8>, AwaitServerHello) {
    let (frame, next) = client_hello(&root(), step, offer, fresh_hello(nonce));
    (body(&frame), next)
}

/// The server takes a hello that is right.
pub fn taken(body: &[u8]) -> ClientHello {
    ClientHello::receive(&root(), body, None).unwrap()
}

/// Both ends of a session.
pub struct Session {
    pub suite: Suite,
    pub client: (Sealer, Opener),
    pub server: (Sealer, Opener),
    /// Finished and Config, as they went over the wire.
    pub finished: Vec<u8>,
    pub config: Vec<u8>,
    /// What the client kept, with a ratcheted key.
    pub kept: Option<ClientState>,
}

/// A whole handshake. The nonces are `n` and `n + 1`.
pub fn session(suite: Suite, step: Option<u64>, n: u8) -> Session {
    let fresh = &mut counting();
    let (hello, client) = begin(step, offer(&Suite::ALL), n);
    let ratchet = step.map(state);
    let (answer, server) =
        taken(&hello).answer(&offer(&[suite]), ratchet.as_ref(), fresh_hello(n + 1));
    let (server, agreed) = (server.unwrap(), client.receive(&body(&answer)).unwrap());
    assert_eq!(
        (agreed.suite, agreed.capabilities),
        (
            suite,
            Capabilities {
                super_packets: true
            }
        )
    );
    assert_eq!(
        (server.suite, server.capabilities),
        (agreed.suite, agreed.capabilities)
    );
    let mut kept = None;
    let keep = |next: &ClientState| {
        kept = Some(next.clone());
        Ok::<(), ()>(())
    };
    let (finished, client) = agreed.finish(keep, fresh).unwrap();
    let ready = server.receive(&mut body(&finished)).unwrap();
    let (config, server_sealer, server_opener) = ready.configure(b"mtu=1500\n", fresh).unwrap();
    let (content, client_sealer, client_opener) = client.receive(&mut body(&config)).unwrap();
    assert_eq!(content, b"mtu=1500\n");
    Session {
        suite,
        client: (client_sealer, client_opener),
        server: (server_sealer, server_opener),
        finished: body(&finished),
        config: body(&config),
        kept,
    }
}

/// The body of the next record.
pub fn seal(sealer: &mut Sealer, kind: RecordType, content: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xee; sealer.suite().frame_len(content.len())];
    frame[HEADROOM..HEADROOM + content.len()].copy_from_slice(content);
    let length = sealer
        .seal(kind, &mut frame, content.len(), &mut counting())
        .unwrap();
    assert_eq!(length, frame.len(), "frame_len foretells the length");
    body(&frame)
}

/// What a record is and holds.
pub fn open(opener: &mut Opener, body: &[u8]) -> Result<(RecordType, Vec<u8>), RecordError> {
    let mut body = body.to_vec();
    let (kind, content) = opener.open(&mut body)?;
    Ok((kind, content.to_vec()))
}

/// A small deterministic generator (xorshift64*, Vigna 2016), so that a failure can be repeated
/// from its seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % n
    }
}
