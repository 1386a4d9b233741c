//! Who is there, and what do we agree on? PROTOCOL.md section 4.
//!
//! ```text
//!  client                                              server
//!  client_hello ── id ‖ Fernet(hello key, hello) ────> ClientHello::receive
//!  AwaitServerHello <── Fernet(hello key, hello) ───── ClientHello::answer
//!  Agreed::finish ── Finished (a record) ────────────> AwaitFinished
//!  AwaitConfig <── Config (a record) ───────────────── Ready::configure
//!  (Sealer, Opener)                                    (Sealer, Opener)
//! ```
//!
//! Each phase is a type, named by what it expects next. Each step takes it by value, so no step can
//! be called too early or twice. No clock is needed. The two nonces make the session fresh.
//! Finished uses a key that depends on both. It proves to the server that the client is there now
//! and is no recording. A hello's timestamp is only reported.

use super::fields::{self, FieldError, Fields};
use super::frame;
use super::key_schedule::{Id, Root};
use super::limits::MAX_HELLO;
use super::ratchet::{self, ClientState, ServerState};
use super::record::{Draw, Fresh, Opener, RecordError, RecordType, SealError, Sealer, Suite};
use crate::fernet::{self, Age};
use sha2::{Digest, Sha256};
use std::fmt;

/// The version of this protocol, as hellos name it.
pub const VERSION: &str = "1";

/// Why a handshake ended. For this side's log; the other side is told nothing by the core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// The hello has no room for an id and a token, or is too long.
    Length(usize),
    /// The ClientHello carries the id of another key.
    Id,
    /// The hello token is invalid.
    Token(fernet::TokenError),
    /// The hello's fields are not as specified.
    Field(FieldError),
    /// The hello came from this role: a reflection, or two ends of the same kind.
    Role(String),
    /// The peers share no version.
    Version(String),
    /// The ServerHello answers another ClientHello.
    Echo,
    /// The server chose a suite or capability that was not offered.
    NotOffered(String),
    /// One side uses a ratcheted key and the other does not, or they are at different steps.
    Ratchet,
    /// The server, which knows the key, gave this reason.
    ByServer(String),
    /// Finished or Config was refused.
    Record(RecordError),
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            HandshakeError::Length(n) => write!(f, "a hello of {n} bytes"),
            HandshakeError::Id => write!(f, "the hello names another key"),
            HandshakeError::Token(reason) => write!(f, "the hello's token is invalid: {reason}"),
            HandshakeError::Field(reason) => write!(f, "the hello is malformed: {reason}"),
            HandshakeError::Role(role) => {
                write!(f, "the hello is from a {role}: reflected, or two of a kind")
            }
            HandshakeError::Version(theirs) => {
                write!(f, "the server chose version {theirs}, this is {VERSION}")
            }
            HandshakeError::Echo => write!(f, "the answer belongs to another hello"),
            HandshakeError::NotOffered(what) => {
                write!(f, "the server chose {what}, which was not offered")
            }
            HandshakeError::Ratchet => write!(
                f,
                "the two sides disagree about the ratcheted key or its step"
            ),
            HandshakeError::ByServer(reason) => write!(f, "the server refused: {reason}"),
            HandshakeError::Record(reason) => write!(f, "{reason}"),
        }
    }
}

impl std::error::Error for HandshakeError {}

impl From<FieldError> for HandshakeError {
    fn from(reason: FieldError) -> HandshakeError {
        HandshakeError::Field(reason)
    }
}

/// What a peer can do beyond the minimum. Only what both name is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Takes SuperPacket records.
    pub super_packets: bool,
}

impl Capabilities {
    const SUPER_PACKETS: &str = "super-packets";

    /// As a list; there is one capability so far, so that the list is its only item.
    fn to_text(self) -> &'static str {
        if self.super_packets {
            Capabilities::SUPER_PACKETS
        } else {
            ""
        }
    }

    fn from_fields(fields: &Fields) -> Capabilities {
        let has = |known| fields.list("capabilities").any(|name| name == known);
        Capabilities {
            super_packets: has(Capabilities::SUPER_PACKETS),
        }
    }
}

/// What one side brings to a handshake.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The suites it allows, the preferred one first. The server's order decides.
    pub suites: Vec<Suite>,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Name and version of the program, for the other side's log: short, since a hello holds 703
    /// bytes in all.
    pub software: String,
}

