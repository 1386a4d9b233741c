//! Which user and limits does a process have? std does not know.

use std::io;

use crate::os::process::ThreadLimit;

/// The number of the user who owns what this process makes, such as a pipe.
#[cfg(unix)]
pub fn user() -> u32 {
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::MetadataExt;
    let pipe = io::pipe().map(|(reader, _)| OwnedFd::from(reader));
    let owner = pipe.and_then(|pipe| std::fs::File::from(pipe).metadata());
    owner.map_or(u32::MAX, |data| data.uid())
}

/// There are no numbers of users here.
#[cfg(not(unix))]
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
