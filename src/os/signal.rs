//! How do people and systemd stop fernvpn or make it reload? They send a signal, and signals arrive
//! in one thread only.
//!
//! They are blocked before the first thread starts (threads inherit the mask), and the thread that
//! calls `wait` gets them. So no code runs inside a signal handler, and no signal interrupts a
//! system call. Programs that we start inherit the mask too, so Ctrl-C does not interrupt a change
//! to the machine. A command of the user gets its signals back (`Namespace::enter`).
//!
//! If SIGHUP was ignored at the start (`nohup`), it has no effect when a terminal sends it as it
//! closes. If somebody sends it on purpose, it still means: reload.
//!
//! Rust's start-up code ignores SIGPIPE. On systems other than Linux, the defaults stay, and Ctrl-C
//! ends the program.

pub use super::platform::signal::{block, send, wait};

/// The requests of a person, systemd or a terminal. The numbers are those of kill(2), from which a
/// shell makes the status 128 + n. These four have the same numbers on every Unix.
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
