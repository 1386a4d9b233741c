//! Which TUN device is there? std has none. (A system that has one gets a folder of its own.)

use crate::os::lock::Lock;
use crate::os::tun::Woken;
use std::io;

/// There is no value of this type, so code that uses one cannot run.
#[derive(Debug)]
pub enum Tun {}

impl Tun {
    /// Whether this system has such devices. A program that needs one asks this first.
    ///
    /// # Errors
    /// It has none: what to do.
    pub fn check_system() -> io::Result<()> {
        Err(crate::os::unsupported("a TUN device"))
    }

    /// Always an error.
    pub fn create(_name: &str, _offload: bool) -> io::Result<Tun> {
        Err(crate::os::unsupported("a TUN device"))
    }

    /// Never called.
    pub fn create_again(&self) -> io::Result<()> {
        match *self {}
    }

    /// Never called.
    pub fn name(&self) -> &str {
        match *self {}
    }

    /// Never called.
    pub fn offload(&self) -> bool {
        match *self {}
    }

    /// Never called.
    pub fn read_lock(&self) -> &Lock<()> {
        match *self {}
    }

    /// Never called.
    pub fn read_now(&self, _buffer: &mut [u8]) -> io::Result<usize> {
        match *self {}
    }

    /// Never called.
    pub fn write(&self, _parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match *self {}
    }

    /// Never called.
    pub fn wait(
        &self,
        _wake: &impl Sized,
        _full: Option<&std::net::TcpStream>,
        _timeout: Option<std::time::Duration>,
    ) -> io::Result<Woken> {
        match *self {}
    }
}
