//! How is the device of a server or client opened and set up? And `fernvpn clean-up`.

use super::Failure;
use crate::config::arguments::Arguments;
use crate::config::file::Configuration;
use crate::config::options::DEVICE;
use crate::config::settings::Device;
use crate::os::namespace::{Namespace, THIS};
use crate::os::network::{Network, Place};
use crate::os::tun::Tun;
use crate::os::{control, log, nat, process};
use std::io;
use std::process::ExitCode;

pub(super) fn clean_up(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let configured = match arguments.path("-c") {
        None => Device::Tun(DEVICE.into()),
        Some(file) => match super::configuration(&file)? {
            Configuration::Server(settings) => settings.device,
            Configuration::Client(settings) => settings.device,
        },
    };
    let device = arguments
        .text("--tun")?
        .map_or(configured, |name| Device::Tun(name.into()));
    open(&device)?; // this clears the network, and closes the device again
    control::clear();
    Ok(ExitCode::SUCCESS)
}

/// Whether this system has what the device needs.
///
/// # Errors
/// Fails if something is missing for a device. Says what, and what to do.
pub fn check_system(device: &Device) -> io::Result<()> {
    match device {
        Device::None | Device::Private { or_none: true, .. } => Ok(()),
        Device::Tun(_) | Device::Private { .. } => Tun::check_system(),
    }
}

/// Opens the device, or none if the settings say so. Only one program can have a device of this
/// name, so this removes everything that an earlier one left behind.
///
/// # Errors
/// Fails if something does not work. Says what, and what to do.
pub fn open(device: &Device) -> io::Result<Option<(Network, Tun)>> {
    let (place, tun) = match device {
        Device::None => return Ok(None),
        Device::Tun(name) => (Place::Host, Tun::create(name, true)?),
        Device::Private {
            name,
            or_none,
            namespace,
        } => match Namespace::create(THIS, name, true, namespace.as_deref()) {
            Ok((namespace, tun)) => (Place::Private(namespace), tun),
            Err(error) if *or_none => {
                log::warning(
                    "os",
                    "going on without a device; only pings and messages work",
                    &[("reason", &error)],
                );
                return Ok(None);
            }
            Err(error) => return Err(error),
        },
    };
    if matches!(place, Place::Host) {
        nat::put_back(tun.name());
    }
    let network = Network::new(place, tun.name());
    network.clear();
    Ok(Some((network, tun)))
}

/// If the device is in a private network, logs commands that look into it.
pub fn invite(network: &Network, device: &str, commands: &[&str]) {
    let Some(namespace) = network.private() else {
        return;
    };
    let text = "the device is in a private network; to look into it from another terminal:";
    log::info("os", text, &[]);
    // If the namespace only knows one user, tcpdump would end, because it cannot become its own
    // user.
    let record = if namespace.of_one_user() {
        format!("tshark -l -i {device}")
    } else {
        format!("tcpdump -n -i {device}")
    };
    for command in commands.iter().chain([&record.as_str()]) {
        log::to_paste(&format!("{} {command}", namespace.enter_command()));
    }
}

/// The device that the command line asks for: `--tun NAME`, `--no-tun`, `--private`,
/// `--private-if-allowed`, `--namespace`.
pub fn chosen(arguments: &Arguments, configured: &Device) -> Device {
    let name = || match configured {
        Device::Tun(name) | Device::Private { name, .. } => name.clone(),
        Device::None => DEVICE.into(),
    };
    let namespace = arguments
        .values("--namespace")
        .next()
        .map(|name| name.to_string_lossy().into_owned());
    let or_none = arguments.has("--private-if-allowed");
    let private = or_none
        || arguments.has("--private")
        || arguments.command().is_some()
        || namespace.is_some();
    match configured {
        _ if arguments.has("--no-tun") => Device::None,
        _ if private => Device::Private {
            name: name(),
            or_none,
            namespace,
        },
        configured => configured.clone(),
    }
}

/// Raises the limit of open files as far as the system allows, and warns if that is too low.
pub fn raise_limits(connections: usize) {
    let wanted = connections as u64 + 2048;
    match process::raise_open_files(wanted) {
        Ok(allowed) if allowed < wanted => {
            log::warning(
                "os",
                "the system allows few open files. Try: ulimit -n",
                &[("allowed", &allowed), ("wanted", &wanted)],
            );
        }
        Ok(_) => {}
        Err(error) => log::warning(
            "os",
            "cannot raise the limit of open files",
            &[("reason", &error)],
        ),
    }
    // Each client has a thread, and so has each unauthenticated connection. At worst, each client
    // also has a flusher.
    let usual = connections as u64 + 1024 + 64;
    let worst = 2 * connections as u64 + 1024;
    for limit in process::thread_limits() {
        let wanted = if limit.deadly { worst } else { usual };
        if limit.most < wanted {
            let text = if limit.deadly {
                "the server may abort without them"
            } else {
                "the server will refuse later clients"
            };
            log::warning(
                "os",
                &format!("max-clients needs more threads than this limit allows; {text}"),
                &[
                    ("limit", &limit.name),
                    ("allowed", &limit.most),
                    ("wanted", &wanted),
                ],
            );
        }
    }
}
