//! As whom does this process run, and within which limits?

use std::io;

/// Whether the effective user is root. That does not promise every capability: a container may have taken some.
#[cfg(target_os = "linux")]
pub fn is_root() -> bool {
    super::sys::effective_ids().0 == 0
}

/// Raises the limit on open files towards `wanted`, as far as the hard limit allows, and returns what holds now.
/// Each client costs a few descriptors, and the usual soft limit is 1024. Never lowers it.
#[cfg(target_os = "linux")]
pub fn raise_open_files(wanted: u64) -> io::Result<u64> {
    let tried = |error| super::tried("cannot raise the limit on open files (ulimit -n)", &error);
    let (soft, hard) = super::sys::open_file_limit().map_err(tried)?;
    let raised = wanted.min(hard).max(soft);
    if raised > soft {
        super::sys::set_open_file_limit(raised, hard).map_err(tried)?;
    }
    Ok(raised)
}

/// How many threads a process may have before the kernel gives it no more memory mappings: each takes four, stack and
/// signal stack with a guard each, and std ends the process where the last of them fails. None if that is not known.
#[cfg(target_os = "linux")]
pub fn most_threads() -> Option<u64> {
    let mappings = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok()?;
    mappings.trim().parse::<u64>().ok().map(|mappings| mappings / 4)
}

/// No core dump of this process, and no debugger of the same user's: its memory holds keys.
/// `/proc/self` then belongs to root; a `Namespace` does not mind, since its process is another one.
#[cfg(target_os = "linux")]
pub fn forbid_core_dumps() -> io::Result<()> {
    super::sys::set_dumpable(false).map_err(|error| super::tried("cannot forbid core dumps", &error))
}

/// Keeps the right to set up the network and gives up all others, for good, here and in every program started from
/// here. Before the first thread: each thread has rights of its own.
#[cfg(target_os = "linux")]
pub fn keep_network_rights_only() -> io::Result<()> {
    let kept = super::sys::keep_capabilities(super::sys::CAP_NET_ADMIN);
    kept.map_err(|error| super::tried("cannot give up rights that a server does not need", &error))
}

/// A program's end as a shell has it: its status, or 128 and the number of the signal that ended it.
#[cfg(target_os = "linux")]
pub fn shell_status(status: std::process::ExitStatus) -> Option<u8> {
    use std::os::unix::process::ExitStatusExt;
    let number = status.code().or(status.signal().map(|number| 128 + number));
    number.and_then(|number| u8::try_from(number).ok())
}

/// Its status.
#[cfg(not(target_os = "linux"))]
pub fn shell_status(status: std::process::ExitStatus) -> Option<u8> {
    status.code().and_then(|number| u8::try_from(number).ok())
}

/// Not known here.
#[cfg(not(target_os = "linux"))]
pub fn is_root() -> bool {
    false
}

/// Left as it is.
#[cfg(not(target_os = "linux"))]
pub fn raise_open_files(wanted: u64) -> io::Result<u64> {
    Ok(wanted)
}

/// Not known here.
#[cfg(not(target_os = "linux"))]
pub fn most_threads() -> Option<u64> {
    None
}

/// Left as they are.
#[cfg(not(target_os = "linux"))]
pub fn keep_network_rights_only() -> io::Result<()> {
    Ok(())
}

/// Left as it is.
#[cfg(not(target_os = "linux"))]
pub fn forbid_core_dumps() -> io::Result<()> {
    Ok(())
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_never_falls() {
        let now = raise_open_files(0).unwrap();
        assert!(now > 0);
        assert_eq!(raise_open_files(now - 1).unwrap(), now);
        assert!(raise_open_files(u64::MAX).unwrap() >= now);
    }
}
