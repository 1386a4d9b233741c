//! Which step refuses what is wrong? The unhappy paths.
//!
//! Every case asks the function that a server or client would ask, and shows its own words. One that is not refused
//! ends the lesson with an error, since then a check is missing.

use super::session::{Ends, TIME, body, decode, seal};
use super::{Chapter, Layer, Source, Step, prose};
use crate::audit::fields;
use crate::fernet::{Age, Key, base64url};
use crate::protocol::frame::{self, frame, whole};
use crate::protocol::handshake::{ClientHello, client_hello};
use crate::protocol::key_schedule::Root;
use crate::protocol::limits::MAX_HELLO;
use crate::protocol::record::{Kind, Suite};
use std::convert::Infallible;
use std::error::Error;
use std::fmt::Display;

/// What is refused before there is a session.
pub(super) fn hellos(source: Source) -> Result<Chapter, Box<dyn Error>> {
    let ends = Ends::new(Suite::Aes256Gcm, false, source);
    let first = ends.hellos()?;
    let receive = |frame: &[u8], age| ClientHello::receive(&ends.root, body(frame), age).map(drop);

    let other = Root::new(Key::from_bytes(&source.bytes("another key", 0x80)));
    let (stranger, _) = client_hello(&other, None, ends.offer(&Suite::ALL), ends.fresh("stranger", 0xc0, 0xd0, TIME));
    let forged = frame(&[&ends.root.id(), &body(&stranger)[8..]].concat());
    let (flipped, at) = flip(&first.client, 12)?;
    let hello = "client hello";
    let mut steps = vec![
        case("Wrong key", "server", "4.2", &stranger, hello, receive(&stranger, None))?,
        case("Forged hello", "server", "4.2", &forged, hello, receive(&forged, None))?,
        marked(case("Flipped bit in a hello", "server", "4.2", &flipped, hello, receive(&flipped, None))?, at),
    ];
    for (about, now) in [("Expired hello", TIME + 31), ("Future hello", TIME - 61)] {
        let result = receive(&first.client, Some(Age { now, ttl: 30 }));
        steps.push(case(about, "server", "4.2", &first.client, hello, result)?);
    }

    let reflected = frame(&body(&first.client)[8..]);
    let result = ends.begin().1.receive(body(&reflected)).map(drop);
    steps.push(case("Reflected hello", "client", "4.3", &reflected, "token frame", result)?);
    let again = ends.fresh("second client", 0xe0, 0xf0, TIME + 9);
    let (_, waiting) = client_hello(&ends.root, None, ends.offer(&Suite::ALL), again);
    let result = waiting.receive(body(&first.server)).map(drop);
    steps.push(case("Answer to another hello", "client", "4.3", &first.server, "token frame", result)?);

    let (finished, _) = first.agreed.finish(|_| Ok::<_, Infallible>(()), &mut || ends.fresh_record(0))?;
    let replayed = ClientHello::receive(&ends.root, body(&first.client), None)?;
    let (_, waiting) = replayed.answer(&ends.offer(&Suite::ALL), None, ends.fresh("second server", 0xe0, 0xf0, TIME));
    let result = waiting?.receive(&mut body(&finished).to_vec()).map(drop);
    steps.push(case("Replayed hello, and its Finished", "server", "4.4", &finished, "aes-256-gcm frame", result)?);

    let (ratcheted, waiting) = Ends::new(Suite::Aes256Gcm, true, source).begin();
    let hello = ClientHello::receive(&ends.root, body(&ratcheted), None)?;
    let (answer, _) = hello.answer(&ends.offer(&Suite::ALL), None, ends.fresh("server", 0x40, 0xb0, TIME + 2));
    let result = waiting.receive(body(&answer)).map(drop);
    steps.push(case("Ratchet disagrees", "client", "8", &answer, "token frame", result)?);

    for (about, length) in [("Oversized frame", MAX_HELLO + 1), ("Empty frame", 0)] {
        let header = frame::header(length);
        steps.push(case(about, "server", "3", &header, "token frame", whole(&header, MAX_HELLO))?);
    }
    let (id, title) = ("refused-hellos".into(), "Unhappy paths: the handshake".into());
    Ok(Chapter { id, title, about: prose("refusals"), steps })
}

