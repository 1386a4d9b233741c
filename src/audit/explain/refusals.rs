//! Which step refuses what is wrong?
//!
//! Every case calls the function that a server or client calls, and shows the reason that it gives.
//! A case that is not refused ends the lesson with an error, since then a check is missing.

use super::session::{Ends, Records, TIME, body, given, hello, layout, literal, seal};
use super::{Chapter, Layer, Source, Step, prose};
use crate::audit::fields;
use crate::fernet::{Age, Key, TokenError, base64url};
use crate::protocol::frame::{self, frame, whole};
use crate::protocol::handshake::{AwaitServerHello, ClientHello, client_hello};
use crate::protocol::key_schedule::Root;
use crate::protocol::limits::MAX_HELLO;
use crate::protocol::record::{Form, RecordType, Suite};
use std::convert::Infallible;
use std::error::Error;
use std::fmt::Display;

/// What is refused before there is a session.
pub(super) fn hellos(source: Source) -> Result<Chapter, Box<dyn Error>> {
    let ends = Ends::new(Suite::AES_256_GCM, false, source);
    let first = ends.hellos()?;
    let server = |about, frame: &[u8], now: Option<u64>| {
        let age = now.map(|now| Age { now, ttl: 30 });
        case(
            about,
            "server",
            "4.2",
            frame,
            "client hello",
            ClientHello::receive(&ends.root, body(frame), age),
        )
    };
    // A stranger sends the client's fields under another key.
    let other = Root::new(Key::from_bytes(&source.bytes("another key", 0x80)));
    let (stranger, _) = client_hello(
        &other,
        None,
        ends.offer(&ends.offered()),
        ends.fresh("client", 0x20, 0xa0, TIME),
    );
    let forged = frame(&[&ends.root.id(), &body(&stranger)[8..]].concat());
    let (flipped, at) = flip(&first.client, 12)?;
    let mut before = ends.before()?;
    given(
        &mut before,
        "other_K",
        &literal(other.key().bytes()),
        other.key().bytes(),
    );
    let other_nonce: [u8; 32] = source.bytes("second client nonce", 0xe0);
    given(
        &mut before,
        "other_nonce",
        &literal(&other_nonce),
        &other_nonce,
    );
    let mut steps = vec![
        before,
        server("Wrong key", &stranger, None)?,
        server("Forged hello", &forged, None)?,
        flipped_in(
            "client_hello",
            server("Flipped bit in a hello", &flipped, None)?,
            at,
        ),
        server("Expired hello", &first.client, Some(TIME + 31))?,
        server("Future hello", &first.client, Some(TIME - 61))?,
    ];

    let client = |about, waiting: AwaitServerHello, section, frame: &[u8]| {
        case(
            about,
            "client",
            section,
            frame,
            "server hello",
            waiting.receive(body(frame)),
        )
    };
    steps.push(client(
        "Reflected hello",
        ends.begin().1,
        "4.3",
        &frame(&body(&first.client)[8..]),
    )?);
    let again = ends.fresh("second client", 0xe0, 0xf0, TIME + 9);
    let (_, waiting) = client_hello(&ends.root, None, ends.offer(&ends.offered()), again);
    steps.push(client(
        "Answer to another hello",
        waiting,
        "4.3",
        &first.server,
    )?);

    let (finished, _) = first
        .agreed
        .finish(|_| Ok::<_, Infallible>(()), &mut || ends.fresh_record(0))?;
    let replayed = ClientHello::receive(&ends.root, body(&first.client), None)?;
    let fresh = ends.fresh("second server", 0xe0, 0xf0, TIME + 9);
    let (again, waiting) = replayed.answer(&ends.offer(&ends.offered()), None, fresh);
    let result = waiting?.receive(&mut body(&finished).to_vec());
    let mut step = case(
        "Replayed hello, and its Finished",
        "server",
        "4.4",
        &finished,
        layout(Suite::AES_256_GCM),
        result,
    )?;
    step.layers.insert(
        0,
        shown(
            "ClientHello, recorded",
            "client_hello",
            &first.client,
            "client hello",
        ),
    );
    step.layers.insert(
        1,
        shown(
            "ServerHello, another one",
            "again_hello",
            &again,
            "server hello",
        ),
    );
    steps.push(after(&again, "again_", &ends, step)?);

    let (ratcheted, waiting) = Ends::new(Suite::AES_256_GCM, true, source).begin();
    let unlike = ClientHello::receive(&ends.root, body(&ratcheted), None)?;
    let (answer, _) = unlike.answer(
        &ends.offer(&ends.offered()),
        None,
        ends.fresh("server", 0x40, 0xb0, TIME + 2),
    );
    steps.push(after(
        &answer,
        "refusing_",
        &ends,
        client("Ratchet disagrees", waiting, "8", &answer)?,
    )?);

    for (about, length) in [("Oversized frame", MAX_HELLO + 1), ("Empty frame", 0)] {
        let header = frame::header(length);
        steps.push(case(
            about,
            "server",
            "3",
            &header,
            "server hello",
            whole(&header, MAX_HELLO),
        )?);
    }
    let id = "refused-hellos".into();
    let title = "Refused: the handshake".into();
    Ok(Chapter {
        id,
        title,
        about: prose("refusals"),
        steps,
    })
}

