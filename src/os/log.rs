//! What does a running fernvpn report? It writes lines to stderr.
//!
//! ```text
//! 2026-11-23T22:04:47Z info tunnel: client connected client=alice from=192.0.2.7:50122
//! <6>tunnel: client connected client=alice from=192.0.2.7:50122      the same for journald
//! + ip link set dev fern0 up                                         with --verbose, a command
//!     nsenter -t 4711 -n -m ping 10.8.0.1                            a command to copy
//! ```
//!
//! Values may come from strangers. A value that is not plain ASCII without blanks is quoted and
//! escaped. So one call is one line, and strangers cannot begin a line or a field. Lines that
//! strangers can cause at will go through [`RateLimitedLog`], so that they do not fill a disk. Keys
//! are never logged: no type that holds one has `Display`.

use std::fmt::{Display, Write as _};
use std::io::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use super::clock;
use super::lock::{Lock, Rank, about_to_wait};

/// Names and values, printed as `name=value`.
pub type Fields<'a> = &'a [(&'a str, &'a dyn Display)];

/// The highest level that is written.
static MOST: AtomicU8 = AtomicU8::new(Level::Info as u8);

/// Whether `debug` lines are written. Off at first.
pub fn set_verbose(verbose: bool) {
    MOST.store(
        if verbose { Level::Debug } else { Level::Info } as u8,
        Ordering::Relaxed,
    );
}

/// Only writes warnings and errors from now on, because another program uses the terminal.
pub fn set_quiet() {
    MOST.store(Level::Warning as u8, Ordering::Relaxed);
}

fn is_written(level: Level) -> bool {
    level as u8 <= MOST.load(Ordering::Relaxed)
}

/// The program ends, or a person must repair something.
pub fn error(module: &str, text: &str, fields: Fields<'_>) {
    write(Level::Error, module, text, fields);
}

/// The program goes on, but a person should know.
pub fn warning(module: &str, text: &str, fields: Fields<'_>) {
    write(Level::Warning, module, text, fields);
}

/// An ordinary event.
pub fn info(module: &str, text: &str, fields: Fields<'_>) {
    write(Level::Info, module, text, fields);
}

/// A line for `--verbose` only.
pub fn debug(module: &str, text: &str, fields: Fields<'_>) {
    write(Level::Debug, module, text, fields);
}

/// For `--verbose` only: a command that is about to run, as a person could type it.
pub fn command(line: &str) {
    if is_written(Level::Debug) {
        write_line(&format!("+ {}\n", without_controls(line)));
    }
}

/// A command that the reader may want to run. It is alone on its line, to be copied.
pub fn to_paste(line: &str) {
    write_line(&format!("    {}\n", without_controls(line)));
}

/// A line for the user that is not a log line. (`eprintln!` would end the program if stderr is
/// closed.)
pub fn say(text: impl Display) {
    write_line(&format!("{text}\n"));
}

/// Lets at most `limit` lines through per interval, and later reports how many it left out. Each
/// kind of line that strangers can trigger has one. It can be a `static`.
#[derive(Debug)]
pub struct RateLimitedLog {
    limit: u32,
    interval: Duration,
    state: Lock<RateLimitState>,
}

#[derive(Debug)]
struct RateLimitState {
    begin: Option<Instant>,
    written: u32,
    suppressed: u64,
}

impl RateLimitedLog {
    /// Allows at most `limit` lines per `interval`.
    pub const fn new(limit: u32, interval: Duration) -> RateLimitedLog {
        RateLimitedLog {
            limit,
            interval,
            state: Lock::new(
                Rank::LogRate,
                RateLimitState {
                    begin: None,
                    written: 0,
                    suppressed: 0,
                },
            ),
        }
    }

    /// Writes a warning if the limit allows it. The first in a new interval has the number of lines
    /// left out as `suppressed=N`.
    pub fn warning(&self, module: &str, text: &str, fields: Fields<'_>) {
        self.write(Level::Warning, module, text, fields);
    }

    /// The same for an ordinary event.
    pub fn info(&self, module: &str, text: &str, fields: Fields<'_>) {
        self.write(Level::Info, module, text, fields);
    }

    fn write(&self, level: Level, module: &str, text: &str, fields: Fields<'_>) {
        match self.permit(Instant::now()) {
            None => {}
            Some(0) => write(level, module, text, fields),
            Some(suppressed) => write(
                level,
                module,
                text,
                &[fields, &[("suppressed", &suppressed)]].concat(),
            ),
        }
    }

