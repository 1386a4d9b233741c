//! Which field does a byte belong to, and what does it mean? The layouts of PROTOCOL.md as tables,
//! in `fields.txt`.
//!
//! ```text
//!  bytes    00 00 01 54 | b9 ff 34 cc 22 94 fa e3 | 67 41 41 …
//!  fields   length      | id                      | token        each byte in exactly one field
//! ```
//!
//! A table says how bytes are shown, and decides nothing: the real code has accepted or refused
//! them before. Fields are taken off the front of the bytes, so that they neither overlap nor leave
//! out a byte.

use crate::fernet::base64url::{self, Base64Error};
use crate::fernet::token::MAC;
use crate::os::clock;
use crate::protocol::record::{Form, RecordType, Suite};
use std::borrow::Cow;

/// One field of some bytes.
#[derive(Clone, Debug)]
pub struct Field {
    /// What it is called.
    pub name: Cow<'static, str>,
    /// Length in bytes, never 0.
    pub length: usize,
    /// Its value in words, or nothing.
    pub value: String,
    /// Where it is specified: a section of PROTOCOL.md, or another document.
    pub section: &'static str,
    /// What it is for.
    pub meaning: &'static str,
}

/// The fields of a frame with the layout of this name: `client hello`, `server hello`,
/// `aead frame`, `token frame`.
pub fn frame(name: &str, frame: &[u8]) -> Vec<Field> {
    Tiles::of(frame, |tiles| tiles.rows(name))
}

/// The bytes of a token's text.
///
/// # Errors
/// What is wrong with the text.
pub fn decode(text: &[u8]) -> Result<Vec<u8>, Base64Error> {
    let mut bytes = text.to_vec();
    base64url::decode_in_place(&mut bytes).map(|length| bytes[..length].to_vec())
}

/// The fields of a token's bytes.
pub fn token(raw: &[u8]) -> Vec<Field> {
    Tiles::of(raw, |tiles| {
        tiles.rows("token");
        let mut number = 0;
        while tiles.rest.len() > MAC {
            tiles.rows("token block");
            number += 1;
            if let Some(block) = tiles.fields.last_mut() {
                block.name = format!("ciphertext {number}").into();
            }
        }
        tiles.rows("token end");
    })
}

/// The fields of the message in a hello token, with its padding.
pub fn hello_message(padded: &[u8]) -> Vec<Field> {
    Tiles::of(padded, |tiles| {
        tiles.part(unpadded(padded), Tiles::lines);
        tiles.rows("padding");
    })
}

/// The fields of the message of a record, with the padding that it has in a token.
pub fn record_message(suite: Suite, padded: &[u8]) -> Vec<Field> {
    Tiles::of(padded, |tiles| match suite.form() {
        Form::Aead => tiles.record(),
        Form::Token => {
            tiles.part(unpadded(padded), |tiles| {
                tiles.rows("counter");
                tiles.record();
            });
            tiles.rows("padding");
        }
    })
}

/// Length without the padding, of which the last byte says how long it is.
pub fn unpadded(padded: &[u8]) -> usize {
    padded
        .len()
        .saturating_sub(padded.last().copied().unwrap_or(0).into())
}

/// One row of a layout.
struct Row {
    name: &'static str,
    length: &'static str,
    show: &'static str,
    section: &'static str,
    meaning: &'static str,
}

/// The rows of the layout with this name.
fn layout(name: &str) -> impl Iterator<Item = Row> {
    let head = format!("[{name}]");
    let rows = include_str!("fields.txt")
        .lines()
        .skip_while(move |line| *line != head)
        .skip(1);
    rows.take_while(|line| !line.is_empty()).filter_map(|line| {
        let mut cells = line.splitn(5, " | ");
        let name = cells.next()?;
        let length = cells.next()?;
        let show = cells.next()?;
        Some(Row {
            name,
            length,
            show,
            section: cells.next()?,
            meaning: cells.next()?,
        })
    })
}

