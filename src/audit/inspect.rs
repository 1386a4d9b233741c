//! What is in this token, and which step refuses it?
//!
//! This draws the token field by field, and then the steps of [`token`] with their verdicts. It
//! decides nothing by itself: `fernet` gives every verdict. Of a broken token it draws what can be
//! read before the fault.

use super::fields;
use crate::fernet::base64url::Base64Error;
use crate::fernet::cbc::BLOCK;
use crate::fernet::key;
use crate::fernet::token::{
    self, Age, Fernet, HEADER, MAC, MAX_CLOCK_SKEW, Token, TokenError, VERSION,
};
use crate::os::clock;
use std::fmt::Write;
use std::slice;

/// A token taken apart.
#[derive(Debug)]
pub struct Report {
    /// The drawing, for people.
    pub text: String,
    /// Why it was refused, if it was. Without a key only steps 1 and 2 are taken.
    pub refusal: Option<TokenError>,
}

/// The step of [`token::open`] that refuses for this reason, by its number.
pub fn step(refusal: TokenError) -> usize {
    match refusal {
        TokenError::Text(_) => 1,
        TokenError::Version(_) | TokenError::Length(_) => 2,
        TokenError::Mac => 3,
        TokenError::Expired | TokenError::Future => 4,
        TokenError::Padding => 6,
    }
}

/// A key that may have made the token.
pub struct Candidate {
    /// The key.
    pub key: Fernet,
    /// Which one it is, for people: `key 'alice' in vpn.key, line 1`.
    pub name: String,
    /// Whether it is the hello key of a fernvpn key: then the token is a hello, and its fields are
    /// shown.
    pub hello: bool,
}

/// Takes the token `text` apart; `now` and `ttl` are in seconds.
pub fn inspect(text: &[u8], keys: &[Candidate], now: u64, ttl: Option<u64>) -> Report {
    let mut out = String::new();
    let (raw, broken) = readable(text);
    if raw.len() == key::LENGTH && broken.is_none() {
        // Nothing of it is shown: this may be a key that is in use, and others may see the screen.
        out.push_str(
            "text: 32 bytes in base64url. This is a Fernet key and no token: show it to nobody\n",
        );
        return Report {
            text: out,
            refusal: Some(TokenError::Length(raw.len())),
        };
    }
    draw_text(&mut out, text, &raw, broken);
    draw_fields(&mut out, &raw, broken.is_none(), now);
    let verdict = verdict(text, keys, ttl.map(|ttl| Age { now, ttl }));
    draw_steps(&mut out, &verdict, keys.is_empty(), now, ttl);
    draw_hello(&mut out, &verdict);
    Report {
        text: out,
        refusal: verdict.refusal,
    }
}

/// The bytes of `text`: all of them, or those before its first fault, and that fault.
fn readable(text: &[u8]) -> (Vec<u8>, Option<Base64Error>) {
    let mut fault = match fields::decode(text) {
        Ok(bytes) => return (bytes, None),
        Err(fault) => fault,
    };
    let mut end = text.len() / 4 * 4;
    loop {
        match fields::decode(&text[..end]) {
            Ok(bytes) => return (bytes, Some(fault)),
            // A character outside the alphabet explains more than the wrong length that it causes.
            Err(Base64Error::Character(at)) => {
                (fault, end) = (Base64Error::Character(at), at / 4 * 4)
            }
            Err(_) => end -= 4,
        }
    }
}

/// What the steps said.
struct Verdict<'a> {
    refusal: Option<TokenError>,
    /// Which key made the token.
    key: Option<&'a Candidate>,
    /// What it decrypts to, with its padding, and the length of the message in it.
    padded: Vec<u8>,
    message: usize,
}

fn verdict<'a>(text: &[u8], keys: &'a [Candidate], age: Option<Age>) -> Verdict<'a> {
    let mut verdict = Verdict {
        refusal: None,
        key: None,
        padded: Vec::new(),
        message: 0,
    };
    let length = match Token::decode(&mut text.to_vec()) {
        Ok(token) => token.signed.len(),
        Err(refusal) => {
            return Verdict {
                refusal: Some(refusal),
                ..verdict
            };
        }
    };
    for candidate in keys {
        let mut buffer = text.to_vec();
        match token::open(slice::from_ref(&candidate.key), &mut buffer, age) {
            Ok(opened) => (verdict.refusal, verdict.message) = (None, opened.message.len()),
            Err(refusal) => verdict.refusal = Some(refusal),
        }
        if verdict.refusal != Some(TokenError::Mac) {
            verdict.key = Some(candidate);
            if matches!(verdict.refusal, None | Some(TokenError::Padding)) {
                verdict.padded = buffer[HEADER..length].to_vec();
            }
            break;
        }
    }
    verdict
}

