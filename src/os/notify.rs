//! What does systemd know of this service? What it is told here, by datagrams to `NOTIFY_SOCKET`
//! (sd_notify(3)).
//!
//! ```text
//! READY=1       a server listens; a client has made its first attempt, so that a server that is away fails no boot
//! STATUS=...    a line for people, in `systemctl status`
//! RELOADING=1   until the next READY=1
//! STOPPING=1    an orderly stop has begun
//! WATCHDOG=1    every thread that the tunnel hangs on has turned since the last one
//! ```
//!
//! A thread that panics ends the process, so what the watchdog is for are threads that stand still:
//! that wait for a lock, a program or a kernel for ever. Those that accept, that read the device,
//! and the one that keeps a client connected have a [`Heartbeat`] each. They wait no longer than
//! [`MAX_IDLE_WAIT`] where they have nothing to do. What only one of a server's clients hangs on is not
//! watched.
//!
//! Without systemd nothing of this happens.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use super::lock::{Lock, Rank, about_to_wait};
use super::log;
use super::platform::notify::send;

/// How long a watched thread that has nothing to do may wait.
pub const MAX_IDLE_WAIT: Duration = Duration::from_secs(10);

/// How long a datagram may wait for a busy systemd.
const SEND_TIME: Duration = Duration::from_secs(1);

static HEARTBEATS: Lock<Vec<Weak<Watched>>> = Lock::new(Rank::Heartbeats, Vec::new());

struct Watched {
    turned: AtomicBool,
    name: &'static str,
}

/// A thread that must not stand still. It is watched until this is dropped.
pub struct Heartbeat(Arc<Watched>);

impl Heartbeat {
    /// From now on a thread for `name` is watched.
    pub fn new(name: &'static str) -> Heartbeat {
        let beat = Arc::new(Watched {
            turned: AtomicBool::new(true),
            name,
        });
        HEARTBEATS.lock().push(Arc::downgrade(&beat));
        Heartbeat(beat)
    }

    /// It has turned once more.
    pub fn beat(&self) {
        self.0.turned.store(true, Ordering::Relaxed);
    }
}

/// Who has not turned since this was asked the last time.
fn still() -> Vec<&'static str> {
    let mut still = Vec::new();
    HEARTBEATS.lock().retain(|heartbeat| {
        let Some(beat) = heartbeat.upgrade() else {
            return false;
        };
        if !beat.turned.swap(false, Ordering::Relaxed) {
            still.push(beat.name);
        }
        true
    });
    still
}

/// Starts the watchdog, if systemd asks this process for one: it looks twice in each of systemd's
/// intervals.
pub fn watch() {
    let variable = |name| std::env::var(name).ok();
    let for_another =
        variable("WATCHDOG_PID").is_some_and(|pid| pid != std::process::id().to_string());
    let interval = variable("WATCHDOG_USEC")
        .and_then(|time| time.parse().ok())
        .map(Duration::from_micros);
    let Some(interval) = interval.filter(|_| !for_another) else {
        return;
    };
    let thread = thread::Builder::new().name("watchdog".into());
    let started = thread.spawn(move || {
        loop {
            thread::sleep(interval / 2);
            match still().as_slice() {
                [] => tell("WATCHDOG=1"),
                still => log::error(
                    "os",
                    "a thread stands still",
                    &[("threads", &still.join(","))],
                ),
            }
        }
    });
    if let Err(error) = started {
        log::warning(
            "os",
            "no thread for the watchdog, which will end this service",
            &[("reason", &error)],
        );
    }
}

/// What `systemctl status` shows.
/// It never waits: where systemd is busy, the line is left out.
pub fn status(text: impl Display) {
    let state = format!("STATUS={}", log::without_controls(&text.to_string()));
    tell_within(&state, None);
}

/// Tells systemd, if it wants to know.
pub fn tell(state: &str) {
    about_to_wait("systemd");
    tell_within(state, Some(SEND_TIME));
}

fn tell_within(state: &str, time: Option<Duration>) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send(&socket, state, time) {
        log::warning(
            "os",
            "cannot tell systemd",
            &[("what", &state), ("reason", &error)],
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stands_still_is_named_and_who_has_ended_is_not() {
        let (first, second) = (Heartbeat::new("test-first"), Heartbeat::new("test-second"));
        let ours = || {
            still()
                .into_iter()
                .filter(|name| name.starts_with("test-"))
                .collect::<Vec<_>>()
        };
        assert!(ours().is_empty());
        assert_eq!(ours(), ["test-first", "test-second"]);
        second.beat();
        assert_eq!(ours(), ["test-first"]);
        drop(first);
        assert_eq!(ours(), ["test-second"]);
    }
}
