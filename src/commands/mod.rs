//! What can fernvpn do? One table of commands; each is a name, a syntax, an explanation and a function.
//!
//! | file | commands |
//! |---|---|
//! | [`token`] | `genkey`, `encrypt`, `decrypt`, `rotate`, `inspect` |
//! | [`passphrase`] | (the key that `genkey --passphrase-file` derives) |
#![forbid(unsafe_code)]

pub mod add;
pub mod capture;
pub mod check;
pub mod client;
pub mod device;
pub mod explain;
pub mod passphrase;
pub mod reset;
pub mod server;
pub mod status;
pub mod token;

use crate::config::arguments::{Arguments, Syntax, UsageError};
use crate::config::file::{self, Configuration};
use crate::config::settings::{ClientSettings, ServerSettings};
use crate::os::log;
use std::fmt::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// Every command, in the order of the help.
pub const COMMANDS: &[&Command] = &[
    &token::GENKEY,
    &token::ENCRYPT,
    &token::DECRYPT,
    &token::ROTATE,
    &token::INSPECT,
    &explain::EXPLAIN,
    &capture::CAPTURE,
    &server::SERVER,
    &client::CLIENT,
    &client::UNLOCK,
    &status::STATUS,
    &status::RELOAD,
    &device::CLEAN_UP,
    &check::CHECK,
    &add::ADD,
    &add::REMOVE,
    &reset::RESET,
];

/// One command.
#[derive(Debug)]
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// Its arguments, in one line.
    pub usage: &'static str,
    /// Its arguments, as a table.
    pub syntax: Syntax,
    /// What else there is to know.
    pub notes: &'static str,
    /// Does it.
    pub run: fn(&Arguments) -> Result<ExitCode, Failure>,
}

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub enum Failure {
    /// The command line is wrong. Exit status 2.
    Usage(UsageError),
    /// A token was refused. There is no reason in it, on purpose: whoever may know the reason asks `inspect`. Exit status 1.
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

impl Command {
    /// The line that says how it is called.
    pub fn usage(&self) -> String {
        format!("usage: fernvpn {} {}", self.name, self.usage).trim_end().to_string()
    }

    /// Everything about it.
    pub fn help(&self) -> String {
        let mut help = format!("fernvpn {}: {}\n\n{}\n", self.name, self.summary, self.usage());
        if !self.syntax.options.is_empty() {
            help.push('\n');
        }
        for option in self.syntax.options {
            let written = match option.value {
                Some(value) => format!("{} {value}", option.name),
                None => option.name.to_string(),
            };
            // Writing to a String cannot fail.
            let _ = writeln!(help, "  {written:<21} {}", option.about);
        }
        format!("{help}\n{}\n", self.notes.trim())
    }
}

/// The configuration in `file`, with its warnings logged.
fn configuration(file: &Path) -> Result<Configuration, Failure> {
    let (configuration, warnings) = file::read(file).map_err(|mistakes| Failure::Reason(mistakes.to_string()))?;
    for warning in warnings {
        log::warning("config", &warning, &[]);
    }
    Ok(configuration)
}

fn configured_server(file: &Path) -> Result<ServerSettings, Failure> {
    match configuration(file)? {
        Configuration::Server(settings) => Ok(settings),
        Configuration::Client(_) => Err(Failure::Reason(format!("{} configures a client", file.display()))),
    }
}

fn configured_client(file: &Path) -> Result<ClientSettings, Failure> {
    match configuration(file)? {
        Configuration::Client(settings) => Ok(settings),
        Configuration::Server(_) => Err(Failure::Reason(format!("{} configures a server", file.display()))),
    }
}

/// All values of a repeatable option as one list, or `None` if it was not given.
fn joined(arguments: &Arguments, option: &str) -> Result<Option<String>, UsageError> {
    let mut values = Vec::new();
    for value in arguments.values(option) {
        values.push(value.to_str().ok_or_else(|| UsageError(format!("{option}: the value is not UTF-8")))?);
    }
    Ok(if values.is_empty() { None } else { Some(values.join(",")) })
}

/// The command of this name.
pub fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().copied().find(|command| command.name == name)
}

/// All commands in one line each.
pub fn overview() -> String {
    let mut text = String::from("usage: fernvpn COMMAND [ARGUMENTS]\n\n");
    for command in COMMANDS {
        let _ = writeln!(text, "  {:<13} {}", command.name, command.summary);
    }
    text + "\nfernvpn help COMMAND explains one of them; fernvpn --version prints the version.\n\
            Exit status: 0 done; 1 it failed or refused; 2 the command line is wrong.\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_has_what_a_file_has() {
        for (command, options) in [(&server::SERVER, file::SERVER), (&client::CLIENT, file::CLIENT)] {
            for option in options {
                let written = match *option {
                    "interface" => "--tun".to_owned(),
                    "suites" => "--suite".to_owned(),
                    "server" => "--connect".to_owned(),
                    "key" | "key-file" => "-k".to_owned(),
                    same => format!("--{same}"),
                };
                assert!(command.syntax.options.iter().any(|known| known.name == written), "{written}");
            }
        }
    }

    #[test]
    fn every_option_is_in_the_usage_and_explained() {
        for command in COMMANDS {
            for option in command.syntax.options {
                assert!(command.usage.contains(option.name), "{} {}", command.name, option.name);
                assert!(!option.about.is_empty());
            }
            assert!(command.help().lines().all(|line| line.len() <= 110), "{}", command.name);
            assert_eq!(find(command.name).map(|found| found.name), Some(command.name));
        }
    }
}
