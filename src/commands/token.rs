//! The commands for tokens: stdin to stdout, keys from files.
//!
//! Nothing is written before all of it is known to be right, so that no program ever acts on half a message. Any
//! refusal reads `invalid token`: the reason is for those who ask `inspect`, not for whoever sent the token.
//! Messages are encrypted and decrypted where they were read: one buffer, a third longer than the message.

use super::passphrase;
use super::{Command, Failure};
use crate::audit::inspect::{self, Candidate};
use crate::config::arguments::{Arguments, Known, Syntax, UsageError};
use crate::config::key_file::{self, NamedKey};
use crate::fernet::Key;
use crate::fernet::token::{self, Age, Fernet};
use crate::os::entropy;
use crate::protocol::key_schedule::Root;
use hmac::digest::zeroize::Zeroize;
use std::io::{self, Read, Write};
use std::num::NonZeroU32;
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// `fernvpn genkey`
pub const GENKEY: Command = Command {
    name: "genkey",
    summary: "prints a new key",
    usage: "[--passphrase-file FILE --salt TEXT [--iterations N]]",
    syntax: Syntax {
        options: &[
            Known::value("--passphrase-file", "FILE", "derive the key from the first line of FILE instead"),
            Known::value("--salt", "TEXT", "not secret, but never the same for two purposes; UTF-8"),
            Known::value("--iterations", "N", "of PBKDF2-HMAC-SHA256; 1200000 unless you say otherwise"),
        ],
        operands: &[],
        command: false,
    },
    notes: "\
A key is 32 bytes from the system's random generator, written as every Fernet library writes a key.
Keep it in a file that only you can read:

  (umask 077; fernvpn genkey > vpn.key)

A key from a passphrase can be guessed, offline and for years, by anybody who has recorded one token or
one connection. Use it only to agree with another program that does; otherwise let the key be random.",
    run: genkey,
};

/// `fernvpn encrypt`
pub const ENCRYPT: Command = Command {
    name: "encrypt",
    summary: "makes a token of what comes in on stdin",
    usage: "-k FILE [--time UNIX]",
    syntax: Syntax {
        options: &[
            Known::value("-k", "FILE", "key file; the first key in it is used"),
            Known::value("--time", "UNIX", "the timestamp, in seconds since 1970, instead of the clock's"),
        ],
        operands: &[],
        command: false,
    },
    notes: "\
Prints the token and a newline. A token shows everybody when it was made and about how long its message
is (to 16 bytes); the rest is hidden.",
    run: encrypt,
};

/// `fernvpn decrypt`
pub const DECRYPT: Command = Command {
    name: "decrypt",
    summary: "turns a token from stdin back into its message",
    usage: "-k FILE [-k FILE ...] [--ttl SECS [--now UNIX]]",
    syntax: Syntax { options: &[KEYS, TTL, NOW], operands: &[], command: false },
    notes: "\
One newline (LF or CRLF) may follow the token. All keys of all files are tried in order. A refused token
gives 'invalid token', exit status 1 and nothing on stdout; fernvpn inspect tells why.

Without --ttl the timestamp is not looked at. With it, a token is good until its timestamp plus SECS, that
second included, and not if it is from more than 60 seconds in the future.",
    run: decrypt,
};

/// `fernvpn rotate`
pub const ROTATE: Command = Command {
    name: "rotate",
    summary: "re-encrypts a token from stdin under a new key, with its old timestamp",
    usage: "-k NEW -k OLD [-k OLD ...]",
    syntax: Syntax { options: &[KEYS], operands: &[], command: false },
    notes: "\
The token may have been made with any of the keys; the first key of the first file makes the new one. Its
IV is new, its timestamp is the old one, so that rotating makes no token younger.",
    run: rotate,
};

/// `fernvpn inspect`
pub const INSPECT: Command = Command {
    name: "inspect",
    summary: "takes a token from stdin apart, field by field",
    usage: "[-k FILE ...] [--ttl SECS] [--now UNIX]",
    syntax: Syntax { options: &[KEYS, TTL, NOW], operands: &[], command: false },
    notes: "\
Needs no key: offsets, bytes, meaning, time. With a key it also takes each verifying step and says how it
ended. The message itself is never shown; that is what decrypt is for. A hello of fernvpn, the token behind
the first 8 bytes of a ClientHello or the whole ServerHello, is recognised by the key of its client, and its
lines are shown, but for the ratchet secret.

Exit status 0 if the token could be taken apart completely and, with a key, every step succeeded; otherwise 1
and the refusal on stderr. Unlike the other commands it prints on stdout even then: everything about the
broken token that can be told.",
    run: inspect,
};

const KEYS: Known = Known::list("-k", "FILE", "key file; all its keys, in order");
const TTL: Known = Known::value("--ttl", "SECS", "how old the token may be");
const NOW: Known = Known::value("--now", "UNIX", "the time now, in seconds since 1970, instead of the clock's");