    /// Whether a line may be written now, and if so, how many were left out before it.
    pub fn permit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        if state
            .begin
            .is_none_or(|begin| now.saturating_duration_since(begin) >= self.interval)
        {
            state.begin = Some(now);
            state.written = 0;
        }
        if state.written >= self.limit {
            state.suppressed = state.suppressed.saturating_add(1);
            return None;
        }
        state.written += 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

/// The number of a level, from syslog. systemd reads it at the beginning of a line.
#[derive(Clone, Copy)]
enum Level {
    Error = 3,
    Warning = 4,
    Info = 6,
    Debug = 7,
}

fn write(level: Level, module: &str, text: &str, fields: Fields<'_>) {
    if is_written(level) {
        let now = (!journal_reads()).then(clock::unix_seconds);
        write_line(&line(now, level, module, text, fields));
    }
}

/// One write has the whole line, so that lines of several threads do not mix. If stderr is closed,
/// nobody can be told.
fn write_line(line: &str) {
    about_to_wait("the log");
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

fn line(now: Option<u64>, level: Level, module: &str, text: &str, fields: Fields<'_>) -> String {
    let name = match level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
    };
    let begin = match now {
        Some(seconds) => format!("{} {name} ", clock::utc(seconds)),
        None => format!("<{}>", level as u8),
    };
    let mut line = format!("{begin}{module}: {}", without_controls(text));
    for (name, value) in fields {
        // Writing to a String cannot fail.
        let _ = write!(line, " {name}={}", quoted(&value.to_string()));
    }
    line.push('\n');
    line
}

/// A plain value as it is. Another value is in quotes, with `"`, `\`, control and invisible
/// characters escaped.
fn quoted(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'=');
    if !value.is_empty() && value.bytes().all(plain) {
        value.to_owned()
    } else {
        format!("{value:?}")
    }
}

/// A text without control characters. The text is ours, but may contain another program's error.
pub(super) fn without_controls(text: &str) -> String {
    // `escape_debug` rewrites blanks of other scripts, controls, and marks that reorder a line.
    let clean = |c: char| {
        if matches!(c, '"' | '\'' | '\\') {
            c.to_string()
        } else {
            c.escape_debug().to_string()
        }
    };
    text.chars().map(clean).collect()
}

/// Another program's text, without characters that move a terminal's cursor or reverse the text
/// after them.
pub fn printable(text: &str) -> String {
    let moves = |c: char| {
        c.is_control()
            || ('\u{200e}'..='\u{200f}').contains(&c)
            || ('\u{2028}'..='\u{202e}').contains(&c)
            || ('\u{2066}'..='\u{2069}').contains(&c)
    };
    text.chars()
        .map(|c| if moves(c) { '\u{fffd}' } else { c })
        .collect()
}

/// Whether stderr goes straight to systemd's journal. The variable alone does not tell, because
/// every program that a service starts inherits it, for example a terminal. So it names the device
/// and inode of the journal's socket (systemd.exec(5)).
fn journal_reads() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        std::env::var("JOURNAL_STREAM")
            .is_ok_and(|named| stderr_identity().is_some_and(|ours| ours == named))
    })
}

#[cfg(unix)]
fn stderr_identity() -> Option<String> {
    use std::os::{fd::AsFd, unix::fs::MetadataExt};
    let stderr = std::fs::File::from(std::io::stderr().as_fd().try_clone_to_owned().ok()?);
    let metadata = stderr.metadata().ok()?;
    Some(format!("{}:{}", metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn stderr_identity() -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_time_level_room_text_and_fields() {
        let fields: Fields<'_> = &[("client", &"alice"), ("packets", &3)];
        assert_eq!(
            line(
                Some(1_795_471_487),
                Level::Info,
                "tunnel",
                "client connected",
                fields
            ),
            "2026-11-23T22:04:47Z info tunnel: client connected client=alice packets=3\n"
        );
        assert_eq!(
            line(None, Level::Error, "os", "no device", &[]),
            "<3>os: no device\n"
        );
    }

    #[test]
    fn a_stranger_forges_neither_line_nor_field() {
        for (value, written) in [
            ("plain-1.2:3/[::1]%eth0", "plain-1.2:3/[::1]%eth0"),
            ("", "\"\""),
            ("two words", "\"two words\""),
            (
                "x\n2026-11-23T22:04:47Z info tunnel: forged",
                "\"x\\n2026-11-23T22:04:47Z info tunnel: forged\"",
            ),
            ("a=b", "\"a=b\""),
            ("\" client=root", "\"\\\" client=root\""),
            ("\\", "\"\\\\\""),
            ("\x1b[2J", "\"\\u{1b}[2J\""),
            ("\u{202e}", "\"\\u{202e}\""),
            ("\u{2028}", "\"\\u{2028}\""),
            ("\u{9b}31m", "\"\\u{9b}31m\""),
        ] {
            assert_eq!(quoted(value), written);
        }
        let forged = line(
            None,
            Level::Warning,
            "os",
            "it's \"so\":\r\n<3>x\u{202e}",
            &[],
        );
        assert_eq!(forged, "<4>os: it's \"so\":\\r\\n<3>x\\u{202e}\n");
    }

    #[test]
    fn seldom_lets_few_through_and_counts_the_rest() {
        let seldom = RateLimitedLog::new(2, Duration::from_secs(10));
        let begin = Instant::now();
        assert_eq!(
            [seldom.permit(begin), seldom.permit(begin)],
            [Some(0), Some(0)]
        );
        for second in 0..10 {
            assert_eq!(seldom.permit(begin + Duration::from_secs(second)), None);
        }
        assert_eq!(seldom.permit(begin + Duration::from_secs(10)), Some(10));
        assert_eq!(seldom.permit(begin + Duration::from_secs(10)), Some(0));
        assert_eq!(seldom.permit(begin + Duration::from_secs(19)), None);
    }
}
