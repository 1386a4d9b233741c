//! What can fernvpn do? Each command has a name, a function, and a text in `help.txt` that explains
//! it: the program reads from there what the command line may hold.
//!
//! | file | commands |
//! |---|---|
//! | [`token`] | `genkey`, `encrypt`, `decrypt`, `rotate`, `inspect` |
//! | [`passphrase`] | (the key that `genkey --passphrase-file` derives) |
//! | [`explain`], [`capture`] | the same |
//! | [`server`], [`client`] | the same, and `unlock` |
//! | [`device`] | `clean-up`, and the device of both |
//! | [`status`] | `status`, `reload` |
//! | [`check`] | the same |
//! | [`clients`] | `add-client`, `remove-client`, `reset-client` |
#![forbid(unsafe_code)]

pub mod capture;
pub mod check;
pub mod client;
pub mod clients;
pub mod device;
pub mod explain;
pub mod passphrase;
pub mod server;
pub mod status;
pub mod token;

use crate::config::arguments::{Arguments, Syntax, UsageError};
use crate::config::file::{self, Configuration};
use crate::config::key_file::{self, NamedKey};
use crate::config::options::Setter;
use crate::config::settings::{ClientSettings, ServerSettings};
use crate::os::log;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

type Run = fn(&Arguments) -> Result<ExitCode, Failure>;

/// What each command calls.
const RUN: &[(&str, Run)] = &[
    ("genkey", token::genkey),
    ("encrypt", token::encrypt),
    ("decrypt", token::decrypt),
    ("rotate", token::rotate),
    ("inspect", token::inspect),
    ("explain", explain::explain),
    ("capture", capture::capture),
    ("server", server::server),
    ("client", client::client),
    ("unlock", client::unlock),
    ("status", status::status),
    ("reload", status::reload),
    ("clean-up", device::clean_up),
    ("check", check::check),
    ("add-client", clients::add),
    ("remove-client", clients::remove),
    ("reset-client", clients::reset),
];

/// One command.
#[derive(Debug)]
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// The line, or lines, that say how it is called.
    pub usage: &'static str,
    /// The same, and its options, as the program reads them.
    pub syntax: Syntax,
    /// What else there is to know.
    pub notes: &'static str,
    /// Everything about it.
    pub help: &'static str,
    /// Does it.
    pub run: Run,
}

/// Every command, in the order of the help.
pub fn all() -> impl Iterator<Item = Command> {
    include_str!("help.txt").split("\n\n\n").filter_map(command)
}

/// The command of this name.
pub fn find(name: &str) -> Option<Command> {
    all().find(|command| command.name == name)
}

/// The command that this part of `help.txt` explains.
fn command(help: &'static str) -> Option<Command> {
    let (name, text) = help.strip_prefix("fernvpn ")?.split_once(": ")?;
    let (summary, text) = text.split_once("\n\n")?;
    let (usage, text) = text.split_once("\n\n")?;
    let (options, notes) = if text.starts_with("  -") {
        text.split_once("\n\n")?
    } else {
        ("", text)
    };
    let syntax = Syntax::read(
        usage.strip_prefix("usage: fernvpn ")?.strip_prefix(name)?,
        options,
    );
    let (_, run) = RUN.iter().find(|(known, _)| *known == name)?;
    Some(Command {
        name,
        summary,
        usage,
        syntax,
        notes,
        help,
        run: *run,
    })
}

