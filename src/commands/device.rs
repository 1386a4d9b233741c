//! The device of a server or client, opened and set up as its settings say. And `fernvpn clean-up`.

use super::Failure;
use crate::config::arguments::Arguments;
use crate::config::file::Configuration;
use crate::config::options::DEVICE;
use crate::config::settings::Device;
use crate::os::namespace::Namespace;
use crate::os::network::{self, Change, Network, Place};
use crate::os::tun::Tun;
use crate::os::{log, nat, process};
use crate::packet::subnet::Subnet;
use std::net::{IpAddr, Ipv6Addr};
use std::process::ExitCode;

pub(super) fn clean_up(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let configured = match arguments.path("-c") {
        None => Device::Tun(DEVICE.into()),
        Some(file) => match super::configuration(&file)? {
            Configuration::Server(settings) => settings.device,
            Configuration::Client(settings) => settings.device,
        },
    };
    let device = arguments.text("--tun")?.map_or(configured, |name| Device::Tun(name.into()));
    open(&device)?; // which clears, and closes it again
    Ok(ExitCode::SUCCESS)
}

/// A device and the changes made for it, which go when this goes.
pub struct Interface {
    network: Network,
    made: Vec<Change>,
}

/// Opens the device, or none if the settings say so. Whoever has just opened a device of this name knows that what is
/// left of an earlier one is nobody's, and clears it.
///
/// # Errors
/// A sentence: what does not work, and what to do.
pub fn open(device: &Device) -> Result<Option<(Interface, Tun)>, String> {
    let (place, tun) = match device {
        Device::None => return Ok(None),
        Device::Tun(name) => (Place::Host, Tun::create(name, true).map_err(|error| error.to_string())?),
        Device::Private { name, or_none, namespace } => match Namespace::create(name, true, namespace.as_deref()) {
            Ok((namespace, tun)) => (Place::Private(namespace), tun),
            Err(error) if *or_none => {
                log::warning("os", "going on without a device: pings and messages only", &[("reason", &error)]);
                return Ok(None);
            }
            Err(error) => return Err(error.to_string()),
        },
    };
    if matches!(place, Place::Host) {
        nat::put_back(tun.name());
    }
    let network = Network::new(place, tun.name());
    network.clear();
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
        self.apply(wanted)
    }

    /// The same for a client, with its resolvers. On the host it steers by a table of its own.
    ///
    /// # Errors
    /// A sentence that names the command that failed.
    pub fn set_up_client(
        &mut self,
        mtu: u16,
        addresses: &[Subnet],
        routes: &[Subnet],
        resolvers: &[IpAddr],
    ) -> Result<(), String> {
        if self.private().is_some() {
            return self.set_up(mtu, addresses, routes);
        }
        let carries_ipv6 = addresses.iter().any(|own| own.address.is_ipv6());
        // Most of IPv4 by a tunnel without IPv6: then no IPv6 at all, rather than past the tunnel.
        let size = |route: &Subnet| (route.address.is_ipv4()).then(|| 1_u64 << (32 - route.prefix));
        let refuse_ipv6 =
            !carries_ipv6 && routes.iter().filter_map(size).sum::<u64>() >= 1 << 31 && network::has_ipv6(mtu);
        let own = addresses.iter().map(|own| own.address).collect();
        let mut wanted = vec![Change::Up { mtu }];
        wanted.extend(addresses.iter().map(|address| Change::Address(*address)));
        wanted.push(Change::Firewall { own, refuse_ipv6 });
        if !routes.is_empty() {
            let networks = addresses.iter().map(|own| Subnet { address: own.network(), ..*own });
            let refused = Subnet { address: Ipv6Addr::UNSPECIFIED.into(), prefix: 0 };
            for route in routes.iter().copied().chain(networks).chain(refuse_ipv6.then_some(refused)) {
                let steered = Change::Steered(route);
                if (route.address.is_ipv4() || carries_ipv6 || refuse_ipv6) && !wanted.contains(&steered) {
                    wanted.push(steered);
                }
            }
            let strict = self.made.contains(&Change::ValidMark) || network::filters_strictly();
            wanted.extend(strict.then_some(Change::ValidMark));
            wanted.push(Change::Rule { ipv6: false });
            wanted.extend((carries_ipv6 || refuse_ipv6).then_some(Change::Rule { ipv6: true }));
        }
        if !resolvers.is_empty() {
            wanted.push(Change::Resolvers(resolvers.to_vec()));
        }
        self.apply(wanted)
    }

    fn apply(&mut self, mut wanted: Vec<Change>) -> Result<(), String> {
        let text = |error: std::io::Error| error.to_string();
        // What is here after a failure is what was made: then something else can be wanted.
        let (stays, goes) = std::mem::take(&mut self.made).into_iter().partition(|old| wanted.contains(old));
        self.made = stays;
        let goes: Vec<Change> = goes;
        for old in goes.iter().rev().filter(|old| !matches!(old, Change::Up { .. })) {
            self.network.take_back(old).map_err(text)?;
        }
        for (at, new) in wanted.iter().enumerate() {
            if self.made.contains(new) {
                continue;
            }
            match self.network.make(new.clone()) {
                // The last one. A tunnel without its resolvers is better than none.
                Err(error) if matches!(new, Change::Resolvers(_)) => {
                    let text = "the tunnel's resolvers are not in use; put them into /etc/resolv.conf, or configure dns = none";
                    log::warning("os", text, &[("reason", &error)]);
                    wanted.truncate(at);
                    break;
                }
                Ok(()) if matches!(new, Change::Resolvers(_)) && !network::resolv_conf_is_resolveds() => {
                    let text = "programs that read /etc/resolv.conf do not ask the tunnel's resolvers: \
                                ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf";
                    log::warning("os", text, &[]);
                }
                made => made.map_err(text)?,
            }
            self.made.push(new.clone());
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
            let text = "the device is in a private network; look around in it from another terminal, for example:";
            log::info("os", text, &[]);
            log::to_paste(&format!("{} {command}", namespace.enter_command()));
        }
    }
}

/// The device that the command line asks for: `--tun NAME`, `--no-tun`, `--private`, `--private-if-allowed`, `--namespace`.
pub fn chosen(arguments: &Arguments, configured: &Device) -> Device {
    let name = || match configured {
        Device::Tun(name) | Device::Private { name, .. } => name.clone(),
        Device::None => DEVICE.into(),
    };
    let namespace = arguments.values("--namespace").next().map(|name| name.to_string_lossy().into_owned());
    let or_none = arguments.has("--private-if-allowed");
    let private = or_none || arguments.has("--private") || arguments.command().is_some() || namespace.is_some();
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
            log::warning("os", "few open files are allowed (ulimit -n)", &[("allowed", &allowed), ("wanted", &wanted)]);
        }
        Ok(_) => {}
        Err(error) => log::warning("os", "cannot raise the limit of open files", &[("reason", &error)]),
    }
    // Each client its thread, and the strangers theirs; at worst, each client a companion as well.
    let (usual, worst) = (connections as u64 + 1024 + 64, 2 * connections as u64 + 1024);
    for limit in process::thread_limits() {
        let wanted = if limit.deadly { worst } else { usual };
        if limit.most < wanted {
            let text = if limit.deadly { "without them the server may abort" } else { "later ones will be refused" };
            log::warning(
                "os",
                &format!("so many clients (max-clients) need more threads: {text}"),
                &[("limit", &limit.name), ("allowed", &limit.most), ("wanted", &wanted)],
            );
        }
    }
}
