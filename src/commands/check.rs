//! `fernvpn check`

use super::{Command, Failure};
use crate::config::arguments::{Arguments, Known, Syntax, UsageError};
use crate::config::file::Configuration;
use crate::tunnel::clients::Clients;
use std::io::{self, Write};
use std::process::ExitCode;

/// The command.
pub const CHECK: Command = Command {
    name: "check",
    summary: "validates a configuration file",
    usage: "-c FILE",
    syntax: Syntax {
        options: &[Known::value("-c", "FILE", "the configuration of a server or a client")],
        operands: &[],
        command: false,
    },
    notes: "\
Every mistake is reported with its line and what would be right. Exit status 0 if there is none.",
    run: check,
};

fn check(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let file = arguments.path("-c").ok_or_else(|| UsageError("which file? -c FILE names it".into()))?;
    let found = match super::configuration(&file)? {
        Configuration::Server(settings) => {
            let clients = Clients::new(&settings).map_err(|reason| format!("{}: {reason}", file.display()))?;
            let count = clients.all().len();
            format!("a server with {count} client{}", if count == 1 { "" } else { "s" })
        }
        Configuration::Client(settings) => format!("a client of {}", settings.server),
    };
    let _ = writeln!(io::stdout(), "{}: {found}, no mistakes", file.display());
    Ok(ExitCode::SUCCESS)
}
