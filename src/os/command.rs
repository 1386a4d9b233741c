//! How does fernvpn change the machine? It runs the program that an administrator would run, and
//! shows the command.
//!
//! Each command line is printed before it runs, in a form that can be typed. No shell is involved:
//! the words go to the program as they are. The program's text on stderr becomes the error.

use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::log::{self, RateLimitedLog};

/// How often this checks whether a program has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(1);
/// The longest time that a command may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The Debian package that has a program.
const PACKAGES: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("resolvectl", "systemd-resolved"),
    ("resolvconf", "openresolv"),
    ("sysctl", "procps"),
    ("modprobe", "kmod"),
    ("mount", "mount"),
    ("nsenter", "util-linux"),
];

/// The folders in which Debian has them.
const SYSTEM_PATH: &str = "/usr/sbin:/sbin:/usr/bin:/bin";

/// Runs `argv`, waits for its end, and reports a failure in its own words.
pub fn run(argv: &[&str]) -> io::Result<()> {
    run_prepared(&mut prepare(argv)?, "")
}

/// The same with `input` on its stdin.
pub fn run_with_input(argv: &[&str], input: &str) -> io::Result<()> {
    let mut command = prepare(argv)?;
    let quoted = line(&prepare(&["printf", &input.replace('\n', r"\n")])?);
    let shown = format!("{quoted} | {}", line(&command));
    log::command(&shown);
    finished(&mut command, &shown, input)
}

/// Where a program is, if it is installed.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = search_path();
    let places = path
        .split(':')
        .map(|folder| PathBuf::from(folder).join(program));
    places.into_iter().find(|place| place.is_file())
}

/// Runs `argv`, which may have nothing to do. If it did something, shows it and returns true.
pub fn attempt(argv: &[&str]) -> bool {
    let Ok(mut command) = prepare(argv) else {
        return false;
    };
    let did = output(&mut command, "").is_ok_and(|output| output.status.success());
    if did {
        log::command(&line(&command));
    }
    did
}

/// The limit on lines about repairs, so that a program which undoes each at once fills no disk.
static REPAIRS: RateLimitedLog = RateLimitedLog::new(300, Duration::from_secs(60));

/// Runs `argv`, and shows it only when it has worked, because a repair that fails is tried again
/// and again.
pub(super) fn run_and_show(argv: &[&str]) -> io::Result<()> {
    let mut command = prepare(argv)?;
    finish(&mut command)?;
    if REPAIRS.permit(Instant::now()).is_some() {
        log::command(&line(&command));
    }
    Ok(())
}

