//! There is no device here whose network could be looked at.

use std::io;
use std::net::IpAddr;

use crate::os::network_state::NetworkState;

/// Not here.
pub(in crate::os) fn look(_: &[u32]) -> io::Result<NetworkState> {
    Err(crate::os::unsupported("a device's network"))
}

/// Nobody can tell.
pub fn has_several_ways(_: IpAddr, _: Option<u32>) -> bool {
    false
}

/// There is no device here whose network could change.
pub fn keep(_: impl FnMut() -> bool + Send + 'static) -> io::Result<()> {
    Ok(())
}
