//! What does this system know of a device's network? There is no device.

use std::io;
use std::net::IpAddr;

use crate::os::network_state::NetworkState;

/// Always an error.
pub(in crate::os) fn look(_: &[u32]) -> io::Result<NetworkState> {
    Err(crate::os::unsupported("a device's network"))
}

/// No system call tells.
pub fn has_several_ways(_: IpAddr, _: Option<u32>) -> bool {
    false
}

/// There is no device here whose network could change.
pub fn keep(_: impl FnMut() -> bool + Send + 'static) -> io::Result<()> {
    Ok(())
}