/// The output of `argv`, if it succeeds. It only looks at something, so it is not shown.
pub fn said(argv: &[&str]) -> Option<String> {
    let output = output(&mut prepare(argv).ok()?, "")
        .ok()
        .filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

/// A command that speaks English, and finds programs in `sbin`, which an ordinary Debian user's
/// search path lacks.
pub(super) fn prepare(argv: &[&str]) -> io::Result<Command> {
    let (program, arguments) = argv.split_first().ok_or(ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    // Only this process talks to systemd for the service (`notify`).
    command
        .args(arguments)
        .env("PATH", search_path())
        .env("LC_ALL", "C")
        .env_remove("NOTIFY_SOCKET");
    Ok(command)
}

fn search_path() -> String {
    // The path must not have an empty entry, which would mean the current folder.
    let path = std::env::var("PATH").ok().filter(|path| !path.is_empty());
    path.map_or(SYSTEM_PATH.to_owned(), |path| {
        format!("{path}:{SYSTEM_PATH}")
    })
}

/// Shows and runs a prepared command. `place` stands in front if it does not run on the host.
pub(super) fn run_prepared(command: &mut Command, place: &str) -> io::Result<()> {
    log::command(&format!("{place}{}", line(command)));
    finish(command)
}

/// Runs a prepared command, and reports a failure in its own words.
fn finish(command: &mut Command) -> io::Result<()> {
    let shown = line(command);
    finished(command, &shown, "")
}

fn finished(command: &mut Command, shown: &str, input: &str) -> io::Result<()> {
    // A long command, which is nft with its rules, is not shown twice.
    let named = if shown.len() > 200 {
        format!("{} ...", command.get_program().display())
    } else {
        shown.to_owned()
    };
    let output = output(command, input).map_err(|error| {
        let program = command.get_program();
        let package = PACKAGES
            .iter()
            .find(|(name, _)| *name == program)
            .filter(|_| error.kind() == ErrorKind::NotFound);
        let text = match package {
            Some((name, package)) => {
                format!("{named} failed: there is no program {name}: apt install {package}")
            }
            None if error.kind() == ErrorKind::TimedOut => format!("{named} failed: {error}"),
            None => format!("{named} failed: cannot start it: {}", super::reason(&error)),
        };
        io::Error::new(error.kind(), text)
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    // nft repeats its whole input.
    let said: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && (line.len() < 100 || !shown.contains(line)))
        .collect();
    let why = if said.is_empty() {
        output.status.to_string()
    } else {
        said.join("; ")
    };
    let remedy = busybox(&command.get_program().to_string_lossy(), &said);
    Err(io::Error::other(format!("{named} failed: {why}{remedy}")))
}

/// The advice if that was BusyBox's `ip`, which knows only a part of the real program's words. Its
/// errors are about other things, but each names BusyBox.
fn busybox(program: &str, said: &[&str]) -> &'static str {
    let is_busybox = |line: &&str| line.starts_with("ip: ") || line.starts_with("BusyBox v");
    if program == "ip" && said.iter().any(is_busybox) {
        " (this ip is BusyBox's, which lacks what is needed. \
         Try: apt install iproute2, or your system's package of that name)"
    } else {
        ""
    }
}

/// Runs a command to its end, but not for ever. A command that hangs, or writes more than a pipe
/// holds (64 KiB), must not stop the tunnel. `input` is short enough for a pipe.
fn output(command: &mut Command, input: &str) -> io::Result<Output> {
    let stdin = match input {
        "" => Stdio::null(),
        _ => Stdio::piped(),
    };
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut pipe) = child.stdin.take() {
        // A command that does not read it reports why it failed.
        let _ = pipe.write_all(input.as_bytes());
    }
    let begun = Instant::now();
    while child.try_wait()?.is_none() {
        if begun.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            let text = format!(
                "it did not end within {} s, and was ended",
                PATIENCE.as_secs()
            );
            return Err(io::Error::new(ErrorKind::TimedOut, text));
        }
        thread::sleep(POLL_INTERVAL);
    }
    child.wait_with_output()
}

/// The command as a person would type it. Words with other than plain characters are in single
/// quotes.
fn line(command: &Command) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@%+=,".contains(&byte);
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|word| match word.to_string_lossy() {
        word if !word.is_empty() && word.bytes().all(plain) => word.into_owned(),
        word => format!("'{}'", word.replace('\'', r"'\''")),
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_typed() {
        let argv = [
            "ip", "route", "add", "fd00::/8", "", "a b", "it's", "$x;", "dev", "fern0",
        ];
        assert_eq!(
            line(&prepare(&argv).unwrap()),
            r"ip route add fd00::/8 '' 'a b' 'it'\''s' '$x;' dev fern0"
        );
    }

    #[test]
    fn the_ip_of_busybox_is_told_from_the_real_one() {
        for (said, is_busybox) in [
            (
                "ip: either \"dev\" is duplicate, or \"group\" is garbage",
                true,
            ),
            (
                "BusyBox v1.35.0 (Debian 1:1.35.0-4) multi-call binary.",
                true,
            ),
            ("RTNETLINK answers: Operation not permitted", false),
            (
                "Error: argument \"x\" is wrong: \"mtu\" value is invalid",
                false,
            ),
        ] {
            assert_eq!(!busybox("ip", &[said]).is_empty(), is_busybox, "{said}");
            assert_eq!(busybox("nft", &[said]), "");
        }
    }

    #[test]
    fn a_failure_is_told_in_the_programs_own_words() {
        run(&["true"]).unwrap();
        assert!(run(&[]).is_err());
        let error = run(&["sh", "-c", "echo no such device >&2; exit 3"]).unwrap_err();
        assert!(
            error.to_string().ends_with("failed: no such device"),
            "{error}"
        );
        let error = run(&["sh", "-c", "exit 3"]).unwrap_err();
        assert!(
            error.to_string().ends_with("failed: exit status: 3"),
            "{error}"
        );
        let error = run(&["sleep", "1000"]).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("sleep 1000 failed: it did not end within 10 s, and was ended"),
            "{error}"
        );
        let error = run(&["fernvpn-none-such"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(find("fernvpn-none-such").is_none() && find("sh").is_some());
        run_with_input(&["grep", "-q", "b"], "a\nb\n").unwrap();
        let error = run_with_input(&["grep", "-q", "b"], "a\n").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with(r"printf 'a\n' | grep -q b failed"),
            "{error}"
        );
    }
}
