//! Which private networks are there? There are none.

use crate::os::tun::Tun;
use std::io;

/// There are no namespaces on this system, so there is no value of this type.
#[derive(Debug)]
pub enum Namespace {}

impl Namespace {
    /// Always an error.
    pub fn create(
        _program: &str,
        _device: &str,
        _offload: bool,
        _named: Option<&str>,
    ) -> io::Result<(Namespace, Tun)> {
        Err(crate::os::unsupported("a private network"))
    }

    /// Never called.
    pub fn run(&self, _argv: &[&str]) -> io::Result<()> {
        match *self {}
    }

    /// Never called.
    pub fn command(
        &self,
        _resolvers: &[std::net::IpAddr],
        _words: &[std::ffi::OsString],
    ) -> io::Result<std::process::Command> {
        match *self {}
    }

    /// Never called.
    pub fn pid(&self) -> u32 {
        match *self {}
    }

    /// Never called.
    pub fn of_one_user(&self) -> bool {
        match *self {}
    }

    /// Never called.
    pub fn enter_command(&self) -> String {
        match *self {}
    }
}

/// Always an error.
pub fn hold() -> std::process::ExitCode {
    crate::os::log::say(format_args!(
        "fernvpn: {}",
        crate::os::unsupported("a private network")
    ));
    std::process::ExitCode::FAILURE
}

pub use hold as become_command;
