//! Which user, limits and rights does a process of Linux have?

use std::io;

use crate::os::process::{ThreadLimit, is_root};
use crate::os::{sys, tried};

/// The number of the effective user.
pub fn user() -> u32 {
    sys::effective_ids().0
}

/// Raises the limit on open files towards `wanted`, as far as the hard limit allows. Never lowers
/// it. Returns the current limit. Each client costs a few descriptors, and the usual soft limit is
/// 1024.
pub fn raise_open_files(wanted: u64) -> io::Result<u64> {
    let cannot = |error| tried("cannot raise the limit on open files (ulimit -n)", &error);
    let (soft, hard) = sys::open_file_limit().map_err(cannot)?;
    let raised = wanted.min(hard).max(soft);
    if raised > soft {
        sys::set_open_file_limit(raised, hard).map_err(cannot)?;
    }
    Ok(raised)
}

/// The system's limits on threads, as far as they are known. Each thread takes four memory
/// mappings: stack and signal stack, each with a guard. std ends the process if the last of them
/// fails.
pub fn thread_limits() -> Vec<ThreadLimit> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (limits, groups) = (read("/proc/self/limits"), read("/proc/self/cgroup"));
    // "Max processes  SOFT  HARD  processes", which does not hold for root
    let processes = limits.lines().find_map(|line| {
        line.strip_prefix("Max processes")?
            .split_whitespace()
            .next()
    });
    // "0::/path", or "NUMBER:pids:/path" where groups are of the older kind
    let group = |mark: &str| {
        groups
            .lines()
            .find_map(|line| line.split_once(mark))
            .map(|(_, path)| path.to_owned())
    };
    let tasks = match (group(":pids:"), group("0::")) {
        (Some(path), _) => read(&format!("/sys/fs/cgroup/pids{path}/pids.max")),
        (None, Some(path)) => read(&format!("/sys/fs/cgroup{path}/pids.max")),
        (None, None) => String::new(),
    };
    let known = |name, text: &str, each, deadly| {
        let most = text.trim().parse::<u64>().ok()? / each;
        Some(ThreadLimit { name, most, deadly })
    };
    let all = [
        known(
            "sysctl vm.max_map_count",
            &read("/proc/sys/vm/max_map_count"),
            4,
            true,
        ),
        known(
            "sysctl kernel.threads-max",
            &read("/proc/sys/kernel/threads-max"),
            1,
            false,
        ),
        known(
            "sysctl kernel.pid_max",
            &read("/proc/sys/kernel/pid_max"),
            1,
            false,
        ),
        known("TasksMax, pids.max of the control group", &tasks, 1, false),
        known(
            "ulimit -u",
            processes.filter(|_| !is_root()).unwrap_or_default(),
            1,
            false,
        ),
    ];
    all.into_iter().flatten().collect()
}

/// Forbids core dumps of this process, and debuggers of the same user, because its memory holds
/// keys. `/proc/self` then belongs to root. That does not concern a `Namespace`, which is another
/// process.
pub fn forbid_core_dumps() -> io::Result<()> {
    sys::set_dumpable(false).map_err(|error| tried("cannot forbid core dumps", &error))
}

/// Keeps the right to set up the network and gives up all others for good, also in every program
/// started from here. It must run before the first thread starts, because each thread has rights of
/// its own.
pub fn keep_network_rights_only() -> io::Result<()> {
    let kept = sys::keep_capabilities(sys::CAP_NET_ADMIN);
    kept.map_err(|error| tried("cannot give up rights that a server does not need", &error))
}

/// A program's end as a shell reports it: its status, or 128 plus the number of the signal that
/// ended it.
pub fn shell_status(status: std::process::ExitStatus) -> Option<u8> {
    use std::os::unix::process::ExitStatusExt;
    let number = status.code().or(status.signal().map(|number| 128 + number));
    number.and_then(|number| u8::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_never_falls() {
        let now = raise_open_files(0).unwrap();
        assert!(now > 0);
        assert_eq!(raise_open_files(now - 1).unwrap(), now);
        assert!(raise_open_files(u64::MAX).unwrap() >= now);
    }
}