/// Bytes that are cut into fields from the front.
struct Tiles<'a> {
    rest: &'a [u8],
    fields: Vec<Field>,
}

impl<'a> Tiles<'a> {
    /// The fields of all of `bytes`. What `cut` leaves over is a field that says so.
    fn of(bytes: &'a [u8], cut: impl FnOnce(&mut Tiles<'a>)) -> Vec<Field> {
        let mut tiles = Tiles {
            rest: bytes,
            fields: Vec::new(),
        };
        cut(&mut tiles);
        tiles.rows("left over");
        tiles.fields
    }

    /// The next `length` bytes, cut by themselves: a field that takes the rest ends where they end.
    fn part(&mut self, length: usize, cut: impl FnOnce(&mut Tiles<'a>)) {
        let (part, after) = self.rest.split_at(length.min(self.rest.len()));
        self.fields.extend(Tiles::of(part, cut));
        self.rest = after;
    }

    /// The fields of a layout. A field without bytes is left out.
    fn rows(&mut self, name: &str) {
        for row in layout(name) {
            let length = match row.length.strip_prefix('*') {
                Some(but) => self
                    .rest
                    .len()
                    .saturating_sub(but.trim_start_matches('-').parse().unwrap_or(0)),
                None => self.rest.len().min(row.length.parse().unwrap_or(0)),
            };
            self.row(&row, length);
        }
    }

    fn row(&mut self, row: &Row, length: usize) {
        let (bytes, after) = self.rest.split_at(length);
        let Row {
            name,
            section,
            meaning,
            ..
        } = *row;
        if length > 0 {
            self.fields.push(Field {
                name: name.into(),
                length,
                value: shown(bytes, row.show),
                section,
                meaning,
            });
        }
        self.rest = after;
    }

    /// Lines of `name=value`, each a field with its line feed.
    fn lines(&mut self) {
        for line in self.rest.split_inclusive(|byte| *byte == b'\n') {
            let name = line.split(|byte| *byte == b'=').next().unwrap_or_default();
            // The last row is for unknown names.
            let row = layout("lines").find(|row| [name, b"unknown"].contains(&row.name.as_bytes()));
            row.iter().for_each(|row| self.row(row, line.len()));
        }
    }

    /// A record's type and content.
    fn record(&mut self) {
        let kind = self.rest.first().copied().unwrap_or(0);
        self.rows("type");
        match RecordType::from_byte(kind) {
            Some(RecordType::Config) => self.lines(),
            Some(RecordType::Packets) => {
                while let Some((length, _)) = self.rest.split_first_chunk::<2>() {
                    let length = u16::from_be_bytes(*length).into();
                    self.rows("packet length");
                    self.part(length, Tiles::packet);
                }
            }
            Some(RecordType::SuperPacket) => {
                self.rows("4");
                self.packet();
            }
            _ => self.rows(&kind.to_string()),
        }
    }

    /// An IP packet; its headers, if they are plain.
    fn packet(&mut self) {
        if let [0x45, _, _, _, _, _, _, _, _, protocol @ (1 | 6), ..] = self.rest {
            self.rows("IPv4");
            self.rows(&format!("protocol {protocol}"));
        }
        self.rows("packet");
    }
}

/// The name of a type of records.
pub fn name_of(kind: u8) -> String {
    match RecordType::from_byte(kind) {
        Some(kind) => format!("{kind:?}"),
        None => "unknown".into(),
    }
}

/// The value of bytes, in words.
fn shown(bytes: &[u8], show: &str) -> String {
    let number = bytes
        .iter()
        .fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    match (show, bytes) {
        ("number", _) => number.to_string(),
        ("time", _) => format!("{number}: {}", clock::utc(number)),
        ("type", [kind]) => format!("{kind}: {}", name_of(*kind)),
        ("address", [a, b, c, d]) => format!("{a}.{b}.{c}.{d}"),
        ("text", _) if bytes.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n')) => {
            String::from_utf8_lossy(bytes)
                .trim_end_matches('\n')
                .to_owned()
        }
        _ => String::new(),
    }
}
