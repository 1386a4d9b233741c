//! The umask of Linux.

pub(in crate::os) use crate::os::sys::for_owner_only;
