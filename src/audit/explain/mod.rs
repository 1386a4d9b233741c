//! What happens in a session, byte by byte? The program makes this lesson from its own code.
//!
//! ```text
//!  Lesson ─> Chapter ─> Step ─┬─ Layer    bytes, cut into fields that leave none out
//!                             ├─ Value    what a derivation gives
//!                             └─ python   lines that compute both once more
//! ```
//!
//! Both ends run in memory with fixed key, time and randomness. The code of a server and a client
//! made, opened or refused everything that is shown. The sessions are those of `tests/vectors/`.
//!
//! | file | question |
//! |---|---|
//! | [`session`] | what is said when all goes well? |
//! | [`refusals`] | which step refuses what is wrong? |
//! | [`text`] | how does it look on a terminal? |
//! | [`html`] | how does it look in a browser? |

pub mod html;
pub mod refusals;
pub mod session;
pub mod text;

use crate::audit::fields::Field;
use crate::protocol::key_schedule::hkdf;
use crate::protocol::record::Suite;
use std::error::Error;

/// All of it.
#[derive(Debug)]
pub struct Lesson {
    /// The name from which all bytes are derived, if there is one.
    pub seed: Option<String>,
    /// One for each session, and one for each kind of refusal.
    pub chapters: Vec<Chapter>,
}

/// One session, or one kind of refusal.
#[derive(Debug)]
pub struct Chapter {
    /// A short name without blanks, for links.
    pub id: String,
    /// What it shows.
    pub title: String,
    /// What a reader needs to know first.
    pub about: &'static str,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// One thing that happens.
#[derive(Debug, Default)]
pub struct Step {
    /// What it is called.
    pub name: &'static str,
    /// Who does it: `client`, `server`, or `both`.
    pub by: &'static str,
    /// The section of PROTOCOL.md.
    pub section: &'static str,
    /// What happens and why.
    pub about: &'static str,
    /// The bytes, from the outermost to the innermost.
    pub layers: Vec<Layer>,
    /// What is computed beside the bytes.
    pub values: Vec<Value>,
    /// Python lines that compute the layers and values, given those of the steps before.
    pub python: String,
    /// What the client, the server and somebody who listens know after it.
    pub known: Option<[&'static str; 3]>,
    /// The reason that the code gave, if this step was refused.
    pub refusal: Option<String>,
}

impl Step {
    /// A step with the paragraph `about` of the prose. A second message of one kind
    /// has the same name.
    fn new(about: &'static str, by: &'static str, section: &'static str) -> Step {
        let name = about
            .trim_end_matches(" answered")
            .trim_end_matches(" again");
        Step {
            name,
            by,
            section,
            about: prose(about),
            ..Step::default()
        }
    }

    /// Who sends to whom, or refuses.
    fn way(&self) -> String {
        match (self.by, &self.refusal) {
            (by, Some(_)) => format!("the {by} refuses"),
            ("client", None) => "client → server".into(),
            ("server", None) => "client ← server".into(),
            _ => "both sides".into(),
        }
    }
}

/// Some bytes and their fields.
#[derive(Debug)]
pub struct Layer {
    /// What these bytes are.
    pub name: &'static str,
    /// The Python expression that computes them, or nothing.
    pub python: String,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Their fields, which leave none of them out.
    pub fields: Vec<Field>,
    /// Which of the bytes somebody has changed.
    pub changed: Option<usize>,
}

impl Layer {
    fn new(name: &'static str, python: String, bytes: &[u8], fields: Vec<Field>) -> Layer {
        Layer {
            name,
            python,
            bytes: bytes.to_vec(),
            fields,
            changed: None,
        }
    }
}

/// A value that both ends compute.
#[derive(Debug)]
pub struct Value {
    /// What it is for.
    pub meaning: &'static str,
    /// The Python expression that computes it.
    pub python: String,
    /// The value.
    pub bytes: Vec<u8>,
    /// How `derive` made it, if it did.
    pub derived: Option<Derived>,
}

/// How a value was derived: `derive(key, salt, label, n)`.
#[derive(Debug)]
pub struct Derived {
    /// The name of the key.
    pub key: String,
    /// The salt in Python: its name, or nothing.
    pub salt: String,
    /// The label.
    pub label: &'static str,
    /// The first half of the derivation: `HMAC(salt, key)`.
    pub extract: [u8; 32],
}

/// Where keys, nonces and IVs of a lesson come from. They are not random: everybody has to get the
/// same ones.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a>(pub Option<&'a str>);

impl Source<'_> {
    /// Bytes for the purpose `what`. They count up from `first`, or are derived from the name, so
    /// that each student has a session of their own.
    pub fn bytes<const N: usize>(&self, what: &str, first: u8) -> [u8; N] {
        let mut bytes = [0; N];
        match self.0 {
            None => bytes
                .iter_mut()
                .zip(0..)
                .for_each(|(byte, n)| *byte = first.wrapping_add(n)),
            Some(name) => hkdf(
                name.as_bytes(),
                &[],
                format!("fernvpn lesson {what}").as_bytes(),
                &mut bytes,
            ),
        }
        bytes
    }
}

/// The lesson for these suites. `truncated` is the tunnel's message about a connection that was
/// cut.
///
/// # Errors
/// If one end refuses what the other has made, or accepts what it must refuse. Then the program is
/// broken.
pub fn lesson(
    suites: &[Suite],
    seed: Option<&str>,
    truncated: &str,
) -> Result<Lesson, Box<dyn Error>> {
    let source = Source(seed);
    let mut chapters = Vec::new();
    for &suite in suites {
        for ratcheted in [false, true] {
            chapters.push(session::session(suite, ratcheted, source)?);
        }
    }
    chapters.push(refusals::hellos(source)?);
    for &suite in suites {
        chapters.push(refusals::records(suite, source, truncated)?);
    }
    Ok(Lesson {
        seed: seed.map(str::to_owned),
        chapters,
    })
}

/// The paragraph with this name.
fn prose(name: &str) -> &'static str {
    let all = concat!(include_str!("prose.txt"), "\n", include_str!("cases.txt"));
    let mut paragraphs = all
        .split("\n\n")
        .filter_map(|paragraph| paragraph.split_once('\n'));
    paragraphs
        .find(|(known, _)| *known == name)
        .map_or("", |(_, text)| text.trim_end())
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
