//! std does not reach the umask.

/// Only makes: the caller sets the mode afterwards.
pub(in crate::os) fn for_owner_only<T>(make: impl FnOnce() -> T) -> T {
    make()
}
