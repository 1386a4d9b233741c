//! Which keys are in this file?
//!
//! ```text
//!  # keys of the laptops
//!  cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=   # alice
//!  1xQfD8xYGmV1iX4GfZ2OQjT3gAa7K2i5W1Yb8p3ZxGs=
//! ```
//!
//! Each line has one key. Empty lines, comments, surrounding blanks, CRLF and a last line without
//! an end are allowed. The comment after a key is its name. An error names the file and the line,
//! and never shows any of the key.

use super::arguments::{is_key, key_on_the_command_line};
use super::mistakes::foreign_key;
use crate::fernet::Key;
use crate::os::{files, folder, reason};
use hmac::digest::zeroize::Zeroize;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Deref;
use std::path::Path;

/// The most bytes of a key file, so that `-k /dev/zero` ends with a message.
const MAX_FILE: u64 = 16 << 20;
/// Why a file with a secret cannot be read, as a text for people.
const NOT_ALLOWED: &str = "permission denied (the user who runs fernvpn must be able to read it; a \
                           running server of root reads only files of root)";

/// A key and where it was found.
#[derive(Clone, Debug)]
pub struct NamedKey {
    /// The key.
    pub key: Key,
    /// The comment after it, if there is one.
    pub name: Option<String>,
    /// Its line in the file, from 1.
    pub line: usize,
}

/// A text that may contain a key. It is wiped when dropped.
pub struct Wiped(pub String);

impl Deref for Wiped {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        std::mem::take(&mut self.0).into_bytes().zeroize();
    }
}

/// The keys of a file, at least one, and a warning if it is too open.
///
/// # Errors
/// Fails if the file cannot be read, has no key, or has a line that is not a key. Names the file.
pub fn read(file: &Path) -> Result<(Vec<NamedKey>, Option<String>), String> {
    // A name that is itself a key must not be shown.
    let shown = if is_key(file.as_os_str()) {
        "(not shown)".into()
    } else {
        file.display().to_string()
    };
    let cannot_read = |reason: &str| format!("cannot read key file {shown}: {reason}");
    let (mut bytes, warning) = read_secret(file).map_err(|reason| cannot_read(&reason))?;
    let keys = parse(&bytes);
    bytes.zeroize();
    match keys {
        Ok(keys) if keys.is_empty() => Err(cannot_read("it holds no key. Try: fernvpn genkey")),
        Ok(keys) => Ok((keys, warning)),
        Err((line, reason)) => Err(format!("key file {shown}, line {line}: {reason}")),
    }
}

/// All bytes of a file with a secret, and a warning if others can read it.
///
/// # Errors
/// The reason, for people.
pub fn read_secret(file: &Path) -> Result<(Vec<u8>, Option<String>), String> {
    read_opened(file, folder::open_named(file))
}

/// The same for a file that was opened already, or was not.
pub(super) fn read_opened(
    file: &Path,
    opened: io::Result<File>,
) -> Result<(Vec<u8>, Option<String>), String> {
    let explain = |error: io::Error| match error.kind() {
        _ if is_key(file.as_os_str()) => key_on_the_command_line().to_string(),
        io::ErrorKind::PermissionDenied => NOT_ALLOWED.into(),
        io::ErrorKind::NotFound => "there is no such file".into(),
        _ => reason(&error),
    };
    let open = opened.map_err(explain)?;
    let warning = too_open(file, &open);
    let size = open.metadata().map_or(0, |data| data.len()).min(MAX_FILE);
    // The buffer is allocated once, because growing would leave a copy behind.
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    open.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(explain)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("more than {} MiB", MAX_FILE >> 20));
    }
    Ok((bytes, warning))
}

/// The keys of a text.
///
/// # Errors
/// The first line that is not a key, and why.
pub fn parse(text: &[u8]) -> Result<Vec<NamedKey>, (usize, String)> {
    // Some editors begin a file with this mark.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut keys = Vec::new();
    for (number, line) in (1..).zip(text.split(|&c| c == b'\n')) {
        let line = std::str::from_utf8(line).map_err(|_| {
            (
                number,
                "this is not UTF-8 text (old PowerShells write UTF-16). Try: save the file as UTF-8"
                    .to_string(),
            )
        })?;
        let (key, comment) = line.split_once('#').unwrap_or((line, ""));
        let key = key.trim();
        let comment = comment.trim();
        if key.is_empty() {
            continue;
        }
        let key = parse_key(key).map_err(|reason| (number, reason))?;
        let name = if comment.is_empty() {
            None
        } else {
            Some(comment.to_string())
        };
        keys.push(NamedKey {
            key,
            name,
            line: number,
        });
    }
    Ok(keys)
}

/// Reads one key with blanks around it.
pub(super) fn parse_key(text: &str) -> Result<Key, String> {
    let reason = match Key::parse(text.trim()) {
        Ok(key) => return Ok(key),
        Err(reason) => reason,
    };
    let advice = match foreign_key(text) {
        "" => String::new(),
        advice => format!("; {advice}"),
    };
    Err(format!(
        "{reason}{advice}; a key is what fernvpn genkey prints, 44 characters of \
         A-Z a-z 0-9 - _ =, then perhaps # and a name"
    ))
}

/// A warning if the group or others can read the file. The modes of pipes and devices mean
/// something else.
fn too_open(file: &Path, open: &File) -> Option<String> {
    let mode = files::readable_by_others(open)?;
    let name = file.display();
    let command = files::command_to_close(file);
    Some(format!(
        "others can read the secret in {name} (mode {mode:04o}). Try: {command}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";
    const B: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    #[test]
    fn blanks_comments_names_and_line_ends() {
        let text = format!("\u{feff}# two keys\r\n\r\n \t{A}  # alice #1 \r\n   # none here\n{B}");
        let keys = parse(text.as_bytes()).expect("two keys");
        assert_eq!(keys.len(), 2);
        assert_eq!(keys[0].key.to_text(), A);
        assert_eq!(
            (keys[0].name.as_deref(), keys[0].line),
            (Some("alice #1"), 3)
        );
        assert_eq!(keys[1].key.to_text(), B);
        assert_eq!((keys[1].name.as_deref(), keys[1].line), (None, 5));
        assert_eq!(
            parse(format!("{A}#x\n").as_bytes()).expect("one")[0]
                .name
                .as_deref(),
            Some("x")
        );
        assert_eq!(
            parse(format!("{A}#\n").as_bytes()).expect("one")[0].name,
            None
        );
        assert_eq!(
            parse(A.trim_end_matches('=').as_bytes())
                .expect("no padding")
                .len(),
            1
        );
        assert!(parse(b"").expect("none").is_empty());
    }

    #[test]
    fn an_error_has_its_line_and_nothing_of_the_key() {
        for bad in [
            &A[1..],
            &format!("{A}{A}"),
            &format!("{A} {B}"),
            &A.replace('_', "/"),
            &format!("alice {A}"),
        ] {
            let (line, reason) = parse(format!("\n{B}\n{bad}\n").as_bytes()).expect_err(bad);
            assert_eq!(line, 3);
            assert!(reason.starts_with("not a key: "), "{reason}");
            assert!(!reason.contains(&A[5..10]), "{reason}");
        }
        let (line, reason) =
            parse(&[b"\n\xff\xfe".as_slice(), A.as_bytes()].concat()).expect_err("UTF-16");
        assert_eq!(line, 2);
        assert!(reason.contains("UTF-8"));
    }
}