/// What must be new in every hello.
#[derive(Clone, Copy, Debug)]
pub struct FreshHello {
    /// From a cryptographic generator: 32 bytes that were never used before.
    pub nonce: [u8; 32],
    /// The token's timestamp (a hint) and IV.
    pub token: Fresh,
}

// ---------------------------------------------------------------- 4.2 ClientHello

/// The client begins: the frame to send, and the state that takes the answer. `step` is that of a
/// ratcheted key; a static one has none.
pub fn client_hello(
    root: &Root,
    step: Option<u64>,
    offer: Offer,
    fresh: FreshHello,
) -> (Vec<u8>, AwaitServerHello) {
    let mut hello = String::new();
    fields::write(&mut hello, "versions", VERSION);
    fields::write(&mut hello, "role", "client");
    fields::write(&mut hello, "nonce", &fields::hex(&fresh.nonce));
    fields::write(
        &mut hello,
        "suites",
        &offer
            .suites
            .iter()
            .map(|s| s.name())
            .collect::<Vec<_>>()
            .join(","),
    );
    fields::write(&mut hello, "capabilities", offer.capabilities.to_text());
    if let Some(step) = step {
        fields::write(&mut hello, "step", &step.to_string());
    }
    fields::write(&mut hello, "software", &offer.software);
    let token = root
        .hello()
        .seal(hello.as_bytes(), fresh.token.time, fresh.token.iv);
    let frame = frame::frame(&[&root.id()[..], &token].concat());
    let transcript = Sha256::new_with_prefix(&frame);
    (
        frame,
        AwaitServerHello {
            root: root.clone(),
            step,
            offer,
            nonce: fresh.nonce,
            transcript,
        },
    )
}

/// The id at the start of a ClientHello, by which the server looks the key up.
pub fn client_id(body: &[u8]) -> Option<Id> {
    body.first_chunk().copied()
}

/// An authentic ClientHello, not yet answered. It may still be a recording.
#[derive(Debug)]
pub struct ClientHello {
    /// The token's timestamp, in seconds since 1970: a hint.
    pub time: u64,
    /// The client's nonce. The server answers each once while it remembers.
    pub nonce: [u8; 32],
    /// The step of a ratcheted key.
    pub step: Option<u64>,
    /// The peer's program, printable.
    pub software: String,
    root: Root,
    speaks: bool,
    suites: Vec<Suite>,
    capabilities: Capabilities,
    transcript: Sha256,
}

impl ClientHello {
    /// Verifies a ClientHello under the key that its id names.
    ///
    /// # Errors
    /// [`HandshakeError`]. The server stays silent.
    pub fn receive(
        root: &Root,
        body: &[u8],
        age: Option<Age>,
    ) -> Result<ClientHello, HandshakeError> {
        let (id, token) = limited(body)?
            .split_first_chunk::<8>()
            .ok_or(HandshakeError::Length(body.len()))?;
        if *id != root.id() {
            return Err(HandshakeError::Id);
        }
        let mut token = token.to_vec();
        let (time, fields) = open_hello(root, &mut token, age, "client")?;
        fields.required("versions")?;
        fields.required("suites")?;
        Ok(ClientHello {
            time,
            root: root.clone(),
            speaks: fields.list("versions").any(|version| version == VERSION),
            nonce: fields.hex32("nonce")?,
            step: fields.number("step")?,
            software: fields.value("software").unwrap_or_default().to_owned(),
            suites: fields.list("suites").filter_map(Suite::parse).collect(),
            capabilities: Capabilities::from_fields(&fields),
            transcript: Sha256::new_with_prefix(frame::frame(body)),
        })
    }

    // ------------------------------------------------------------ 4.3 ServerHello

