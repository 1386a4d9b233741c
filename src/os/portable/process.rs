//! std knows of no users and no limits.

use std::io;

use crate::os::process::ThreadLimit;

/// Not known here.
pub fn user() -> u32 {
    u32::MAX
}

/// Left as it is.
pub fn raise_open_files(wanted: u64) -> io::Result<u64> {
    Ok(wanted)
}

/// Not known here.
pub fn thread_limits() -> Vec<ThreadLimit> {
    Vec::new()
}

/// Left as it is.
pub fn forbid_core_dumps() -> io::Result<()> {
    Ok(())
}

/// Left as they are.
pub fn keep_network_rights_only() -> io::Result<()> {
    Ok(())
}

/// Its status.
pub fn shell_status(status: std::process::ExitStatus) -> Option<u8> {
    status.code().and_then(|number| u8::try_from(number).ok())
}
