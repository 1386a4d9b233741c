//! `fernvpn check`

use super::{Failure, server};
use crate::config::arguments::{Arguments, UsageError};
use crate::config::file::{self, Configuration};
use crate::config::settings::{ClientSettings, Device, ServerSettings};
use crate::os::overlaps::Overlap;
use crate::os::users::{READ, User, WRITE};
use crate::os::{files, log, network, process, resolver};
use crate::tunnel::client::Client;
use crate::tunnel::peers::registry::Clients;
use crate::tunnel::wire::network_config::listed;
use std::path::Path;
use std::process::ExitCode;

pub(super) fn check(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let file = arguments
        .path("-c")
        .ok_or_else(|| UsageError("no file is given. Try: fernvpn check -c FILE".into()))?;
    let configuration = super::configuration(&file)?;
    let user = match (arguments.text("--user")?, files::reader(&file)) {
        (Some(name), _) => Some(User::find(name).ok_or_else(|| no_user(name))?),
        (None, Some(name)) => User::find(name),
        (None, None) => None,
    };
    if let Some(user) = &user {
        let missing = missing_rights(&file, user)?;
        if !missing.is_empty() {
            return Err(Failure::Reason(missing.join("\n")));
        }
    }
    let found = match configuration {
        Configuration::Server(_) if arguments.has("--connect") => {
            return Err(UsageError("--connect is for a client's configuration".into()).into());
        }
        Configuration::Server(settings) => {
            let clients = Clients::new(None, &settings)
                .map_err(|reason| format!("{}: {reason}", file.display()))?;
            let count = clients.all().len();
            let s = if count == 1 { "" } else { "s" };
            let overlaps = settings.overlaps();
            let reach = reach(&settings);
            server::on_this_machine(settings)?;
            let but = but_see(&overlaps);
            format!("a server with {count} client{s}, no mistakes{but}\n{reach}")
        }
        Configuration::Client(mut settings) => {
            resolvers(&settings, &file)?;
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
                settings.device = Device::None; // only root can send around the tunnel
            }
            if arguments.has("--connect") {
                format!("{found}\n{}", Client::ask(settings)?)
            } else {
                found
            }
        }
    };
    super::print(&[format!("{}: {found}\n", file.display()).as_bytes()])
}

/// What clients may reach.
fn reach(settings: &ServerSettings) -> String {
    let own = settings.peers.iter().filter(|peer| peer.allow.is_some());
    let own = match own.count() {
        0 => String::new(),
        count => format!(" (allow), but for {count} with an own list"),
    };
    match &settings.allow {
        None => format!("clients may reach every address that this machine reaches{own}"),
        Some(none) if none.is_empty() => format!("clients may reach nothing{own}"),
        Some(some) => format!("clients may reach only {}{own}", listed(some)),
    }
}

/// The text after "no mistakes" if this machine and the file do not fit together.
fn but_see(overlaps: &[Overlap]) -> &'static str {
    if overlaps.is_empty() {
        ""
    } else {
        " in the file, but it will not work on this machine: see the warnings"
    }
}

fn no_user(name: &str) -> String {
    format!("this machine has no user '{name}'")
}

/// What the user who is to run a configuration cannot do with it and its key files.
pub(super) fn missing_rights(file: &Path, user: &User) -> Result<Vec<String>, String> {
    let (text, _) = file::read_text(file).map_err(|mistakes| mistakes.to_string())?;
    let name = &user.name;
    let mut missing = Vec::new();
    let mut key_files = file::key_files(&text, file);
    key_files.insert(0, (file.to_owned(), false));
    for (file, is_state) in key_files {
        let shown = file.display();
        let folder = file.parent().unwrap_or(Path::new("."));
        if !is_state && !user.may(&file, READ) {
            let command = command_to_open(&file, name);
            missing.push(format!(
                "{shown}: the user {name}, who will run fernvpn, cannot read it. Try: {command}"
            ));
        } else if is_state && !user.may(&file, READ | WRITE) {
            missing.push(format!(
                "{shown}: the user {name}, who will run fernvpn, cannot write it, and a ratcheted \
                 key changes. Try: chown {name}: {shown} && chmod 600 {shown}"
            ));
        } else if is_state && !user.may(folder, WRITE) {
            let folder = folder.display();
            missing.push(format!(
                "{shown}: the user {name}, who will run fernvpn, cannot write to the folder \
                 {folder}. Move the file to /var/lib/fernvpn, and change key-file"
            ));
        }
    }
    Ok(missing)
}

/// The command that lets only one user read a file with a secret.
fn command_to_open(file: &Path, user: &str) -> String {
    if files::reader(file) == Some(user) {
        return files::command_to_close(file);
    }
    let shown = file.display();
    format!("chown {user} {shown} && chmod 600 {shown}")
}

/// Whether names can be resolved with a client's tunnel. The routes that the server pushes are not
/// known yet. If a file leaves them to the server, it is a mistake only where the units look for
/// files. A file elsewhere may be on the way to another machine, and gets a warning.
fn resolvers(settings: &ClientSettings, file: &Path) -> Result<(), String> {
    let takes_all = settings.routes.as_ref().map(|it| network::are_full(it));
    if takes_all == Some(false) || !matches!(settings.device, Device::Tun(_)) {
        return Ok(());
    }
    let has_own = settings.dns.as_ref().is_none_or(|it| !it.is_empty());
    let Err(reason) = resolver::check_for_full_tunnel(has_own) else {
        return Ok(());
    };
    let reason = format!("{}: {reason}", file.display());
    if takes_all == Some(true) || file.starts_with("/etc/fernvpn") {
        return Err(reason);
    }
    log::warning("config", &reason, &[]);
    Ok(())
}