fn draw_text(out: &mut String, text: &[u8], raw: &[u8], broken: Option<Base64Error>) {
    let padding = text.iter().rev().take_while(|c| **c == b'=').count();
    // Writing to a String cannot fail, here and below.
    let _ = write!(out, "text: {} characters of base64url", text.len());
    let _ = match (broken, padding) {
        (Some(fault), _) => {
            write!(
                out,
                ", BROKEN: {}\n{} bytes can be read before that",
                explain(text, fault),
                raw.len()
            )
        }
        (None, 0) if !text.len().is_multiple_of(4) => {
            write!(out, ", without its padding (accepted), {} bytes", raw.len())
        }
        (None, _) => write!(out, ", {padding} of them padding, {} bytes", raw.len()),
    };
    if let Some(hint) = hint(text, raw) {
        let _ = write!(out, "\nhint: {hint}");
    }
    out.push_str("\n\noffset bytes  field\n");
}

/// What people often have instead of a token.
fn hint(text: &[u8], raw: &[u8]) -> Option<&'static str> {
    let has = |part: &[u8]| text.windows(part.len()).any(|window| window == part);
    let end = text
        .iter()
        .position(|c| *c == b'=')
        .map_or(&[][..], |at| text[at..].trim_ascii_start());
    match text {
        [] => Some("nothing came in"),
        _ if has(b"\"") || has(b"'") => Some("quotation marks of a program came along"),
        _ if has(b"%3D") || has(b"%3d") => Some("%3D is how a URL writes '='"),
        _ if has(b".") => Some("three parts with dots are a JWT, which is another kind of token"),
        _ if text.iter().all(u8::is_ascii_hexdigit) => {
            Some("these are hexadecimal digits: a token is base64url")
        }
        _ if raw.starts_with(b"gAAAAA") => {
            Some("inside is the text of a token: it was encoded twice")
        }
        _ if end.trim_ascii_end().iter().any(|c| *c != b'=') => {
            Some("something follows the token's padding")
        }
        _ if raw.first() == Some(&VERSION)
            && raw.len() < HEADER + BLOCK + MAC
            && raw.len() + 3 > text.len() * 3 / 4 =>
        {
            Some("it was cut: a token has 73 bytes or more")
        }
        _ => None,
    }
}

/// What a hello says. Its token is no secret to the holder of the key; the ratchet secret in it
/// stays one.
fn draw_hello(out: &mut String, verdict: &Verdict) {
    if !verdict.key.is_some_and(|candidate| candidate.hello) || verdict.refusal.is_some() {
        return;
    }
    out.push_str("\na hello of fernvpn, PROTOCOL.md section 4\n");
    for line in fields::hello_message(&verdict.padded)
        .iter()
        .filter(|line| line.name != "padding")
    {
        let value = if line.name == "ratchet" {
            "ratchet=(32 secret bytes)"
        } else {
            &line.value
        };
        let _ = writeln!(out, "  {value:<80} {}", line.meaning);
    }
}

/// What is wrong with a padding.
fn misfit(padded: &[u8]) -> String {
    let last = padded.last().copied().unwrap_or(0);
    if !(1..=16).contains(&last) {
        return format!(
            "the last byte is 0x{last:02x}, where 0x01 to 0x10 would say how many to take off"
        );
    }
    let from = padded.len().saturating_sub(last.into());
    let at = (from..padded.len())
        .find(|at| padded[*at] != last)
        .unwrap_or(from);
    format!(
        "the last byte says {last} bytes of 0x{last:02x}, but decrypted byte {at} has another value"
    )
}

