//! `fernvpn client`

use super::device::{self, Interface};
use super::{Command, Failure};
use crate::config::arguments::{Arguments, Known, Syntax, UsageError};
use crate::config::key_file;
use crate::config::settings::{ClientSettings, Device, Routes};
use crate::os::tun::Tun;
use crate::os::{log, process, signal};
use crate::tunnel::client::{Client, Machine};
use crate::tunnel::config_record::NetworkConfig;
use crate::tunnel::connection::MAX_MESSAGE;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// The command.
pub const CLIENT: Command = Command {
    name: "client",
    summary: "runs the client",
    usage: "[-c FILE] [-k FILE] [--connect HOST:PORT]
         [--tun NAME | --no-tun | --private | --private-if-allowed]
         [--routes pushed|none|NETS] [--suite S ...] [--send TEXT] [--ping [--count N]] [--once]
         [--congestion C] [--name NAME] [--verbose]",
    syntax: Syntax {
        options: &[
            Known::value("-c", "FILE", "configuration; options given here come before those in it"),
            Known::value("-k", "FILE", "key file; its first key is used"),
            Known::value("--connect", "HOST:PORT", "the server; 127.0.0.1:12345"),
            Known::value("--tun", "NAME", "the tunnel's device; fern0"),
            Known::flag("--no-tun", "no device: for --send and --ping, and to answer pings"),
            Known::flag("--private", "the device is made in a network namespace of its own; needs no root"),
            Known::flag("--private-if-allowed", "the same, and no device where that is forbidden"),
            Known::value("--routes", "WHAT", "which routes to set: pushed, none, or networks"),
            Known::list("--suite", "S", "offered suites, the preferred one first; aes-256-gcm, fernet"),
            Known::value("--send", "TEXT", "send a message, print the answer"),
            Known::flag("--ping", "ping the server through the tunnel, print the times"),
            Known::value("--count", "N", "with --ping: how often; 3"),
            Known::flag("--once", "do not connect again; leave after --send and --ping"),
            Known::value("--congestion", "C", "of the carrier: auto (bbr on long paths), system, or a name"),
            Known::value("--name", "NAME", "of this instance; client"),
            Known::flag("--verbose", "log more"),
        ],
        operands: &[],
        command: false,
    },
    notes: "\
Prints 'connected: ' and what was agreed when the tunnel is up, and logs to stderr. Connects again when the
connection is lost. Ctrl-C or SIGTERM ends it: the server is told, and everything that was changed on this
machine is changed back.",
    run: client,
};

/// How long an orderly end may take.
const STOP_TIME: Duration = Duration::from_secs(3);

fn client(arguments: &Arguments) -> Result<ExitCode, Failure> {
    signal::block().map_err(|error| error.to_string())?;
    process::forbid_core_dumps().map_err(|error| error.to_string())?;
    log::set_verbose(arguments.has("--verbose"));
    let settings = settings(arguments)?;
    let mut host = Host { device: settings.device.clone(), routes: settings.routes.clone(), opened: None };
    let client = Client::new(settings).map_err(|error| format!("cannot start: {error}"))?;
    let stopped = Arc::clone(&client);
    let waiting = thread::Builder::new().name("signals".into()).spawn(move || {
        let signal = signal::wait();
        log::info("tunnel", "stopping", &[("signal", &signal.name())]);
        stopped.stop();
        // A connection being made cannot be cut short. There is nothing to undo that does not go with the device.
        thread::sleep(STOP_TIME);
        std::process::exit(0);
    });
    waiting.map_err(|error| format!("cannot start a thread: {error}"))?;
    client.run(&mut host)?;
    Ok(ExitCode::SUCCESS)
}

fn settings(arguments: &Arguments) -> Result<ClientSettings, Failure> {
    let key = match arguments.path("-k") {
        Some(file) => {
            let (keys, warning) = key_file::read(&file).map_err(|error| error.to_string())?;
            if let Some(warning) = warning {
                log::warning("config", &warning, &[]);
            }
            keys.into_iter().next().map(|named| named.key)
        }
        None => None,
    };
    let mut settings = match (arguments.path("-c"), key) {
        (Some(file), None) => super::configured_client(&file)?,
        (Some(file), Some(key)) => ClientSettings { key, ratchet: None, ..super::configured_client(&file)? },
        (None, Some(key)) => ClientSettings::new("127.0.0.1:12345", key),
        (None, None) => {
            let which = "which key? -k FILE names the file that holds it, -c FILE a configuration";
            return Err(UsageError(which.into()).into());
        }
    };
    for (option, name) in [
        ("--connect", "server"),
        ("--tun", "interface"),
        ("--routes", "routes"),
        ("--suite", "suites"),
        ("--congestion", "congestion"),
        ("--name", "name"),
    ] {
        if let Some(value) = super::joined(arguments, option)? {
            settings.set(name, &value).map_err(|reason| UsageError(format!("{option}: {reason}")))?;
        }
    }
    settings.device = device::chosen(arguments, &settings.device);
    settings.send = arguments.text("--send")?.map(str::to_owned);
    if settings.send.as_ref().is_some_and(|text| text.is_empty() || text.len() > MAX_MESSAGE) {
        return Err(UsageError(format!("--send takes 1 to {MAX_MESSAGE} bytes of text")).into());
    }
    let count = arguments.number("--count", 65_535)?;
    settings.pings = match (arguments.has("--ping"), count) {
        (true, count) => u32::try_from(count.unwrap_or(3)).ok(),
        (false, None) => None,
        (false, Some(_)) => return Err(UsageError("--count belongs to --ping".into()).into()),
    };
    settings.once = arguments.has("--once");
    settings.verbose = arguments.has("--verbose");
    Ok(settings)
}

/// This machine: the device is opened when the server has said what it should look like.
struct Host {
    device: Device,
    routes: Routes,
    opened: Option<(Interface, Arc<Tun>)>,
}

impl Machine for Host {
    fn set_up(&mut self, config: &NetworkConfig) -> Result<Option<Arc<Tun>>, String> {
        let first = self.opened.is_none();
        if first {
            self.opened = device::open(&self.device)?.map(|(interface, tun)| (interface, Arc::new(tun)));
            if self.opened.is_none() {
                self.device = Device::None;
            }
        }
        let Some((interface, tun)) = &mut self.opened else { return Ok(None) };
        let routes = match &self.routes {
            Routes::Pushed => &config.routes,
            Routes::Only(routes) => routes,
        };
        interface.set_up(config.mtu, &config.addresses, routes)?;
        if let (true, Some(server)) = (first, config.server.first()) {
            interface.invite(&format!("ping {server}"));
        }
        Ok(Some(Arc::clone(tun)))
    }
}
