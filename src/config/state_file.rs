//! At which step is a ratcheted key? This file is its state, PROTOCOL.md section 8.
//!
//! ```text
//!  key=cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=     K
//!  step=3
//!  secret=7b05 … (64 digits)                            r, the server's alone
//! ```
//!
//! It begins as a key file with one key, which is step 0, and gets this form with the first step.
//! One program at a time can use it: a lock on `.NAME.lock` beside it lasts as long as its
//! [`StateFile`]. Copies and backups are useless and do harm. PROTOCOL.md says what a disk may
//! still hold of an earlier state.

use super::key_file::{self, Wiped};
use crate::fernet::Key;
use crate::os::folder::{Entry, FileLock};
use crate::os::{files, reason};
use crate::protocol::fields::{self, Fields};
use hmac::digest::zeroize::{Zeroize, Zeroizing};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

/// The advice about a damaged file.
const DAMAGED: &str = "it is damaged, and both sides need a new key, alone in its file. \
                       Try: fernvpn genkey";

/// The stored state of a ratcheted key between two sessions.
#[derive(Clone, Debug)]
pub struct StoredRatchet {
    /// K.
    pub key: Key,
    /// The number of steps that it has made.
    pub step: u64,
    /// r, on the server once it has drawn one.
    pub secret: Option<Zeroizing<[u8; 32]>>,
}

/// A durable store for a state. It is a file, or in tests a memory that fails on demand.
pub trait Store: Send {
    /// Stores the new state. When this returns, the new state is durable. After an error, the store
    /// may have either.
    ///
    /// # Errors
    /// Fails if the state cannot be written.
    fn save(&mut self, state: &StoredRatchet) -> Result<(), String>;
}

impl StoredRatchet {
    /// The state in a file, which may only be read.
    ///
    /// # Errors
    /// Fails if the file cannot be read, or is damaged.
    pub fn read(file: &Path) -> Result<StoredRatchet, String> {
        let entry = Entry::find(file).map_err(|error| reason(&error));
        let wrong = |reason: String| format!("state file {}: {reason}", file.display());
        StoredRatchet::read_from(&entry.map_err(wrong)?)
    }

    fn read_from(entry: &Entry) -> Result<StoredRatchet, String> {
        let shown = entry.path();
        let wrong = |reason: String| format!("state file {}: {reason}", shown.display());
        let mut text = key_file::read_opened(shown, entry.read()).map_err(wrong)?.0;
        let kept = if text.starts_with(b"key=") {
            StoredRatchet::parse(&text).ok_or_else(|| DAMAGED.into())
        } else {
            match key_file::parse(&text).as_deref() {
                Ok([only]) => Ok(StoredRatchet {
                    key: only.key.clone(),
                    step: 0,
                    secret: None,
                }),
                Ok(_) => Err("a ratcheted key must be alone in its file".into()),
                Err((line, reason)) => Err(format!("line {line}: {reason}")),
            }
        };
        text.as_mut_slice().zeroize();
        kept.map_err(wrong)
    }

    fn parse(text: &[u8]) -> Option<StoredRatchet> {
        let fields = Fields::parse(text).ok()?;
        let secret = fields
            .value("secret")
            .map(|_| fields.hex32("secret").map(Zeroizing::new))
            .transpose();
        Some(StoredRatchet {
            key: Key::parse(fields.value("key")?).ok()?,
            step: fields.value("step")?.parse().ok()?,
            secret: secret.ok()?,
        })
    }

    fn to_text(&self) -> Wiped {
        // The capacity is enough, because growing would leave a copy behind.
        let mut text = Wiped(String::with_capacity(256));
        let mut write = |name, value| fields::write(&mut text.0, name, &Wiped(value));
        write("key", self.key.to_text());
        write("step", self.step.to_string());
        if let Some(secret) = &self.secret {
            write("secret", fields::hex(secret));
        }
        text
    }
}

/// Where a new key waits until a running server takes it up: beside the state, `.NAME.reset`.
fn waiting(path: &Path) -> io::Result<Entry> {
    Entry::find(path)?.beside(".reset")
}

