//! What is in this token, and which step refuses it?
//!
//! A drawing of the token, field by field, then the steps of [`token`] with their verdicts. Decides nothing by itself:
//! every verdict is one that `fernet` gave. What is drawn of a broken token is what can be read before it breaks.

use super::date;
use crate::fernet::base64url::{self, Malformed};
use crate::fernet::cbc::BLOCK;
use crate::fernet::token::{self, Age, Fernet, HEADER, MAC, MAX_CLOCK_SKEW, Refusal, Token, VERSION};
use std::fmt::Write;
use std::slice;

/// What there is to say about a token.
#[derive(Debug)]
pub struct Report {
    /// For people.
    pub text: String,
    /// Why it was refused, if it was. Without a key only steps 1 and 2 are taken.
    pub refusal: Option<Refusal>,
}

/// The verifying step, as numbered in [`token::open`], that refuses for this reason.
pub fn step(refusal: Refusal) -> usize {
    match refusal {
        Refusal::Text(_) => 1,
        Refusal::Version(_) | Refusal::Length(_) => 2,
        Refusal::Mac => 3,
        Refusal::Expired | Refusal::Future => 4,
        Refusal::Padding => 6,
    }
}

/// Takes the token `text` apart. `names` say which key is which; `now` and `ttl` are in seconds.
pub fn inspect(text: &[u8], keys: &[Fernet], names: &[String], now: u64, ttl: Option<u64>) -> Report {
    let mut out = String::new();
    let (raw, broken) = readable(text);
    draw_text(&mut out, text, &raw, broken);
    draw_fields(&mut out, &raw, broken.is_none(), now);
    let verdict = verdict(text, keys, names, ttl.map(|ttl| Age { now, ttl }));
    draw_steps(&mut out, &verdict, keys.is_empty(), now, ttl);
    Report { text: out, refusal: verdict.refusal }
}

/// The bytes of `text`: all of them, or those before its first fault, and that fault.
fn readable(text: &[u8]) -> (Vec<u8>, Option<Malformed>) {
    let decode = |text: &[u8]| {
        let mut bytes = text.to_vec();
        base64url::decode_in_place(&mut bytes).map(|n| bytes[..n].to_vec())
    };
    let mut fault = match decode(text) {
        Ok(bytes) => return (bytes, None),
        Err(fault) => fault,
    };
    let mut end = text.len() / 4 * 4;
    loop {
        match decode(&text[..end]) {
            Ok(bytes) => return (bytes, Some(fault)),
            // A stray character explains more than the wrong length that it causes.
            Err(Malformed::Character(at)) => (fault, end) = (Malformed::Character(at), at / 4 * 4),
            Err(_) => end -= 4,
        }
    }
}

/// What the steps said.
struct Verdict {
    refusal: Option<Refusal>,
    /// Which key made the token.
    key: Option<String>,
    /// Lengths in bytes of the message and of its padding.
    lengths: Option<(usize, usize)>,
}

fn verdict(text: &[u8], keys: &[Fernet], names: &[String], age: Option<Age>) -> Verdict {
    let mut verdict = Verdict { refusal: None, key: None, lengths: None };
    let padded = match Token::decode(&mut text.to_vec()) {
        Ok(token) => token.signed.len() - HEADER,
        Err(refusal) => return Verdict { refusal: Some(refusal), ..verdict },
    };
    for (key, name) in keys.iter().zip(names) {
        verdict.refusal = match token::open(slice::from_ref(key), &mut text.to_vec(), age) {
            Ok(opened) => {
                verdict.lengths = Some((opened.message.len(), padded - opened.message.len()));
                None
            }
            Err(refusal) => Some(refusal),
        };
        if verdict.refusal != Some(Refusal::Mac) {
            verdict.key = Some(name.clone());
            break;
        }
    }
    verdict
}

fn draw_text(out: &mut String, text: &[u8], raw: &[u8], broken: Option<Malformed>) {
    let padding = text.iter().rev().take_while(|c| **c == b'=').count();
    // Writing to a String cannot fail, here and below.
    let _ = write!(out, "text: {} characters of base64url", text.len());
    let _ = match (broken, padding) {
        (Some(fault), _) => {
            write!(out, ", BROKEN: {}\n{} bytes can be read before that", explain(text, fault), raw.len())
        }
        (None, 0) if !text.len().is_multiple_of(4) => {
            write!(out, ", without its padding (accepted), {} bytes", raw.len())
        }
        (None, _) => write!(out, ", {padding} of them padding, {} bytes", raw.len()),
    };
    out.push_str("\n\noffset bytes  field\n");
}