/// What is refused in a session of this suite.
pub(super) fn records(
    suite: Suite,
    source: Source,
    truncated: &str,
) -> Result<Chapter, Box<dyn Error>> {
    let ends = Ends::new(suite, false, source);
    // The same two ends again for each case: a connection ends with the first record that is
    // refused.
    let again = || ends.establish(ends.hellos()?);
    let session = again()?;
    let (mut client, from_server) = session.client;
    let (mut server, from_client) = session.server;
    let first = seal(
        &mut client,
        RecordType::Message,
        b"Hello, World!",
        ends.fresh_record(2),
    )?;
    let second = seal(
        &mut client,
        RecordType::Message,
        b"Hello again!",
        ends.fresh_record(3),
    )?;
    let reflected = seal(
        &mut server,
        RecordType::Message,
        b"Hello, client!",
        ends.fresh_record(4),
    )?;
    let step = client.rekey(&mut || ends.fresh_record(4))?;
    let mut before = ends.before()?;
    let mut records = Records::new(&ends, &ends.hellos()?, 1);
    let mut openers = [from_server, from_client];
    for (by_client, frame) in [(true, &first), (true, &second), (false, &reflected)] {
        let mut opened = body(frame).to_vec();
        openers[usize::from(by_client)].open(&mut opened)?;
        before.python += &records
            .step(by_client, "Message", &(frame.clone(), opened))?
            .python;
    }
    let opens = match suite.form() {
        Form::Aead => prose("python aead"),
        Form::Token => prose("python token"),
    };
    before.python += &opens.replace("KEY", &suite.key_len().to_string());
    let (flipped, at) = match suite.form() {
        Form::Token => flip(&first, 4)?,
        Form::Aead => ([&first[..12], &[first[12] ^ 1], &first[13..]].concat(), 12),
    };
    let longer = frame(&[body(&first), b"A"].concat());
    let shorter = frame(&body(&first)[..body(&first).len() - 4]);
    // What arrives at a server that has just sent its Config; the last of it is to be refused.
    let open = |about, arriving: &[&[u8]]| {
        let mut opener = again()?.server.1;
        let (last, before) = arriving.split_last().ok_or("nothing arrives")?;
        for frame in before {
            opener.open(&mut body(frame).to_vec())?;
        }
        case(
            about,
            "server",
            "6",
            last,
            layout(suite),
            opener.open(&mut body(last).to_vec()),
        )
    };
    let mut steps = vec![
        before,
        flipped_in("record2", open("Flipped bit in a record", &[&flipped])?, at),
        marked(open("Flipped bit in a length", &[&longer])?, 3),
        open("Dropped or reordered record", &[&second])?,
        open("Repeated record", &[&first, &first])?,
        open("Reflected record", &[&reflected])?,
        open("Shortened record", &[&shorter])?,
        open("Record after its Rekey", &[&first, &second, &step, &second])?,
    ];
    let half = &first[..first.len() / 2];
    let whole = whole(half, suite.max_body())?.ok_or(truncated);
    steps.push(case(
        "Truncated record",
        "server",
        "6.2",
        half,
        "part of a frame",
        whole,
    )?);
    let id = format!("refused-records-{suite}");
    let title = format!("Refused: records, {suite}");
    Ok(Chapter {
        id,
        title,
        about: prose("refusals"),
        steps,
    })
}

/// A case, which has to be refused.
fn case<T>(
    about: &'static str,
    by: &'static str,
    section: &'static str,
    frame: &[u8],
    layout: &str,
    result: Result<T, impl Display>,
) -> Result<Step, Box<dyn Error>> {
    let Err(refusal) = result else {
        return Err(format!("{about}: it was not refused").into());
    };
    let mut step = Step::new(about, by, section);
    step.layers = vec![shown("frame", "received", frame, layout)];
    step.refusal = Some(refusal.to_string());
    step.python = prose(&format!("python {about}")).to_owned();
    Ok(step)
}

/// A frame, and the name that it has in Python.
fn shown(name: &'static str, python: &str, frame: &[u8], layout: &str) -> Layer {
    Layer::new(name, python.into(), frame, fields::frame(layout, frame))
}

/// The same, behind the Python lines that make its ServerHello. Their names begin with `prefix`.
fn after(answer: &[u8], prefix: &str, ends: &Ends, mut step: Step) -> Result<Step, Box<dyn Error>> {
    step.python.insert_str(
        0,
        &hello(ends, false, answer)?
            .python
            .replace("server_", prefix),
    );
    Ok(step)
}

/// The same with one byte of the frame `honest` changed, and marked.
fn flipped_in(honest: &str, mut step: Step, at: usize) -> Step {
    let changed = step.layers[0].bytes[at];
    let line = format!(
        "received = {honest}[:{at}] + u(1, {changed}) + {honest}[{}:]\n",
        at + 1
    );
    step.python.insert_str(0, &line);
    marked(step, at)
}

/// The same with one byte marked.
fn marked(mut step: Step, at: usize) -> Step {
    step.layers
        .iter_mut()
        .for_each(|layer| layer.changed = Some(at));
    step
}

/// Flips a bit of the ciphertext in the token that begins at `start`, and says which character of
/// the frame changes.
fn flip(frame: &[u8], start: usize) -> Result<(Vec<u8>, usize), Box<dyn Error>> {
    let mut raw = fields::decode(&frame[start..]).map_err(TokenError::Text)?;
    // Base64url puts three bytes into four characters; this bit is in one of the four.
    raw[31] ^= 4;
    let mut text = vec![0; base64url::encoded_len(raw.len())];
    let length = raw.len();
    let at = text.len() - length;
    text[at..].copy_from_slice(&raw);
    base64url::encode_in_place(&mut text, length);
    let flipped = [&frame[..start], &text].concat();
    let at = frame
        .iter()
        .zip(&flipped)
        .position(|(before, after)| before != after);
    Ok((flipped, at.unwrap_or(start)))
}
