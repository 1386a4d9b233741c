//! `fernvpn check`

use super::Failure;
use crate::config::arguments::{Arguments, UsageError};
use crate::config::file::Configuration;
use crate::config::settings::Device;
use crate::os::process;
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
            format!(
                "a server with {count} client{}, no mistakes",
                if count == 1 { "" } else { "s" }
            )
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
    super::print(&[format!("{}: {found}\n", file.display()).as_bytes()])
}
