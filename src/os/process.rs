//! As which user does this process run, and within which limits?

pub use super::platform::process::{
    forbid_core_dumps, keep_network_rights_only, raise_open_files, shell_status, thread_limits,
    user,
};

/// Whether the effective user is root. Root may lack some capabilities, for example in a container.
pub fn is_root() -> bool {
    user() == 0
}

/// A limit on threads.
pub struct ThreadLimit {
    /// The name of the setting to change.
    pub name: &'static str,
    /// The number of threads that it allows.
    pub most: u64,
    /// Whether the process ends when the limit is reached. Otherwise a new thread is refused, and
    /// all others go on.
    pub deadly: bool,
}

/// Overwrites what earlier functions have left on this thread's stack. A key that is moved is wiped
/// at its last place only, not at earlier ones. It overwrites as much as a handshake uses and no
/// more, because each thread keeps that memory.
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
