//! Which address translation is there? There is none.

use crate::packet::subnet::Subnet;

/// This is never made.
pub struct Nat;

impl Nat {
    /// # Errors
    /// Always an error.
    pub fn begin(
        _: &str,
        _: &[Subnet],
        _: Option<&str>,
        _: &[Subnet],
        _: &[u16],
    ) -> std::io::Result<Nat> {
        Err(crate::os::unsupported("nat"))
    }

    /// # Errors
    /// Never called.
    pub fn open_to(&self, _: &[Subnet]) -> std::io::Result<()> {
        Ok(())
    }

    /// Never called.
    pub fn failure(&self) -> Option<String> {
        None
    }
}

/// There is nothing to put back.
pub fn put_back(_: &str) {}