/// A fault of the text, with the place and what stands there.
fn explain(text: &[u8], fault: Malformed) -> String {
    let Malformed::Character(at) = fault else {
        return match fault {
            Malformed::TrailingBits => {
                let last = text.iter().rposition(|c| *c != b'=').unwrap_or(0);
                format!("{fault} (character {last})")
            }
            _ => {
                format!("{fault}: after whole groups of four one character is left, so at least one is lost")
            }
        };
    };
    let what = match text.get(at) {
        Some(b'=') => "'=' where no padding belongs, or not all of it".into(),
        Some(c @ (b'+' | b'/')) => format!("'{}' is of plain base64; here stand '-' and '_'", char::from(*c)),
        Some(b' ' | b'\t' | b'\r' | b'\n') => "white space".into(),
        Some(c) if c.is_ascii_graphic() => format!("'{}'", char::from(*c)),
        Some(c) => format!("byte 0x{c:02x}"),
        None => "the end".into(),
    };
    format!("{fault}: {what}")
}

fn draw_fields(out: &mut String, raw: &[u8], whole: bool, now: u64) {
    let (header, rest) = raw.split_at(raw.len().min(HEADER));
    let (version, header) = header.split_at(header.len().min(1));
    let (time, iv) = header.split_at(header.len().min(8));
    let meaning = match version {
        [VERSION] => "the only version there is".into(),
        [_] => format!("WRONG: 0x{VERSION:02x} is the only version there is"),
        _ => "MISSING".into(),
    };
    field(out, 0, version, "version", &meaning);
    let meaning = match time.try_into().map(u64::from_be_bytes) {
        Ok(time) => {
            let ahead = time > now.saturating_add(MAX_CLOCK_SKEW);
            let ahead = if ahead { " (too far ahead, if a time-to-live is set)" } else { "" };
            format!("{time}: {}, {}{ahead}; anyone can read this", date::utc(time), date::relation(time, now))
        }
        Err(_) => cut(time, 8),
    };
    field(out, 1, time, "timestamp", &meaning);
    let meaning = if iv.len() == BLOCK { "random, so that no two tokens are alike".into() } else { cut(iv, BLOCK) };
    field(out, 9, iv, "IV", &meaning);
    if !whole {
        let meaning = "of ciphertext and HMAC; while the text is broken nobody can tell where one ends";
        return field(out, HEADER, rest, "the rest", meaning);
    }
    let (ciphertext, mac) = rest.split_at(rest.len().saturating_sub(MAC));
    let (blocks, over) = (ciphertext.len() / BLOCK, ciphertext.len() % BLOCK);
    let meaning = match (blocks, over) {
        (0, 0) => "MISSING: even an empty message has one block".into(),
        (1, 0) => "1 block: a message of 0 to 15 bytes".into(),
        (n, 0) => format!("{n} blocks: a message of {} to {} bytes", (n - 1) * BLOCK, n * BLOCK - 1),
        (n, over) => format!("WRONG: {n} whole blocks of {BLOCK} and {over} bytes over"),
    };
    field(out, HEADER, ciphertext, "ciphertext", &meaning);
    let signed = HEADER + ciphertext.len();
    let meaning = if mac.len() == MAC { format!("of bytes 0 to {}", signed - 1) } else { cut(mac, MAC) };
    field(out, signed, mac, "HMAC", &meaning);
}

fn cut(field: &[u8], whole: usize) -> String {
    match field.len() {
        0 => "MISSING".into(),
        n => format!("CUT: {n} of {whole} bytes"),
    }
}

/// One field: where it is, what it means, and its bytes. Of long ones the beginning and the end.
fn field(out: &mut String, offset: usize, bytes: &[u8], name: &str, meaning: &str) {
    let _ = writeln!(out, "{offset:>6} {:>5}  {name:<10}  {meaning}", bytes.len());
    let lines: Vec<&[u8]> = bytes.chunks(BLOCK).collect();
    for (number, line) in lines.iter().enumerate() {
        if lines.len() <= 12 || number < 8 || number >= lines.len() - 2 {
            let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
            let _ = writeln!(out, "{:27}{}", "", hex.join(" "));
        } else if number == 8 {
            let _ = writeln!(out, "{:27}… {} lines like these …", "", lines.len() - 10);
        }
    }
}

fn draw_steps(out: &mut String, verdict: &Verdict, keyless: bool, now: u64, ttl: Option<u64>) {
    let names = [
        "decode the text",
        "check the version and the lengths",
        "recompute the HMAC and compare",
        "check the age",
        "decrypt",
        "take off the padding",
    ];
    out.push_str("\nstep\n");
    let refused = verdict.refusal.map_or(usize::MAX, step);
    for (number, name) in (1..).zip(names) {
        let said = match verdict.refusal {
            Some(refusal) if number == refused => format!("REFUSED: {refusal}"),
            _ if number > refused => "not reached".into(),
            _ if keyless && number > 2 => "needs a key: -k FILE".into(),
            _ => match (number, &verdict.key, ttl, verdict.lengths) {
                (3, Some(key), ..) => format!("ok: made with the {key}"),
                (4, _, None, _) => "not checked: no --ttl".into(),
                (4, _, Some(ttl), _) => format!("ok: a time-to-live of {ttl} s, and now is {now}"),
                (6, .., Some((message, padding))) => {
                    format!("ok: {padding} of value 0x{padding:02x}; the message has {message} bytes")
                }
                _ => "ok".into(),
            },
        };
        let _ = writeln!(out, "  {number}  {name:<33}  {said}");
    }
}
