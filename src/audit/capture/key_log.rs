//! Which keys does this key log hold? The lines that a server or client with `--keylog` writes.
//!
//! ```text
//!  fernvpn 1 SUITE CLIENT SERVER      the first traffic secrets of both directions,
//!                                     64 hexadecimal digits each
//! ```
//!
//! Empty lines and `#` comments are allowed. Lines of other programs or versions are an error:
//! without that line a session would stay closed, and nobody would learn why.

use crate::protocol::fields::Fields;
use crate::protocol::handshake::VERSION;
use crate::protocol::key_schedule::TrafficSecret;
use crate::protocol::record::Suite;

/// The keys of one session.
#[derive(Clone)]
pub struct Line {
    /// Its number in the file, from 1.
    pub number: usize,
    /// The session's suite.
    pub suite: Suite,
    /// The first traffic secrets of the client and of the server.
    pub secrets: [TrafficSecret; 2],
}

/// Reads a key log.
///
/// # Errors
/// Fails at a line that is no line of a key log. Names the line, and shows none of it.
pub fn parse(text: &[u8]) -> Result<Vec<Line>, String> {
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        let line = line.trim_ascii();
        if !line.is_empty() && !line.starts_with(b"#") {
            lines.push(parse_line(number, line).ok_or_else(|| {
                format!(
                    "line {number}: this is not 'fernvpn {VERSION} SUITE SECRET SECRET', \
                     with secrets in hexadecimal"
                )
            })?);
        }
    }
    Ok(lines)
}

fn parse_line(number: usize, line: &[u8]) -> Option<Line> {
    let words: Vec<&str> = str::from_utf8(line)
        .ok()?
        .split_ascii_whitespace()
        .collect();
    let ["fernvpn", VERSION, suite, client, server] = words[..] else {
        return None;
    };
    Some(Line {
        number,
        suite: Suite::parse(suite)?,
        secrets: [secret(client)?, secret(server)?],
    })
}

fn secret(digits: &str) -> Option<TrafficSecret> {
    let field = format!("secret={digits}\n");
    let bytes = Fields::parse(field.as_bytes()).ok()?.hex32("secret").ok()?;
    Some(TrafficSecret::from_bytes(&bytes))
}
