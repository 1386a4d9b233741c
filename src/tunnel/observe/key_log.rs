//! What opens a recording of this session? The key log is a hole in the tunnel, made on purpose. It
//! is off unless the user asks for it.
//!
//! ```text
//!  fernvpn 1 SUITE CLIENT SERVER   one line a session: both first traffic secrets in hexadecimal
//! ```
//!
//! With a line, anybody can read all of its session, and forge records while the session lasts. The
//! keys after a Rekey follow from the first (PROTOCOL.md, section 5). A line opens no other session
//! and does not reveal the client's key.

use crate::os::{files, log};
use crate::protocol::fields::hex;
use crate::protocol::handshake::VERSION;
use crate::protocol::key_schedule::TrafficSecret;
use crate::protocol::record::Suite;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// A key log that is being written.
pub struct KeyLog(File);

impl KeyLog {
    /// Opens the key log, if there is to be one, and warns.
    ///
    /// # Errors
    /// If the file cannot be opened for writing.
    pub fn open(path: Option<&Path>) -> io::Result<Option<KeyLog>> {
        let Some(path) = path else { return Ok(None) };
        let file = files::write_secret(path, true)?;
        let shown = path.display();
        log::warning(
            "tunnel",
            "KEY LOG: WHOEVER HAS THIS FILE READS EVERY SESSION OF THIS PROGRAM",
            &[("file", &shown)],
        );
        if let Some(mode) = files::readable_by_others(&file) {
            let mode = format!("{mode:03o}");
            log::warning(
                "tunnel",
                "other users of this machine can read the key log (chmod 600)",
                &[("mode", &mode)],
            );
        }
        Ok(Some(KeyLog(file)))
    }

    /// Adds a session before its first packet. The secrets are those before any Rekey. `peer` is
    /// for the log.
    pub fn add(&self, peer: &str, suite: Suite, client: &TrafficSecret, server: &TrafficSecret) {
        // One write appends the line, so that the lines of two threads or programs do not mix. The
        // line is not wiped from memory, because it is in a file now.
        let line = format!(
            "fernvpn {VERSION} {suite} {} {}\n",
            hex(client.bytes()),
            hex(server.bytes())
        );
        match (&self.0).write_all(line.as_bytes()) {
            Ok(()) => log::warning(
                "tunnel",
                "this session's keys went to the key log",
                &[("peer", &peer)],
            ),
            Err(error) => log::warning("tunnel", "cannot write the key log", &[("reason", &error)]),
        }
    }
}