fn genkey(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let key = match arguments.path("--passphrase-file") {
        Some(file) => from_passphrase(arguments, &file)?,
        None => {
            if let Some(extra) = ["--salt", "--iterations"].into_iter().find(|name| arguments.has(name)) {
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
    let written = write_stdout(&[&line]);
    line.zeroize();
    written
}

fn from_passphrase(arguments: &Arguments, file: &Path) -> Result<Key, Failure> {
    let salt = arguments.text("--salt")?.filter(|salt| !salt.is_empty());
    let salt = salt.ok_or_else(|| UsageError("--passphrase-file needs --salt TEXT".into()))?;
    let iterations = arguments.number("--iterations", u32::MAX.into())?.unwrap_or(passphrase::ITERATIONS.into());
    let iterations = u32::try_from(iterations).ok().and_then(NonZeroU32::new);
    let iterations = iterations.ok_or_else(|| UsageError("--iterations must be at least 1".into()))?;
    let (mut bytes, warning) = key_file::read_secret(file)
        .map_err(|reason| format!("cannot read passphrase file {}: {reason}", file.display()))?;
    warn(warning);
    let line = bytes.split(|&c| c == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(Failure::Reason(format!("the first line of {} is empty", file.display())));
    }
    warn(Some(
        "a key from a passphrase can be guessed offline from one recorded token; fernvpn genkey alone \
         makes one that cannot"
            .into(),
    ));
    let key = passphrase::derive(line, salt.as_bytes(), iterations);
    bytes.zeroize();
    Ok(key)
}

fn encrypt(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let keys = ready(arguments)?;
    // A key file without a key is an error already.
    let key = keys.first().ok_or_else(|| "there is no key".to_string())?;
    let time = match arguments.number("--time", u64::MAX)? {
        Some(time) => time,
        None => clock()?,
    };
    let iv = entropy::array();
    let mut text = read_stdin()?;
    // The message moves to its place in the buffer that becomes the token.
    let (n, start) = (text.len(), token::message_start(text.len()));
    let len = token::sealed_len(n);
    text.try_reserve_exact(len - n).map_err(|_| format!("no memory for a token of {len} bytes"))?;
    text.resize(len, 0);
    text.copy_within(..n, start);
    key.seal_in_place(&mut text, n, time, iv);
    write_stdout(&[&text, b"\n"])
}

fn decrypt(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let keys = ready(arguments)?;
    let age = age(arguments)?;
    let mut text = read_token()?;
    let opened = token::open(&keys, &mut text, age).map_err(|_| Failure::InvalidToken)?;
    write_stdout(&[opened.message])
}

fn rotate(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let keys = ready(arguments)?;
    let iv = entropy::array();
    let rotated = token::rotate(&keys, read_token()?, iv).map_err(|_| Failure::InvalidToken)?;
    write_stdout(&[&rotated, b"\n"])
}

fn inspect(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let keys = if arguments.has("-k") { candidates(arguments)? } else { Vec::new() };
    let now = match arguments.number("--now", u64::MAX)? {
        Some(now) => now,
        None => clock()?,
    };
    let ttl = arguments.number("--ttl", u64::MAX)?;
    let report = inspect::inspect(&read_token()?, &keys, now, ttl);
    write_stdout(&[report.text.as_bytes()])?;
    match report.refusal {
        None => Ok(ExitCode::SUCCESS),
        Some(refusal) => Err(Failure::Reason(format!("refused in step {}: {refusal}", inspect::step(refusal)))),
    }
}

/// All keys of all key files, in order and made ready.
fn ready(arguments: &Arguments) -> Result<Vec<Fernet>, Failure> {
    Ok(keys(arguments)?.iter().map(|(key, _)| Fernet::new(key)).collect())
}

/// All keys of all key files, each with the words that say which one it is, and the files' warnings on stderr.
fn keys(arguments: &Arguments) -> Result<Vec<(Key, String)>, Failure> {
    let files = arguments.paths("-k");
    if files.is_empty() {
        return Err(UsageError("a key file is needed: -k FILE".into()).into());
    }
    let mut all = Vec::new();
    for file in files {
        let (keys, warning) = key_file::read(&file).map_err(|error| error.to_string())?;
        warn(warning);
        for NamedKey { key, name, line } in keys {
            let name = name.map(|name| format!(" '{name}'")).unwrap_or_default();
            all.push((key, format!("key{name} in {}, line {line}", file.display())));
        }
    }
    Ok(all)
}

/// What may have made a token: each key as it is, and then the hello key that fernvpn derives from each.
fn candidates(arguments: &Arguments) -> Result<Vec<Candidate>, Failure> {
    let keys = keys(arguments)?;
    let plain = keys.iter().map(|(key, name)| Candidate { key: Fernet::new(key), name: name.clone(), hello: false });
    let hello = |(key, name): &(Key, String)| {
        let key = Root::new(key.clone()).hello().clone();
        Candidate { key, name: format!("hello key of the {name}"), hello: true }
    };
    Ok(plain.chain(keys.iter().map(hello)).collect())
}

/// The limit on a token's age, if one is set. Without it no clock is needed.
fn age(arguments: &Arguments) -> Result<Option<Age>, Failure> {
    let now = arguments.number("--now", u64::MAX)?;
    match (arguments.number("--ttl", u64::MAX)?, now) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(UsageError("--now changes nothing without --ttl SECS".into()).into()),
        (Some(ttl), Some(now)) => Ok(Some(Age { now, ttl })),
        (Some(ttl), None) => Ok(Some(Age { now: clock()?, ttl })),
    }
}

/// Seconds since 1970.
fn clock() -> Result<u64, String> {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => Ok(since.as_secs()),
        Err(_) => Err("the clock of this machine is before 1970: set it, or give the time as UNIX seconds".into()),
    }
}

fn read_stdin() -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes).map_err(|error| format!("cannot read stdin: {error}"))?;
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

fn write_stdout(parts: &[&[u8]]) -> Result<ExitCode, Failure> {
    let mut stdout = io::stdout().lock();
    let written = parts.iter().try_for_each(|part| stdout.write_all(part)).and_then(|()| stdout.flush());
    written.map_err(|error| format!("cannot write to stdout: {error}"))?;
    Ok(ExitCode::SUCCESS)
}

/// A warning goes to stderr; if that is closed, to nobody.
fn warn(warning: Option<String>) {
    if let Some(warning) = warning {
        let _ = writeln!(io::stderr(), "warning: {warning}");
    }
}
