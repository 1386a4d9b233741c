//! What do the commands for tokens do? They read stdin and write stdout, with keys from files.
//!
//! Nothing is written before the whole message has verified, so that no program acts on half a
//! message. Every refusal reads `invalid token`. The reason is for users of `inspect`, not for the
//! sender of the token. Messages are encrypted and decrypted in one buffer, a third longer than the
//! message.

use super::{Failure, passphrase, print};
use crate::audit::inspect::{self, Candidate};
use crate::config::arguments::{Arguments, UsageError};
use crate::config::key_file::{self, NamedKey};
use crate::fernet::Key;
use crate::fernet::token::{self, Age, Fernet};
use crate::os::{clock, entropy};
use crate::protocol::key_schedule::Root;
use hmac::digest::zeroize::Zeroize;
use std::io::{self, Read, Write};
use std::num::NonZeroU32;
use std::path::Path;
use std::process::ExitCode;

pub(super) fn genkey(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let key = match arguments.path("--passphrase-file") {
        Some(file) => from_passphrase(arguments, &file)?,
        None => {
            if let Some(extra) = ["--salt", "--iterations"]
                .into_iter()
                .find(|name| arguments.has(name))
            {
                return Err(UsageError(format!("{extra} belongs to --passphrase-file")).into());
            }
            let mut bytes = entropy::array();
            let key = Key::from_bytes(&bytes);
            bytes.zeroize();
            key
        }
    };
    let mut line = key.to_text().into_bytes();
    line.push(b'\n');
    let written = print(&[&line]);
    line.zeroize();
    written
}

fn from_passphrase(arguments: &Arguments, file: &Path) -> Result<Key, Failure> {
    let salt = arguments.text("--salt")?.filter(|salt| !salt.is_empty());
    let salt = salt.ok_or_else(|| UsageError("--passphrase-file needs --salt TEXT".into()))?;
    let iterations = arguments
        .number("--iterations", u32::MAX.into())?
        .unwrap_or(passphrase::ITERATIONS.into());
    let iterations = u32::try_from(iterations).ok().and_then(NonZeroU32::new);
    let iterations =
        iterations.ok_or_else(|| UsageError("--iterations must be at least 1".into()))?;
    let (mut bytes, warning) = key_file::read_secret(file)
        .map_err(|reason| format!("cannot read passphrase file {}: {reason}", file.display()))?;
    warn(warning);
    let line = bytes.split(|&c| c == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(Failure::Reason(format!(
            "the first line of {} is empty",
            file.display()
        )));
    }
    warn(Some(
        "with one recorded token, anybody can try passphrases until they find the key. \
         Only a key of fernvpn genkey cannot be guessed"
            .into(),
    ));
    let key = passphrase::derive(line, salt.as_bytes(), iterations);
    bytes.zeroize();
    Ok(key)
}

pub(super) fn encrypt(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let keys = ready(arguments)?;
    // The reader of key files refuses a file without a key.
    let key = keys.first().ok_or_else(|| "there is no key".to_string())?;
    let time = arguments
        .number("--time", u64::MAX)?
        .unwrap_or_else(clock::unix_seconds);
    let iv = entropy::array();
    let mut text = read_stdin()?;
    // The message moves to its place in the buffer that becomes the token.
    let n = text.len();
    let start = token::message_start(n);
    let len = token::sealed_len(n);
    text.try_reserve_exact(len - n)
        .map_err(|_| format!("no memory for a token of {len} bytes"))?;
    text.resize(len, 0);
    text.copy_within(..n, start);
    key.seal_in_place(&mut text, n, time, iv);
    print(&[&text, b"\n"])
}

pub(super) fn decrypt(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let keys = ready(arguments)?;
    let age = age(arguments)?;
    let mut text = read_token()?;
    let opened = token::open(&keys, &mut text, age).map_err(|_| Failure::InvalidToken)?;
    print(&[opened.message])
}

pub(super) fn rotate(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let keys = ready(arguments)?;
    let iv = entropy::array();
    let rotated = token::rotate(&keys, read_token()?, iv).map_err(|_| Failure::InvalidToken)?;
    print(&[&rotated, b"\n"])
}

pub(super) fn inspect(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let keys = if arguments.has("-k") {
        candidates(arguments)?
    } else {
        Vec::new()
    };
    let now = arguments
        .number("--now", u64::MAX)?
        .unwrap_or_else(clock::unix_seconds);
    let ttl = arguments.number("--ttl", u64::MAX)?;
    let report = inspect::inspect(&read_token()?, &keys, now, ttl);
    print(&[report.text.as_bytes()])?;
    match report.refusal {
        None => Ok(ExitCode::SUCCESS),
        Some(refusal) => Err(Failure::Reason(format!(
            "refused in step {}: {refusal}",
            inspect::step(refusal)
        ))),
    }
}

/// All keys of all key files, in order and ready for use.
fn ready(arguments: &Arguments) -> Result<Vec<Fernet>, Failure> {
    Ok(keys(arguments)?
        .iter()
        .map(|(key, _)| Fernet::new(key))
        .collect())
}

/// All keys of all key files, each with a text that identifies it. The files' warnings go to
/// stderr.
fn keys(arguments: &Arguments) -> Result<Vec<(Key, String)>, Failure> {
    let files = arguments.paths("-k");
    if files.is_empty() {
        return Err(UsageError("no key file is given. Try: -k FILE".into()).into());
    }
    let mut all = Vec::new();
    for file in files {
        let (keys, warning) = key_file::read(&file)?;
        warn(warning);
        for NamedKey { key, name, line } in keys {
            let name = name.map(|name| format!(" '{name}'")).unwrap_or_default();
            all.push((key, format!("key{name} in {}, line {line}", file.display())));
        }
    }
    Ok(all)
}

/// The keys that may have made a token: each key itself, then the hello key that fernvpn derives
/// from it.
fn candidates(arguments: &Arguments) -> Result<Vec<Candidate>, Failure> {
    let keys = keys(arguments)?;
    let plain = keys.iter().map(|(key, name)| Candidate {
        key: Fernet::new(key),
        name: name.clone(),
        hello: false,
    });
    let hello = |(key, name): &(Key, String)| {
        let key = Root::new(key.clone()).hello().clone();
        Candidate {
            key,
            name: format!("hello key of the {name}"),
            hello: true,
        }
    };
    Ok(plain.chain(keys.iter().map(hello)).collect())
}

/// The limit on a token's age, if one is set. Without it, no clock is needed.
fn age(arguments: &Arguments) -> Result<Option<Age>, Failure> {
    let now = arguments.number("--now", u64::MAX)?;
    match (arguments.number("--ttl", u64::MAX)?, now) {
        (None, None) => Ok(None),
        (None, Some(_)) => {
            Err(UsageError("--now changes nothing without --ttl SECS".into()).into())
        }
        (Some(ttl), now) => Ok(Some(Age {
            now: now.unwrap_or_else(clock::unix_seconds),
            ttl,
        })),
    }
}

fn read_stdin() -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .read_to_end(&mut bytes)
        .map_err(|error| format!("cannot read stdin: {error}"))?;
    Ok(bytes)
}

/// A token, without the one newline that may follow it.
fn read_token() -> Result<Vec<u8>, String> {
    let mut text = read_stdin()?;
    if text.last() == Some(&b'\n') {
        text.pop();
        text.pop_if(|last| *last == b'\r');
    }
    Ok(text)
}

/// Writes a warning to stderr, unless that is closed.
fn warn(warning: Option<String>) {
    if let Some(warning) = warning {
        let _ = writeln!(io::stderr(), "warning: {warning}");
    }
}
