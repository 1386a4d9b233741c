//! `fernvpn check`

use super::{Command, Failure};
use crate::config::arguments::{Arguments, Known, Syntax, UsageError};
use crate::config::file::Configuration;
use crate::config::settings::Device;
use crate::os::process;
use crate::tunnel::client::Client;
use crate::tunnel::clients::Clients;
use std::io::{self, Write};
use std::process::ExitCode;

/// The command.
pub const CHECK: Command = Command {
    name: "check",
    summary: "validates a configuration file, and for a client asks its server",
    usage: "-c FILE [--connect]",
    syntax: Syntax {
        options: &[
            Known::value("-c", "FILE", "the configuration of a server or a client"),
            Known::flag("--connect", "also ask a client's server whether it is there and knows the key"),
        ],
        operands: &[],
        command: false,
    },
    notes: "\
Every mistake is reported with its line and what would be right. Exit status 0 if there is none.

--connect goes as far as the server's first answer and then hangs up. It changes nothing on this machine,
disturbs no client that is connected with the same key, and leaves a ratcheted key at its step. As root it
goes around a tunnel that is up on this machine, like the client itself.",
    run: check,
};

fn check(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let file = arguments.path("-c").ok_or_else(|| UsageError("which file? -c FILE names it".into()))?;
    let found = match super::configuration(&file)? {
        Configuration::Server(_) if arguments.has("--connect") => {
            return Err(UsageError("--connect is for a client's configuration".into()).into());
        }
        Configuration::Server(settings) => {
            let clients = Clients::new(&settings).map_err(|reason| format!("{}: {reason}", file.display()))?;
            let count = clients.all().len();
            format!("a server with {count} client{}, no mistakes", if count == 1 { "" } else { "s" })
        }
        Configuration::Client(mut settings) => {
            let found = format!("a client of {}, no mistakes", settings.server);
            if !process::is_root() {
                settings.device = Device::None; // the way around the tunnel is root's
            }
            match arguments.has("--connect") {
                true => format!("{found}\n{}", Client::ask(settings)?),
                false => found,
            }
        }
    };
    let _ = writeln!(io::stdout(), "{}: {found}", file.display());
    Ok(ExitCode::SUCCESS)
}