/// Leaves a new key for the program that uses this state. That program takes it at its next reload
/// or start.
///
/// # Errors
/// Fails if the file for the new key cannot be made.
pub fn leave_new_key(path: &Path, key: &Key) -> Result<(), String> {
    let text = Wiped(key.to_text() + "\n");
    let left = waiting(path).and_then(|waiting| {
        // One that waits already was never used.
        let _ = waiting.remove();
        files::create_secret_at(&waiting, &text)
    });
    left.map_err(|error| error.to_string())
}

/// The key that waits for the program that uses this state.
///
/// # Errors
/// Fails if it is there and cannot be read.
pub fn new_key(path: &Path) -> Result<Option<StoredRatchet>, String> {
    let waiting = waiting(path).map_err(|error| error.to_string())?;
    if waiting.metadata().is_err() {
        return Ok(None);
    }
    StoredRatchet::read_from(&waiting).map(Some)
}

/// Removes the key that waited, because the state has it now.
pub fn forget_new_key(path: &Path) {
    let _ = waiting(path).and_then(|waiting| waiting.remove());
}

/// Why a state file cannot be opened.
#[derive(Debug)]
pub enum Unavailable {
    /// Another program uses it.
    Taken(String),
    /// It cannot be locked or read.
    Failed(String),
}

impl From<Unavailable> for String {
    fn from(reason: Unavailable) -> String {
        match reason {
            Unavailable::Taken(text) | Unavailable::Failed(text) => text,
        }
    }
}

/// A state file that this program alone may change.
pub struct StateFile {
    entry: Entry,
    _lock: FileLock,
}

impl StateFile {
    /// Locks the file and reads it.
    ///
    /// # Errors
    /// Another program uses it, or it cannot be locked or read.
    pub fn open(path: &Path) -> Result<(StateFile, StoredRatchet), Unavailable> {
        let shown = path.display();
        let failed = |error: io::Error| {
            let reason = reason(&error);
            Unavailable::Failed(format!("cannot lock state file {shown}: {reason}"))
        };
        let entry = Entry::find(path).map_err(failed)?;
        // The file may be missing, which a later step reports. Its lock has its owner.
        let like = entry.metadata().or_else(|_| entry.folder_metadata());
        let lock = entry.beside(".lock").map_err(failed)?;
        let lock = like.and_then(|like| lock.lock(&like, Duration::ZERO));
        let lock = lock.map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => Unavailable::Taken(format!(
                "another program uses {shown}: a ratcheted key belongs to one at a time ({error})"
            )),
            _ => failed(error),
        })?;
        let stored = StoredRatchet::read_from(&entry).map_err(Unavailable::Failed)?;
        Ok((StateFile { entry, _lock: lock }, stored))
    }
}

impl Store for StateFile {
    fn save(&mut self, state: &StoredRatchet) -> Result<(), String> {
        files::replace_atomically(&self.entry, state.to_text().as_bytes(), 0o600)
            .map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(secret: Option<[u8; 32]>) -> StoredRatchet {
        StoredRatchet {
            key: Key::from_bytes(&[7; 32]),
            step: 41,
            secret: secret.map(Zeroizing::new),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for secret in [None, Some([9; 32])] {
            let text = kept(secret).to_text();
            let read = StoredRatchet::parse(text.as_bytes()).unwrap();
            assert_eq!((read.key.bytes(), read.step), (&[7; 32], 41));
            assert_eq!(read.secret.map(|secret| *secret), secret);
            assert!(text.0.capacity() <= 256, "it grew, and left a copy behind");
        }
    }

    #[test]
    fn a_damaged_state_is_no_state() {
        let text = kept(Some([9; 32])).to_text();
        for end in 0..text.len() {
            // Without its last line it would be a client's state. A file is replaced as a whole,
            // never cut.
            let cut = StoredRatchet::parse(&text.as_bytes()[..end]);
            assert!(cut.is_none_or(|cut| cut.secret.is_none()), "{end}");
        }
        for wrong in [
            text.replace("step=41", "step=18446744073709551616"),
            text.replace("step=41", "step=-1"),
            text.replace("secret=09", "secret=9"),
            text.replace("key=B", "key="),
            text.replace("step", "stop"),
            format!("{}step=41\n", &*text),
        ] {
            assert!(StoredRatchet::parse(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }
}
