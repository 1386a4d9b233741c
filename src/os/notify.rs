//! What does systemd know of this service? This file tells it, by datagrams to `NOTIFY_SOCKET`
//! (sd_notify(3)).
//!
//! ```text
//! READY=1       a server listens, or a client has made its first attempt, successful or not
//! STATUS=...    a line for people, in `systemctl status`
//! RELOADING=1   until the next READY=1
//! STOPPING=1    an orderly stop has begun
//! WATCHDOG=1    every thread that the tunnel depends on has made a turn since the last one
//! ```
//!
//! A thread that panics ends the process. So the watchdog is for threads that stand still, because
//! they wait for a lock, a program or the kernel for ever. The threads that accept, that read the
//! device, and that keep a client connected have a [`Heartbeat`] each. They wait at most
//! [`MAX_IDLE_WAIT`] when they have nothing to do. Threads on which only one of a server's clients
//! depends are not watched.
//!
//! Without systemd, this file does nothing.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use super::lock::{Lock, Rank, about_to_wait};
use super::log;
use super::platform::notify::send;

/// How long a watched thread with nothing to do may wait.
pub const MAX_IDLE_WAIT: Duration = Duration::from_secs(10);

/// How long a datagram may wait for a busy systemd.
const SEND_TIME: Duration = Duration::from_secs(1);

static HEARTBEATS: Lock<Vec<Weak<Watched>>> = Lock::new(Rank::Heartbeats, Vec::new());

struct Watched {
    turned: AtomicBool,
    name: &'static str,
}

/// A thread that must not stand still. The watchdog watches it until this is dropped.
pub struct Heartbeat(Arc<Watched>);

impl Heartbeat {
    /// Watches a thread for `name` from now on.
    pub fn new(name: &'static str) -> Heartbeat {
        let beat = Arc::new(Watched {
            turned: AtomicBool::new(true),
            name,
        });
        HEARTBEATS.lock().push(Arc::downgrade(&beat));
        Heartbeat(beat)
    }

    /// Says that the thread has made a turn.
    pub fn beat(&self) {
        self.0.turned.store(true, Ordering::Relaxed);
    }
}

/// The threads that made no turn since the last call.
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

/// Starts the watchdog if systemd asks this process for one. It checks twice in each of systemd's
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
            "no thread for the watchdog; systemd will end this service",
            &[("reason", &error)],
        );
    }
}

/// Sets the line that `systemctl status` shows. It never waits: if systemd is busy, it leaves the
/// line out.
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