/// A fault of the text, with the place and what stands there.
fn explain(text: &[u8], fault: Base64Error) -> String {
    let at = match fault {
        Base64Error::Character(at) => at,
        Base64Error::Length => {
            return format!(
                "{fault}: one character is left over after groups of four, so some are missing"
            );
        }
        Base64Error::TrailingBits => {
            return format!(
                "{fault} (character {})",
                text.iter().rposition(|c| *c != b'=').unwrap_or(0)
            );
        }
    };
    let what = match text.get(at) {
        Some(b'=') => "'=' where no padding belongs, or not all of it".into(),
        Some(c @ (b'+' | b'/')) => format!(
            "'{}' belongs to plain base64; base64url has '-' and '_' instead",
            char::from(*c)
        ),
        Some(b'\r' | b'\n') => "a line end".into(),
        Some(b' ' | b'\t') => "a blank".into(),
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
        [VERSION] => "the only known version".into(),
        [_] => format!("WRONG: 0x{VERSION:02x} is the only known version"),
        _ => "MISSING".into(),
    };
    field(out, 0, version, "version", &meaning);
    let meaning = match time.try_into().map(u64::from_be_bytes) {
        Ok(time) => {
            let ahead = time > now.saturating_add(MAX_CLOCK_SKEW);
            let ahead = if ahead {
                " (too far ahead, if a time-to-live is set)"
            } else {
                ""
            };
            format!(
                "{time}: {}, {}{ahead}; anyone can read this",
                clock::utc(time),
                relation(time, now)
            )
        }
        Err(_) => cut(time, 8),
    };
    field(out, 1, time, "timestamp", &meaning);
    let meaning = if iv.len() == BLOCK {
        "random, so that no two tokens are alike".into()
    } else {
        cut(iv, BLOCK)
    };
    field(out, 9, iv, "IV", &meaning);
    if !whole {
        let meaning = "of ciphertext and HMAC; where one ends is unknown while the text is broken";
        return field(out, HEADER, rest, "the rest", meaning);
    }
    let (ciphertext, mac) = rest.split_at(rest.len().saturating_sub(MAC));
    let blocks = ciphertext.len() / BLOCK;
    let over = ciphertext.len() % BLOCK;
    let meaning = match (blocks, over) {
        (0, 0) => "MISSING: even an empty message has one block".into(),
        (1, 0) => "1 block: a message of 0 to 15 bytes".into(),
        (n, 0) => format!(
            "{n} blocks: a message of {} to {} bytes",
            (n - 1) * BLOCK,
            n * BLOCK - 1
        ),
        (n, over) => format!("WRONG: {n} whole blocks of {BLOCK} and {over} bytes over"),
    };
    field(out, HEADER, ciphertext, "ciphertext", &meaning);
    let signed = HEADER + ciphertext.len();
    let meaning = if mac.len() == MAC {
        format!("of bytes 0 to {}", signed - 1)
    } else {
        cut(mac, MAC)
    };
    field(out, signed, mac, "HMAC", &meaning);
}

/// How far `time` is from `now`: `2 days 3 hours before now`.
fn relation(time: u64, now: u64) -> String {
    let far = time.abs_diff(now);
    if far == 0 {
        return "now".into();
    }
    let parts = [
        (far / 86_400, "day"),
        (far / 3600 % 24, "hour"),
        (far / 60 % 60, "minute"),
        (far % 60, "second"),
    ];
    let words: Vec<String> = parts
        .into_iter()
        .skip_while(|(n, _)| *n == 0)
        .take(2)
        .filter(|(n, _)| *n > 0)
        .map(|(n, unit)| format!("{n} {unit}{}", if n == 1 { "" } else { "s" }))
        .collect();
    format!(
        "{} {} now",
        words.join(" "),
        if time < now { "before" } else { "after" }
    )
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
            Some(refusal) if number == refused => match refusal {
                TokenError::Mac => format!(
                    "REFUSED: {refusal}: no given key has made it, or it was changed afterwards"
                ),
                TokenError::Padding => format!("REFUSED: {refusal}: {}", misfit(&verdict.padded)),
                _ => format!("REFUSED: {refusal}"),
            },
            _ if number > refused => "not reached".into(),
            _ if keyless && number > 2 => "needs a key: -k FILE".into(),
            _ => match (
                number,
                verdict.key,
                ttl,
                verdict.padded.len() - verdict.message,
            ) {
                (3, Some(candidate), ..) => format!("ok: made with the {}", candidate.name),
                (4, _, None, _) => "not checked: no --ttl".into(),
                (4, _, Some(ttl), _) => {
                    format!("ok: the time-to-live is {ttl} s, and the time is {now}")
                }
                (6, .., padding) => {
                    format!(
                        "ok: {padding} of value 0x{padding:02x}; the message has {} bytes",
                        verdict.message
                    )
                }
                _ => "ok".into(),
            },
        };
        let _ = writeln!(out, "  {number}  {name:<33}  {said}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations() {
        assert_eq!(relation(5, 5), "now");
        assert_eq!(relation(5, 6), "1 second before now");
        assert_eq!(relation(3_661, 1), "1 hour 1 minute after now");
        assert_eq!(relation(0, 86_400 * 2), "2 days before now");
        assert_eq!(relation(0, 86_400 * 2 + 59), "2 days before now");
        assert!(relation(0, u64::MAX).starts_with("213503982334601 days"));
    }
}
