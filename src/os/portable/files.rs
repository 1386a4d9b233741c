//! How is a file made for its owner alone? std cannot set the umask, nor flags whose numbers depend
//! on the system.

use std::fs::OpenOptions;

/// Only calls `make`. The caller sets the mode afterwards.
#[cfg(unix)]
pub(in crate::os) fn for_owner_only<T>(make: impl FnOnce() -> T) -> T {
    make()
}

/// Opening may wait.
pub(in crate::os) fn without_waiting(_: &mut OpenOptions) {}

/// Opening may wait, and follow a link.
pub(in crate::os) fn without_waiting_or_links(_: &mut OpenOptions) {}
