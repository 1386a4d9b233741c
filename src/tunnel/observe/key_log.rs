//! What opens a recording of this session? A hole in the tunnel, made on purpose, off unless it is
//! asked for.
//!
//! ```text
//!  fernvpn 1 SUITE CLIENT SERVER      one line a session: the first traffic secrets of both directions, in hexadecimal
//! ```
//!
//! Whoever has a line reads all of its session, and can forge in it while it lasts: the keys after
//! a Rekey follow from the first (PROTOCOL.md, section 5). A line opens no other session, and does
//! not give the client's key.

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
    /// It cannot be written.
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

    /// Adds a session, before its first packet, by its secrets before any Rekey. `peer` is for the
    /// log.
    pub fn add(&self, peer: &str, suite: Suite, client: &TrafficSecret, server: &TrafficSecret) {
        // One write at the end of the file, so that the lines of two threads or programs do not mix.
        // The line is not wiped: it is in a file now.
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
