//! The umask of Linux, and how its files are opened.

use crate::os::sys::{O_NOFOLLOW, O_NONBLOCK};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;

pub(in crate::os) use crate::os::sys::for_owner_only;

/// Opening does not wait for the other end of a FIFO.
pub(in crate::os) fn without_waiting(options: &mut OpenOptions) {
    options.custom_flags(O_NONBLOCK);
}

/// The same, and the last name may not be a link.
pub(in crate::os) fn without_waiting_or_links(options: &mut OpenOptions) {
    options.custom_flags(O_NONBLOCK | O_NOFOLLOW);
}