    /// Answers. Returns the frame to send, and the state that takes Finished. If the two sides have
    /// nothing in common, returns a frame that says so and the same reason for the log. The
    /// connection ends then. `ratchet` is the state of a ratcheted key, durable already.
    pub fn answer(
        self,
        offer: &Offer,
        ratchet: Option<&ServerState>,
        fresh: FreshHello,
    ) -> (Vec<u8>, Result<AwaitFinished, &'static str>) {
        let suite = match self.choose(offer, ratchet) {
            Ok(suite) => suite,
            Err(reason) => return (self.refuse(reason, fresh.token), Err(reason)),
        };
        let super_packets = self.capabilities.super_packets && offer.capabilities.super_packets;
        let capabilities = Capabilities { super_packets };
        let mut hello = self.begin_answer();
        fields::write(&mut hello, "nonce", &fields::hex(&fresh.nonce));
        fields::write(&mut hello, "suite", suite.name());
        fields::write(&mut hello, "capabilities", capabilities.to_text());
        if let Some(state) = ratchet {
            fields::write(&mut hello, "step", &state.step.to_string());
            fields::write(&mut hello, "ratchet", &fields::hex(&state.secret));
        }
        fields::write(&mut hello, "software", &offer.software);
        let frame = frame::frame(&self.root.hello().seal(
            hello.as_bytes(),
            fresh.token.time,
            fresh.token.iv,
        ));
        let transcript = self.transcript.chain_update(&frame).finalize();
        let [client, server] = self.root.traffic_secrets(&transcript.into());
        let awaiting = AwaitFinished {
            suite,
            capabilities,
            sealer: Sealer::new(suite, server),
            opener: Opener::new(suite, client),
        };
        (frame, Ok(awaiting))
    }

    /// Answers with a reason instead: the frame to send, after which the connection ends.
    pub fn refuse(self, reason: &str, fresh: Fresh) -> Vec<u8> {
        let mut hello = self.begin_answer();
        fields::write(&mut hello, "refused", reason);
        frame::frame(
            &self
                .root
                .hello()
                .seal(hello.as_bytes(), fresh.time, fresh.iv),
        )
    }

    /// The first suite of the server's that the client offered, if version and step are the same
    /// too.
    fn choose(&self, offer: &Offer, ratchet: Option<&ServerState>) -> Result<Suite, &'static str> {
        if !self.speaks {
            return Err("no common version (this is version 1)");
        }
        if self.step == Some(ratchet::LAST_STEP) {
            return Err("the ratcheted key is at its last step");
        }
        let theirs = self.step.map(|step| (self.root.id(), step));
        if theirs != ratchet.map(|state| (state.root.id(), state.step)) {
            return Err("not the same step of the ratcheted key");
        }
        offer
            .suites
            .iter()
            .copied()
            .find(|suite| self.suites.contains(suite))
            .ok_or("no common suite")
    }

    /// The fields that a ServerHello begins with, a refusal too.
    fn begin_answer(&self) -> String {
        let mut hello = String::new();
        fields::write(&mut hello, "version", VERSION);
        fields::write(&mut hello, "role", "server");
        fields::write(&mut hello, "client-nonce", &fields::hex(&self.nonce));
        hello
    }
}

/// The client has sent its hello.
pub struct AwaitServerHello {
    root: Root,
    step: Option<u64>,
    offer: Offer,
    nonce: [u8; 32],
    transcript: Sha256,
}

impl AwaitServerHello {
    /// Verifies the ServerHello. After it the client knows that the server is there now, since
    /// nobody else could have echoed its nonce under this key.
    ///
    /// # Errors
    /// [`HandshakeError`]; the connection has to end.
    pub fn receive(self, body: &[u8]) -> Result<Agreed, HandshakeError> {
        let mut token = limited(body)?.to_vec();
        let (time, fields) = open_hello(&self.root, &mut token, None, "server")?;
        if fields.hex32("client-nonce")? != self.nonce {
            return Err(HandshakeError::Echo);
        }
        let version = fields.required("version")?;
        if let Some(reason) = fields.value("refused") {
            return Err(HandshakeError::ByServer(reason.to_owned()));
        }
        if version != VERSION {
            return Err(HandshakeError::Version(version.to_owned()));
        }
        fields.hex32("nonce")?;
        let name = fields.required("suite")?;
        let suite = match Suite::parse(name) {
            Some(suite) if self.offer.suites.contains(&suite) => suite,
            _ => return Err(HandshakeError::NotOffered(name.to_owned())),
        };
        let offered = self.offer.capabilities.to_text();
        if let Some(name) = fields.list("capabilities").find(|name| *name != offered) {
            return Err(HandshakeError::NotOffered(name.to_owned()));
        }
        let capabilities = Capabilities::from_fields(&fields);
        if fields.number("step")? != self.step {
            return Err(HandshakeError::Ratchet);
        }
        let next = match self.step {
            None => None,
            Some(step) => {
                let root = self.root.clone();
                let secret = fields.hex32("ratchet")?;
                let next = ClientState { step, root }.advance(&secret);
                Some(next.ok_or(HandshakeError::Ratchet)?)
            }
        };
        let transcript = self.transcript.chain_update(frame::frame(body)).finalize();
        let [client, server] = self.root.traffic_secrets(&transcript.into());
        Ok(Agreed {
            time,
            suite,
            capabilities,
            software: fields.value("software").unwrap_or_default().to_owned(),
            next,
            sealer: Sealer::new(suite, client),
            opener: Opener::new(suite, server),
        })
    }
}

