//! What can fernvpn do? Each command has a name, a function, and a text in `help.txt` that explains
//! it. The program reads the command line's syntax from that text. The options that a configuration
//! also has come from `config::options`.
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
//! | [`documents`] | `help --man`, `help --completions` |
#![forbid(unsafe_code)]

pub mod capture;
pub mod check;
pub mod client;
pub mod clients;
pub mod device;
pub mod documents;
pub mod explain;
pub mod passphrase;
pub mod server;
pub mod status;
pub mod token;

use crate::config::arguments::{Arguments, Known, Syntax, UsageError};
use crate::config::file::{self, Configuration};
use crate::config::key_file::{self, NamedKey};
use crate::config::options::{self, Settings};
use crate::config::settings::{ClientSettings, ServerSettings};
use crate::os::log;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

type Run = fn(&Arguments) -> Result<ExitCode, Failure>;

/// The function of each command.
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
    /// The usage, one or more lines.
    pub usage: &'static str,
    /// The usage and the options, as the program reads them.
    pub syntax: Syntax,
    /// The rest of the explanation.
    pub notes: &'static str,
    /// The function.
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
fn command(text: &'static str) -> Option<Command> {
    let (name, text) = text.strip_prefix("fernvpn ")?.split_once(": ")?;
    let (summary, text) = text.split_once("\n\n")?;
    let (usage, text) = text.split_once("\n\n")?;
    let (own, notes) = if text.starts_with("  -") {
        text.split_once("\n\n")?
    } else {
        ("", text)
    };
    let words = usage.strip_prefix("usage: fernvpn ")?.strip_prefix(name)?;
    let mut syntax = Syntax::read(words, own);
    if syntax.configured {
        syntax.options.extend(configured(name));
    }
    let (_, run) = RUN.iter().find(|(known, _)| *known == name)?;
    Some(Command {
        name,
        summary,
        usage,
        syntax,
        notes,
        run: *run,
    })
}

/// The options of a section of the configuration that the command line also has.
fn configured(section: &str) -> impl Iterator<Item = Known> {
    options::of(section).filter_map(|option| {
        Some(Known {
            name: option.flag?,
            value: option.argument(),
            repeats: option.list,
            about: option.summary(),
        })
    })
}

impl Command {
    /// Everything about it.
    pub fn help(&self) -> String {
        let name = self.name;
        let mut text = format!("fernvpn {name}: {}\n\n{}\n", self.summary, self.usage);
        let is_configured = |known: &&Known| {
            self.syntax.configured && options::of(name).any(|row| row.flag == Some(known.name))
        };
        let (shared, own): (Vec<&Known>, Vec<&Known>) =
            self.syntax.options.iter().partition(is_configured);
        for (title, known) in [
            (String::new(), own),
            (
                format!("\nOptions that may also stand in a configuration, in section [{name}]:\n"),
                shared,
            ),
        ] {
            if !known.is_empty() {
                text += &title;
                text.push('\n');
                known.iter().for_each(|known| text += &explained(known));
            }
        }
        let notes = self.notes.trim_end();
        format!("{text}\n{notes}\n")
    }
}

/// A row of a table of options, with the explanation in a column of its own.
fn explained(known: &Known) -> String {
    let mut line = format!("  {}", known.name);
    if let Some(value) = known.value {
        line = format!("{line} {value}");
    }
    let mut text = format!("{line:<22}");
    let mut column = text.chars().count();
    for (at, word) in known.about.split(' ').enumerate() {
        let length = word.chars().count();
        if column + 1 + length > 80 || (at == 0 && column > 22) {
            text += &format!("\n{:22}", "");
            column = 22;
        }
        text += &format!(" {word}");
        column += 1 + length;
    }
    text + "\n"
}

/// All commands in one line each.
pub fn overview() -> String {
    let mut text = String::from("usage: fernvpn COMMAND [ARGUMENTS]\n\n");
    for command in all() {
        let _ = writeln!(text, "  {:<13} {}", command.name, command.summary);
    }
    text + "\nfernvpn help COMMAND explains one of them. fernvpn --version prints the version.\n\
            Exit status: 0 done; 1 it failed or refused; 2 the command line is wrong.\n"
}

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The command line is wrong. Exit status 2.
    Usage(UsageError),
    /// A token was refused. The text gives no reason, on purpose: `inspect` gives it to those who
    /// may know. Exit status 1.
    InvalidToken,
    /// Any other failure, with its reason. Exit status 1.
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
/// If stdout cannot be written.
pub fn print(parts: &[&[u8]]) -> Result<ExitCode, Failure> {
    let mut stdout = io::stdout().lock();
    let written = parts
        .iter()
        .try_for_each(|part| stdout.write_all(part))
        .and_then(|()| stdout.flush());
    written.map_err(|error| format!("cannot write to stdout: {error}"))?;
    Ok(ExitCode::SUCCESS)
}

/// The log level of `server` and `client`: `--verbose`, `--quiet`.
fn set_log_level(arguments: &Arguments) -> Result<(), UsageError> {
    match (arguments.has("--verbose"), arguments.has("--quiet")) {
        (true, true) => Err(UsageError(
            "--verbose and --quiet exclude each other".into(),
        )),
        (verbose, false) => {
            log::set_verbose(verbose);
            Ok(())
        }
        (false, true) => {
            log::set_quiet();
            Ok(())
        }
    }
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
        Configuration::Client(_) => Err(other_role(file, "a client", "client")),
    }
}

fn configured_client(file: &Path) -> Result<ClientSettings, Failure> {
    match configuration(file)? {
        Configuration::Client(settings) => Ok(settings),
        Configuration::Server(_) => Err(other_role(file, "a server", "server")),
    }
}

fn other_role(file: &Path, what: &str, command: &str) -> Failure {
    let file = file.display();
    Failure::Reason(format!(
        "{file} configures {what}. Try: fernvpn {command} -c {file}"
    ))
}

/// The keys in `file`, with a warning logged.
fn keys(file: &Path) -> Result<Vec<NamedKey>, Failure> {
    let (keys, warning) = key_file::read(file)?;
    if let Some(warning) = warning {
        log::warning("config", &warning, &[]);
    }
    Ok(keys)
}

/// Sets all options of the configuration that the command line also has.
fn set_given<S: Settings>(arguments: &Arguments, settings: &mut S) -> Result<(), UsageError> {
    for option in options::of(S::SECTION) {
        let Some(flag) = option.flag else { continue };
        let values = arguments.texts(flag)?;
        if !values.is_empty() {
            options::set(settings, option.name, &values.join(","))
                .map_err(|reason| UsageError(format!("{flag}: {reason}")))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
            for line in command.help().lines() {
                assert!(line.chars().count() <= 82, "{}: {line}", command.name);
            }
            for option in command.syntax.options {
                let name = option.name;
                assert!(!option.about.is_empty(), "{} {name}", command.name);
                assert!(
                    command.syntax.configured || command.usage.contains(name),
                    "{} {name}",
                    command.name
                );
            }
        }
    }

    #[test]
    fn the_command_line_has_what_a_file_has() {
        for section in ["server", "client"] {
            let command = find(section).unwrap();
            for option in options::of(section) {
                let about_keys = ["key", "key-file", "ratchet"].contains(&option.name);
                let flag = option.flag.or(about_keys.then_some("-k")).unwrap();
                let mut known = command.syntax.options.iter();
                assert!(known.any(|known| known.name == flag), "{flag}");
                assert_eq!(command.help().matches(&format!("  {flag} ")).count(), 1);
            }
        }
    }
}
