//! The device of a server or client, opened and set up as its settings say.

use crate::config::settings::Device;
use crate::os::namespace::Namespace;
use crate::os::network::{Change, Network, Place};
use crate::os::tun::Tun;
use crate::os::{log, process};
use crate::packet::subnet::Subnet;

/// A device and the changes made for it, which go when this goes.
pub struct Interface {
    network: Network,
    made: Vec<Change>,
}

/// Opens the device, or none if the settings say so.
///
/// # Errors
/// A sentence: what does not work, and what to do.
pub fn open(device: &Device) -> Result<Option<(Interface, Tun)>, String> {
    let (place, tun) = match device {
        Device::None => return Ok(None),
        Device::Tun(name) => (Place::Host, Tun::create(name, true).map_err(|error| error.to_string())?),
        Device::Private { name, or_none, namespace } => {
            match Namespace::create(name, true, namespace.as_deref()) {
                Ok((namespace, tun)) => (Place::Private(namespace), tun),
                Err(error) if *or_none => {
                    log::warning(
                        "os",
                        "going on without a device: pings and messages only",
                        &[("reason", &error)],
                    );
                    return Ok(None);
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    };
    let network = Network::new(place, tun.name());
    Ok(Some((Interface { network, made: Vec::new() }, tun)))
}

impl Interface {
    /// Makes the device's network what is asked for: what is new is made, what is no longer wanted is taken back.
    ///
    /// # Errors
    /// A sentence that names the command that failed.
    pub fn set_up(&mut self, mtu: u16, addresses: &[Subnet], routes: &[Subnet]) -> Result<(), String> {
        let mut wanted = vec![Change::Up { mtu }];
        wanted.extend(addresses.iter().map(|address| Change::Address(*address)));
        wanted.extend(routes.iter().map(|route| Change::Route(*route)));
        let text = |error: std::io::Error| error.to_string();
        for old in
            self.made.iter().rev().filter(|old| !wanted.contains(old) && !matches!(old, Change::Up { .. }))
        {
            self.network.take_back(*old).map_err(text)?;
        }
        for new in wanted.iter().filter(|new| !self.made.contains(new)) {
            self.network.make(*new).map_err(text)?;
        }
        self.made = wanted;
        Ok(())
    }

    /// The private network, if the device is in one.
    pub fn private(&self) -> Option<&Namespace> {
        match self.network.place() {
            Place::Private(namespace) => Some(namespace),
            Place::Host => None,
        }
    }

    /// Where the device is in a private network: tells how to look around in there, by a command to paste.
    pub fn invite(&self, command: &str) {
        if let Some(namespace) = self.private() {
            let text =
                "the device is in a private network; look around in it from another terminal, for example:";
            log::info("os", text, &[]);
            log::to_paste(&format!("{} {command}", namespace.enter_command()));
        }
    }
}

/// The device that the command line asks for: `--tun NAME`, `--no-tun`, `--private`, `--private-if-allowed`, `--namespace`.
pub fn chosen(arguments: &crate::config::arguments::Arguments, configured: &Device) -> Device {
    let name = || match configured {
        Device::Tun(name) | Device::Private { name, .. } => name.clone(),
        Device::None => crate::config::options::DEVICE.into(),
    };
    let namespace = arguments.values("--namespace").next().map(|name| name.to_string_lossy().into_owned());
    let or_none = arguments.has("--private-if-allowed");
    let private =
        or_none || arguments.has("--private") || arguments.command().is_some() || namespace.is_some();
    match configured {
        _ if arguments.has("--no-tun") => Device::None,
        _ if private => Device::Private { name: name(), or_none, namespace },
        configured => configured.clone(),
    }
}

/// Room for as many connections as the system allows, which is said if it is not much.
pub fn raise_limits(connections: usize) {
    let wanted = connections as u64 + 2048;
    match process::raise_open_files(wanted) {
        Ok(allowed) if allowed < wanted => {
            log::warning(
                "os",
                "few open files are allowed (ulimit -n)",
                &[("allowed", &allowed), ("wanted", &wanted)],
            );
        }
        Ok(_) => {}
        Err(error) => log::warning("os", "cannot raise the limit of open files", &[("reason", &error)]),
    }
    // Each client its thread and at worst a companion, and the strangers theirs.
    let threads = 2 * connections as u64 + 1024;
    if let Some(most) = process::most_threads().filter(|most| *most < threads) {
        log::warning(
            "os",
            "so many clients need more memory mappings (sysctl vm.max_map_count); without them the server may abort",
            &[("threads", &most), ("wanted", &threads)],
        );
    }
}