// -------------------------------------------------------------------- 4.4 Finished

/// The client has verified the server.
pub struct Agreed {
    /// The ServerHello's timestamp, in seconds since 1970: a hint.
    pub time: u64,
    /// The suite of the session.
    pub suite: Suite,
    /// What both sides can do.
    pub capabilities: Capabilities,
    /// The peer's program, printable.
    pub software: String,
    next: Option<ClientState>,
    sealer: Sealer,
    opener: Opener,
}

impl Agreed {
    /// Seals Finished: the frame to send, and the state that takes Config. A ratcheted key first
    /// goes to `keep`, which makes it durable and erases the one before; if that fails there is no
    /// Finished.
    ///
    /// # Errors
    /// What `keep` returned.
    pub fn finish<E>(
        mut self,
        keep: impl FnOnce(&ClientState) -> Result<(), E>,
        fresh: Draw,
    ) -> Result<(Vec<u8>, AwaitConfig), E> {
        if let Some(next) = &self.next {
            keep(next)?;
        }
        let frame = self
            .sealer
            .frame(RecordType::Finished, &[], fresh)
            .expect("the first record, and empty");
        Ok((frame, AwaitConfig(self.sealer, self.opener)))
    }
}

/// The server has answered a hello, which may be a recording.
pub struct AwaitFinished {
    /// The suite of the session.
    pub suite: Suite,
    /// What both sides can do.
    pub capabilities: Capabilities,
    sealer: Sealer,
    opener: Opener,
}

impl AwaitFinished {
    /// Opens Finished. After it the server knows that the client is there now, since nobody else
    /// could have derived this key from the server's nonce.
    ///
    /// # Errors
    /// [`HandshakeError`]; the connection has to end.
    pub fn receive(mut self, body: &mut [u8]) -> Result<Ready, HandshakeError> {
        let content = self
            .opener
            .open_due(body, RecordType::Finished)
            .map_err(HandshakeError::Record)?;
        if !content.is_empty() {
            return Err(HandshakeError::Record(RecordError::Length(content.len())));
        }
        Ok(Ready(self.sealer, self.opener))
    }
}

// -------------------------------------------------------------------- 4.5 Config

/// The server has verified the client. Only now does a ratcheted key advance, and a lease or a
/// route change.
pub struct Ready(Sealer, Opener);

impl Ready {
    /// Seals Config: the frame to send, and the session.
    ///
    /// # Errors
    /// [`SealError`] if `config` is longer than a record.
    pub fn configure(
        mut self,
        config: &[u8],
        fresh: Draw,
    ) -> Result<(Vec<u8>, Sealer, Opener), SealError> {
        let frame = self.0.frame(RecordType::Config, config, fresh)?;
        Ok((frame, self.0, self.1))
    }
}

/// The client has sent Finished. It sends nothing more until it has opened Config.
pub struct AwaitConfig(Sealer, Opener);

impl AwaitConfig {
    /// Opens Config: its content, and the session.
    ///
    /// # Errors
    /// [`HandshakeError`]; the connection has to end.
    pub fn receive(mut self, body: &mut [u8]) -> Result<(Vec<u8>, Sealer, Opener), HandshakeError> {
        let config = self
            .1
            .open_due(body, RecordType::Config)
            .map_err(HandshakeError::Record)?
            .to_vec();
        Ok((config, self.0, self.1))
    }
}

// -------------------------------------------------------------------- both sides

/// The body of a hello, unless it is too long.
fn limited(body: &[u8]) -> Result<&[u8], HandshakeError> {
    if body.len() > MAX_HELLO {
        Err(HandshakeError::Length(body.len()))
    } else {
        Ok(body)
    }
}

/// Opens a hello token and checks that its maker has the role that is due.
fn open_hello<'a>(
    root: &Root,
    text: &'a mut [u8],
    age: Option<Age>,
    due: &str,
) -> Result<(u64, Fields<'a>), HandshakeError> {
    let opened = super::open_token(root.hello(), text, age).map_err(HandshakeError::Token)?;
    let fields = Fields::parse(opened.message)?;
    let role = fields.required("role")?;
    if role != due {
        return Err(HandshakeError::Role(role.to_owned()));
    }
    Ok((opened.time, fields))
}
