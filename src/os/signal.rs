//! How is fernvpn asked to stop or to reload? By a signal, and signals arrive in one thread only.
//!
//! They are blocked before the first thread starts (threads inherit the mask) and awaited by
//! whoever calls `wait`. So no code ever runs inside a signal handler, and no system call is cut
//! short by one. Programs that we start inherit the mask too: Ctrl-C does not cut a change to the
//! machine in half. A command of the user's gets its signals back (`Namespace::enter`).
//!
//! A SIGHUP that was ignored at the start (`nohup`) stays without effect when a terminal sends it,
//! which goes away then. One that somebody sends on purpose still means: reload.
//!
//! SIGPIPE is ignored by Rust's start-up code. On other systems than Linux the defaults stay:
//! Ctrl-C ends us.

pub use super::platform::signal::{block, send, wait};

/// What a person, systemd or a terminal asks for, by the numbers that kill(2) knows, and from which
/// a shell makes the status 128 + n. These four have the same numbers on every Unix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP, by custom: reload.
    Hangup = 1,
    /// SIGINT, Ctrl-C.
    Interrupt = 2,
    /// SIGQUIT, Ctrl-\.
    Quit = 3,
    /// SIGTERM, an orderly stop.
    Terminate = 15,
}

impl Signal {
    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Signal::Hangup => "SIGHUP",
            Signal::Interrupt => "SIGINT",
            Signal::Quit => "SIGQUIT",
            Signal::Terminate => "SIGTERM",
        }
    }
}