/// What is refused in a session of this suite.
pub(super) fn records(suite: Suite, source: Source, truncated: &str) -> Result<Chapter, Box<dyn Error>> {
    let ends = Ends::new(suite, false, source);
    // The same two ends again for each case: a connection ends with the first record that is refused.
    let again = || ends.establish(ends.hellos()?);
    let session = again()?;
    let (mut client, mut server) = (session.client.0, session.server.0);
    let first = seal(&mut client, Kind::Message, b"Hello, World!", ends.fresh_record(2))?;
    let second = seal(&mut client, Kind::Message, b"Hello again!", ends.fresh_record(3))?;
    let reflected = seal(&mut server, Kind::Message, b"Hello, client!", ends.fresh_record(4))?;
    let step = client.rekey(&mut || ends.fresh_record(4))?;
    let (flipped, at) = match suite {
        Suite::Fernet => flip(&first, 4)?,
        Suite::Aes256Gcm => {
            let mut flipped = first.clone();
            flipped[12] ^= 1;
            (flipped, 12)
        }
    };
    let longer = frame(&[body(&first), b"A"].concat());
    let shorter = frame(&body(&first)[..body(&first).len() - 4]);
    let layout = match suite {
        Suite::Aes256Gcm => "aes-256-gcm frame",
        Suite::Fernet => "token frame",
    };

    // What arrives at a server that has just sent its Config; the last of it is to be refused.
    let open = |about, arriving: &[&[u8]]| {
        let mut opener = again()?.server.1;
        let (last, before) = arriving.split_last().ok_or("nothing arrives")?;
        for frame in before {
            opener.open(&mut body(frame).to_vec())?;
        }
        case(about, "server", "6", last, layout, opener.open(&mut body(last).to_vec()).map(drop))
    };
    let mut steps = vec![
        marked(open("Flipped bit in a record", &[&flipped])?, at),
        marked(open("Flipped bit in a length", &[&longer])?, 3),
        open("Dropped or reordered record", &[&second])?,
        open("Repeated record", &[&first, &first])?,
        open("Reflected record", &[&reflected])?,
        open("Shortened record", &[&shorter])?,
        open("Record after its Rekey", &[&first, &second, &step, &second])?,
    ];
    let half = &first[..first.len() / 2];
    let whole = whole(half, suite.max_body())?.ok_or(truncated);
    steps.push(case("Truncated record", "server", "6.2", half, "part of a frame", whole)?);
    let (id, title) = (format!("refused-records-{suite}"), format!("Unhappy paths: records, {suite}"));
    Ok(Chapter { id, title, about: prose("refusals"), steps })
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
    let Err(refusal) = result else { return Err(format!("{about}: it was not refused").into()) };
    let mut step = Step::new(about, by, section);
    step.layers = vec![Layer::new("frame", String::new(), frame, fields::frame(layout, frame))];
    step.refusal = Some(refusal.to_string());
    Ok(step)
}

/// The same with one byte marked.
fn marked(mut step: Step, at: usize) -> Step {
    step.layers.iter_mut().for_each(|layer| layer.changed = Some(at));
    step
}

/// Flips a bit of the ciphertext in the token that begins at `start`, and says which character of the frame changes.
fn flip(frame: &[u8], start: usize) -> Result<(Vec<u8>, usize), Box<dyn Error>> {
    let mut raw = decode(&frame[start..])?;
    // Base64url has three bytes in four characters; this bit of the second byte is in one of them.
    raw[31] ^= 4;
    let (mut text, length) = (vec![0; base64url::encoded_len(raw.len())], raw.len());
    let at = text.len() - length;
    text[at..].copy_from_slice(&raw);
    base64url::encode_in_place(&mut text, length);
    let flipped = [&frame[..start], &text].concat();
    let at = frame.iter().zip(&flipped).position(|(before, after)| before != after);
    Ok((flipped, at.unwrap_or(start)))
}
