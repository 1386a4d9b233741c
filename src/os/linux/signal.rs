//! How does a thread wait for signals on Linux? They are blocked, and then awaited by number.

use std::io;
use std::sync::OnceLock;

use crate::os::signal::Signal;
use crate::os::{sys, tried};

/// The numbers of all of `Signal`.
pub(super) const AWAITED: &[i32] = &[1, 2, 3, 15];

/// Whether SIGHUP was ignored when this process started.
static IGNORES_HANGUP: OnceLock<bool> = OnceLock::new();

/// Whether a process ignores SIGHUP, by the text of its `/proc/PID/status`.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 != 0) // signal n is bit n - 1
}

/// Blocks the four signals, so that `wait` gets them. Call it first in `main`, before any thread. A
/// thread that started earlier would still take them, and by default they end the process.
pub fn block() -> io::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    IGNORES_HANGUP.get_or_init(|| ignores_hangup(&status));
    sys::block_signals(AWAITED).map_err(|error| tried("cannot block signals", &error))
}

/// Waits for the next signal, without a limit. Returns also whether the terminal sent it (Ctrl-C).
/// In that case, a command in the same terminal has got it as well.
pub fn wait() -> (Signal, bool) {
    loop {
        // This only fails if a stop and a continuation of this process (Ctrl-Z, fg) interrupt the
        // wait.
        let Ok((number, by_terminal)) = sys::wait_for_signal(AWAITED) else {
            continue;
        };
        match from_number(number) {
            Some(Signal::Hangup) if by_terminal && IGNORES_HANGUP.get() == Some(&true) => {}
            Some(signal) => return (signal, by_terminal),
            None => {}
        }
    }
}

fn from_number(number: i32) -> Option<Signal> {
    use Signal::{Hangup, Interrupt, Quit, Terminate};
    [Hangup, Interrupt, Quit, Terminate]
        .into_iter()
        .find(|signal| *signal as i32 == number)
}

/// Sends a signal to a process of ours, such as the command that runs in a private network.
pub fn send(pid: u32, signal: Signal) -> io::Result<()> {
    // 0 and negative numbers stand for groups of processes.
    let target = i32::try_from(pid)
        .ok()
        .filter(|&pid| pid > 0)
        .ok_or(io::ErrorKind::InvalidInput)?;
    sys::send_signal(target, signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// libtest's own threads would take the signal and end the run. So this test runs again in a
    /// process of its own, started from a thread that has blocked signals. All threads there
    /// inherit the mask.
    #[test]
    fn a_blocked_signal_waits_to_be_fetched() {
        if std::env::var_os("FERNVPN_TEST_SIGNAL").is_some() {
            return assert_eq!(
                [wait(), wait()],
                [(Signal::Hangup, false), (Signal::Terminate, false)]
            );
        }
        block().unwrap();
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "os::linux::signal::tests::a_blocked_signal_waits_to_be_fetched",
            ])
            .env("FERNVPN_TEST_SIGNAL", "1")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // Both signals may be pending before the wait. The lower number comes first.
        send(child.id(), Signal::Hangup).unwrap();
        send(child.id(), Signal::Terminate).unwrap();
        let done = child.wait_with_output().unwrap();
        assert!(
            done.status.success() && String::from_utf8_lossy(&done.stdout).contains("1 passed")
        );
    }

    #[test]
    fn an_ignored_hangup_is_seen() {
        assert!(ignores_hangup("Name:\tx\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup(
            "SigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\n"
        ));
        assert!(!ignores_hangup(""));
    }

    #[test]
    fn nobody_signals_a_group_by_mistake() {
        assert!(send(0, Signal::Hangup).is_err() && send(u32::MAX, Signal::Hangup).is_err());
        assert_eq!(from_number(9), None);
    }
}
