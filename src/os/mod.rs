//! What does fernvpn touch on my machine, and how is it put back?
//!
//! ```text
//! tun             the device: packets in and out
//! wake            ends a wait for a packet
//! socket          what the tunnel needs of a TCP socket
//! network         link, addresses, routes: each change with its undo beside it
//! network_state   what the kernel has of them, compared and kept
//! netlink         how the kernel is asked
//! forwarder       where a program goes that carries the tunnel
//! nat             a server's address translation
//! forwarding      which packets the kernel forwards, and who wanted that
//! rules           what nft is given
//! overlaps        one network on two links
//! namespace       a network of its own, which vanishes with the process
//! resolver        who resolves names: systemd-resolved, resolvconf
//! command         `ip` and similar programs, shown
//! control         a running instance is asked, by a Unix socket
//! files           secrets read, created, replaced
//! folder          the same where another user may swap names; locks between processes
//! users           may another user read a file?
//! process         user, limits, core dumps
//! signal          Ctrl-C, stop, reload
//! entropy         random bytes
//! clock           the time of day
//! log             lines on stderr
//! lock            the order of all locks
//! notify          what systemd is told
//! sys             the only `unsafe`
//! linux           the parts of these that only Linux has
//! portable        the same parts with std alone
//! ```
//!
//! Only this module knows on which system it runs, and this file chooses. `linux` and `portable`
//! have the same functions. A function that needs Linux returns an error elsewhere. So tokens,
//! `--no-tun`, `explain`, `inspect` and `capture` build and run on any system with std.
//! `--cfg fernvpn_portable` makes Linux use `portable`, to try it: `make check-portable`.
//!
//! Errors are `io::Error` with a text for people: what was tried, on what, why it failed, what to
//! do. They keep the kind of the original error, for callers that distinguish cases.

#[cfg(all(target_os = "linux", not(fernvpn_portable)))]
mod linux;
#[cfg(all(target_os = "linux", not(fernvpn_portable)))]
mod sys;
#[cfg(all(target_os = "linux", not(fernvpn_portable)))]
use linux as platform;

#[cfg(not(all(target_os = "linux", not(fernvpn_portable))))]
mod portable;
#[cfg(not(all(target_os = "linux", not(fernvpn_portable))))]
use portable as platform;

pub use platform::nat;

pub mod clock;
pub mod command;
pub mod control;
pub mod entropy;
pub mod files;
pub mod folder;
pub mod forwarder;
pub mod lock;
pub mod log;
pub mod namespace;
pub mod network;
pub mod network_state;
pub mod notify;
pub mod overlaps;
pub mod process;
pub mod resolver;
mod rules;
pub mod signal;
pub mod socket;
pub mod tun;
pub mod users;
pub mod wake;

use std::fmt::Display;
use std::io;

/// The same kind of error with the failed action in front: `cannot read alice.key: Permission
/// denied`.
fn tried(what: impl Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {}", reason(error)))
}

/// The error in words, without the number that std adds for programmers.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error")
        .map_or(text.clone(), |(words, _)| words.to_owned())
}

/// The error for functions that only Linux has.
#[cfg(not(all(target_os = "linux", not(fernvpn_portable))))]
fn unsupported(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!("{what} needs Linux; here --no-tun works"),
    )
}
