//! `fernvpn status` and `fernvpn reload`

use super::Failure;
use crate::config::arguments::{Arguments, UsageError};
use crate::os::{control, log};
use crate::tunnel::SOFTWARE;
use crate::tunnel::observe::status::merged;
use std::io::ErrorKind;
use std::process::ExitCode;

pub(super) fn status(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let format = arguments.text("--format")?.unwrap_or("text");
    if !["text", "json", "prometheus"].contains(&format) {
        return Err(UsageError(format!(
            "--format takes text, json or prometheus, not '{format}'"
        ))
        .into());
    }
    let question = format!("status {format}");
    let answer = match name(arguments)? {
        Some(name) => control::ask(name, &question)?,
        None => {
            let mut reports = Vec::new();
            for name in control::names() {
                match control::ask(&name, &question) {
                    Ok(report) => reports.push(report),
                    // A crash has left this socket.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => log::say(format_args!(
                        "fernvpn: {}",
                        log::printable(&error.to_string())
                    )),
                }
            }
            match format {
                "json" => {
                    let reports: Vec<&str> = reports.iter().map(|one| one.trim_end()).collect();
                    format!("[{}]\n", reports.join(","))
                }
                "prometheus" => merged(&reports),
                _ if reports.is_empty() => {
                    let none = "no fernvpn is running here, or it belongs to another user";
                    return Err(none.to_owned().into());
                }
                _ => reports.join("\n"),
            }
        }
    };
    super::print(&[answer.as_bytes()])
}

pub(super) fn reload(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let name = match name(arguments)? {
        Some(name) => name.to_owned(),
        None => the_only_one()?,
    };
    let done = control::ask(&name, "reload")?;
    super::print(&[format!("reloaded: {done}\n").as_bytes()])
}

/// The instance if no name is given. It is the only one that runs here, or the one with a server's
/// default name.
fn the_only_one() -> Result<String, String> {
    let names = control::running();
    match names.as_slice() {
        [] => Err("no fernvpn is running here, or it belongs to another user".into()),
        [only] => Ok(only.clone()),
        several if several.iter().any(|name| name == "server") => Ok("server".into()),
        several => {
            let names = several.join(", ");
            Err(format!(
                "which instance? These run here: {names}. Try: fernvpn reload NAME"
            ))
        }
    }
}

/// The answers of a running server or client to both commands.
pub(super) fn answer(
    question: &str,
    status: impl Fn(&str) -> Option<String>,
    reload: impl Fn() -> Result<String, String>,
) -> Result<String, String> {
    match question.split_once(' ') {
        None if question == "reload" => return reload(),
        Some(("status", format)) => status(format),
        _ => None,
    }
    .ok_or_else(|| format!("it is {SOFTWARE}, which does not know '{question}'"))
}

fn name(arguments: &Arguments) -> Result<Option<&str>, UsageError> {
    let Some(name) = arguments.operands().first() else {
        return Ok(None);
    };
    let fine = name.to_str().filter(|name| !name.contains('/'));
    fine.map(Some)
        .ok_or_else(|| UsageError("NAME is the name of an instance, not a file".into()))
}
