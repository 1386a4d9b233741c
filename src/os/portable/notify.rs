//! How does a datagram get to systemd? There is none.

use std::ffi::OsStr;
use std::io;
use std::time::Duration;

/// Always an error.
pub(in crate::os) fn send(_: &OsStr, _: &str, _: Option<Duration>) -> io::Result<()> {
    Err(crate::os::unsupported("systemd"))
}
