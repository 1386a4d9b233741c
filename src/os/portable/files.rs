//! std does not reach the umask, nor flags whose numbers each system chooses.

use std::fs::OpenOptions;

/// Only makes: the caller sets the mode afterwards.
pub(in crate::os) fn for_owner_only<T>(make: impl FnOnce() -> T) -> T {
    make()
}

/// Opening may wait.
pub(in crate::os) fn without_waiting(_: &mut OpenOptions) {}

/// Opening may wait, and follow a link.
pub(in crate::os) fn without_waiting_or_links(_: &mut OpenOptions) {}
