//! As whom does this process run, and within which limits?

pub use super::platform::process::{
    forbid_core_dumps, keep_network_rights_only, raise_open_files, shell_status, thread_limits,
    user,
};

/// Whether the effective user is root. That does not promise every capability: a container may have
/// taken some.
pub fn is_root() -> bool {
    user() == 0
}

/// A limit on threads, by the name under which people find it.
pub struct ThreadLimit {
    /// What to change.
    pub name: &'static str,
    /// How many threads it allows.
    pub most: u64,
    /// Whether the process ends where it is reached. Otherwise a new thread is refused, and all
    /// else goes on.
    pub deadly: bool,
}

/// Overwrites what functions that have returned have left on this thread's stack. A key that is
/// moved is wiped where it ends, and not where it was before. No more than a handshake uses, since
/// each thread keeps it.
#[inline(never)]
pub fn wipe_stack() {
    std::hint::black_box(&mut [0u8; 16 * 1024]);
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn what_this_process_makes_belongs_to_its_user() {
        let path = std::env::temp_dir().join(format!("fernvpn-user-{}", std::process::id()));
        std::fs::write(&path, "").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().uid(), user());
        std::fs::remove_file(path).unwrap();
    }
}
