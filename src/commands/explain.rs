//! `fernvpn explain`: a lesson that the program gives about itself.

use super::Failure;
use crate::audit::explain::text::Paint;
use crate::audit::explain::{self, html, text};
use crate::config::arguments::{Arguments, UsageError};
use crate::protocol::record::Suite;
use crate::tunnel::session::receiver::End;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

pub(super) fn explain(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let suites = match arguments.text("--suite")? {
        None => Suite::DEFAULT.to_vec(),
        Some(name) => {
            let suite = Suite::parse(name).ok_or_else(|| {
                let names = Suite::ALL.map(Suite::name).join(" and ");
                UsageError(format!("there is no suite '{name}'; there are {names}"))
            });
            vec![suite?]
        }
    };
    let lesson = explain::lesson(
        &suites,
        arguments.text("--seed")?,
        &End::Truncated.to_string(),
    )
    .map_err(|error| {
        format!(
            "cannot explain: this program is broken, \
             because its two ends do not understand each other: {error}"
        )
    })?;
    if let Some(file) = arguments.path("--html") {
        std::fs::write(&file, html::page(&lesson)).map_err(|error| {
            format!(
                "cannot write {}: {}",
                file.display(),
                crate::os::reason(&error)
            )
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut stdout = io::stdout().lock();
    let coloured =
        stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let written = stdout
        .write_all(text::draw(&lesson, Paint(coloured)).as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        // A user may leave the pager after the first page.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to stdout: {}", crate::os::reason(&error)).into())
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