/// All commands in one line each.
pub fn overview() -> String {
    let mut text = String::from("usage: fernvpn COMMAND [ARGUMENTS]\n\n");
    for command in all() {
        let _ = writeln!(text, "  {:<13} {}", command.name, command.summary);
    }
    text + "\nfernvpn help COMMAND explains one of them; fernvpn --version prints the version.\n\
            Exit status: 0 done; 1 it failed or refused; 2 the command line is wrong.\n"
}

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub enum Failure {
    /// The command line is wrong. Exit status 2.
    Usage(UsageError),
    /// A token was refused. There is no reason in it, on purpose: whoever may know the reason asks
    /// `inspect`. Exit status 1.
    InvalidToken,
    /// Anything else, with its reason. Exit status 1.
    Reason(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Failure::Usage(error) => write!(f, "fernvpn: {error}"),
            Failure::InvalidToken => f.write_str("invalid token"),
            Failure::Reason(reason) => write!(f, "fernvpn: {reason}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<UsageError> for Failure {
    fn from(error: UsageError) -> Failure {
        Failure::Usage(error)
    }
}

impl From<String> for Failure {
    fn from(reason: String) -> Failure {
        Failure::Reason(reason)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Reason(error.to_string())
    }
}

/// Writes an answer to stdout.
///
/// # Errors
/// It cannot be written.
pub fn print(parts: &[&[u8]]) -> Result<ExitCode, Failure> {
    let mut stdout = io::stdout().lock();
    let written = parts
        .iter()
        .try_for_each(|part| stdout.write_all(part))
        .and_then(|()| stdout.flush());
    written.map_err(|error| format!("cannot write to stdout: {error}"))?;
    Ok(ExitCode::SUCCESS)
}

/// The configuration in `file`, with its warnings logged.
fn configuration(file: &Path) -> Result<Configuration, Failure> {
    let (configuration, warnings) = file::read(file).map_err(|mistakes| mistakes.to_string())?;
    for warning in warnings {
        log::warning("config", &warning, &[]);
    }
    Ok(configuration)
}

fn configured_server(file: &Path) -> Result<ServerSettings, Failure> {
    match configuration(file)? {
        Configuration::Server(settings) => Ok(settings),
        Configuration::Client(_) => Err(Failure::Reason(format!(
            "{} configures a client",
            file.display()
        ))),
    }
}

fn configured_client(file: &Path) -> Result<ClientSettings, Failure> {
    match configuration(file)? {
        Configuration::Client(settings) => Ok(settings),
        Configuration::Server(_) => Err(Failure::Reason(format!(
            "{} configures a server",
            file.display()
        ))),
    }
}

/// The keys in `file`, with a warning logged.
fn keys(file: &Path) -> Result<Vec<NamedKey>, Failure> {
    let (keys, warning) = key_file::read(file)?;
    if let Some(warning) = warning {
        log::warning("config", &warning, &[]);
    }
    Ok(keys)
}

/// How the command line writes an option of the configuration, where its name is another one.
const WRITTEN: [(&str, &str); 3] = [
    ("interface", "--tun"),
    ("suites", "--suite"),
    ("server", "--connect"),
];

/// Sets all options of the configuration that the command line has as well.
fn set_given<S>(
    arguments: &Arguments,
    options: &[Setter<S>],
    settings: &mut S,
) -> Result<(), UsageError> {
    for (name, set) in options {
        let written = WRITTEN.iter().find(|(known, _)| known == name);
        let option = written.map_or(format!("--{name}"), |(_, option)| (*option).into());
        let values = arguments.texts(&option)?;
        if !values.is_empty() {
            set(settings, &values.join(","))
                .map_err(|reason| UsageError(format!("{option}: {reason}")))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::options::names;

    #[test]
    fn every_command_is_explained_and_every_explanation_is_a_command() {
        assert_eq!(
            all().map(|command| command.name).collect::<Vec<_>>(),
            RUN.iter().map(|(name, _)| *name).collect::<Vec<_>>()
        );
        assert_eq!(
            all().count(),
            include_str!("help.txt").matches("usage: ").count()
        );
        for command in all() {
            assert!(
                command.help.lines().all(|line| line.len() <= 110),
                "{}",
                command.name
            );
            for option in command.syntax.options {
                assert!(
                    command.usage.contains(option.name) && !option.about.is_empty(),
                    "{} {}",
                    command.name,
                    option.name
                );
            }
        }
    }

    #[test]
    fn the_command_line_has_what_a_file_has() {
        for (command, section) in [("server", "server"), ("client", "client")] {
            let command = find(command).unwrap();
            for name in names(section) {
                let written = match name {
                    "key" | "key-file" => "-k".to_owned(),
                    _ => WRITTEN
                        .iter()
                        .find(|(known, _)| *known == name)
                        .map_or(format!("--{name}"), |(_, option)| (*option).into()),
                };
                assert!(
                    command
                        .syntax
                        .options
                        .iter()
                        .any(|known| known.name == written),
                    "{written}"
                );
            }
        }
    }
}
