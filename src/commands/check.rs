//! `fernvpn check`

use super::{Failure, server};
use crate::config::arguments::{Arguments, UsageError};
use crate::config::file::Configuration;
use crate::config::settings::Device;
use crate::os::overlaps::Overlap;
use crate::os::{log, process};
use crate::tunnel::client::Client;
use crate::tunnel::peers::registry::Clients;
use std::process::ExitCode;

pub(super) fn check(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let file = arguments
        .path("-c")
        .ok_or_else(|| UsageError("which file? -c FILE names it".into()))?;
    let found = match super::configuration(&file)? {
        Configuration::Server(_) if arguments.has("--connect") => {
            return Err(UsageError("--connect is for a client's configuration".into()).into());
        }
        Configuration::Server(settings) => {
            let clients = Clients::new(None, &settings)
                .map_err(|reason| format!("{}: {reason}", file.display()))?;
            let count = clients.all().len();
            let overlaps = settings.overlaps();
            server::on_this_machine(settings)?;
            format!(
                "a server with {count} client{}, no mistakes{}",
                if count == 1 { "" } else { "s" },
                but_see(&overlaps)
            )
        }
        Configuration::Client(mut settings) => {
            let overlaps = settings.overlaps(&[], &[]);
            for overlap in &overlaps {
                log::warning("config", &overlap.to_string(), &[]);
            }
            let found = format!(
                "a client of {}, no mistakes{}",
                settings.server,
                but_see(&overlaps)
            );
            if !process::is_root() {
                settings.device = Device::None; // the way around the tunnel is root's
            }
            match arguments.has("--connect") {
                true => format!("{found}\n{}", Client::ask(settings)?),
                false => found,
            }
        }
    };
    super::print(&[format!("{}: {found}\n", file.display()).as_bytes()])
}

/// What follows "no mistakes" where this machine and the file do not fit together.
fn but_see(overlaps: &[Overlap]) -> &'static str {
    if overlaps.is_empty() {
        ""
    } else {
        " in the file, but on this machine it will not work as it is: see the warnings"
    }
}
