//! There is no systemd.

use std::ffi::OsStr;
use std::io;
use std::time::Duration;

/// Not here.
pub(in crate::os) fn send(_: &OsStr, _: &str, _: Option<Duration>) -> io::Result<()> {
    Err(crate::os::unsupported("systemd"))
}
