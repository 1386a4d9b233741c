//! `fernvpn server`

use super::{Failure, device, status};
use crate::config::arguments::{Arguments, UsageError};
use crate::config::key_file::NamedKey;
use crate::config::options;
use crate::config::settings::{self, Device, Peer, ServerSettings};
use crate::os;
use crate::os::control::{self, Control};
use crate::os::lock::{Lock, Rank};
use crate::os::nat::Nat;
use crate::os::network::Network;
use crate::os::signal::Signal;
use crate::os::{log, network_state, notify, overlaps, process, signal};
use crate::packet::subnet::Subnet;
use crate::tunnel::server::Server;
use crate::tunnel::wire::network_config::listed;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;

pub(super) fn server(arguments: &Arguments) -> Result<ExitCode, Failure> {
    signal::block()?;
    process::forbid_core_dumps()?;
    super::set_log_level(arguments)?;
    let settings = on_this_machine(settings(arguments)?)?;
    device::raise_limits(settings.max_clients);
    let listeners = listen(&settings)?;
    // The program changes a private network from outside, which needs more privileges.
    if !matches!(settings.device, Device::Private { .. }) {
        control::share_folder();
        process::keep_network_rights_only()?;
    }
    let (network, tun) = device::open(&settings.device)?.unzip();
    let device = tun.as_ref().map(|tun| tun.name().to_owned());
    let mut machine = Machine {
        network,
        device,
        nat: None,
    };
    machine.set_up(&settings)?;
    if let (Some(network), Some(device)) = (&machine.network, &machine.device) {
        // These files are not secret, and give the clients something to fetch.
        let page = "python3 -m http.server --directory /usr/share/doc 8000";
        device::invite(network, device, &["ip -brief address", page]);
    }
    let addresses: Vec<_> = listeners
        .iter()
        .filter_map(|listener| listener.local_addr().ok())
        .collect();
    let clients = settings.peers.len();
    let own = listed(&settings.addresses);
    let name = settings.name.clone();
    let server = Server::start(settings, listeners, tun)?;
    process::wipe_stack();
    let running = Arc::new(Running {
        arguments: arguments.clone(),
        server,
        machine: Lock::new(Rank::Machine, Some(machine)),
    });
    let kept = Arc::downgrade(&running);
    let checked = network_state::keep(move || match kept.upgrade() {
        Some(running) => running.check_machine(),
        None => false,
    });
    if let Err(error) = checked {
        let text = "cannot watch the network, so changes by other programs are not repaired";
        log::warning("os", text, &[("reason", &error)]);
    }
    let asked = Arc::clone(&running);
    let answer = move |question: &str| {
        status::answer(
            question,
            |format| asked.server.status(format),
            || asked.reload(),
        )
    };
    let control = Control::open(&name, answer);
    if let Err(reason) = &control {
        log::warning(
            "os",
            "fernvpn status and reload cannot ask this server",
            &[("reason", reason)],
        );
    }
    log::info(
        "tunnel",
        "ready",
        &[("clients", &clients), ("addresses", &own)],
    );
    for address in addresses {
        let mut stdout = io::stdout().lock();
        let _ = writeln!(stdout, "listening on {address}").and_then(|()| stdout.flush());
    }
    notify::watch();
    notify::tell("READY=1");
    let signal = loop {
        match signal::wait() {
            // The log has the result. SIGHUP from a terminal says that the terminal is gone.
            (Signal::Hangup, false) => drop(running.reload()),
            (signal, _) => break signal,
        }
    };
    drop(control);
    let machine = running.machine.lock().take();
    let nat = machine.as_ref().and_then(|machine| machine.nat.as_ref());
    let failure = running.server.failure().or(nat.and_then(Nat::failure));
    if failure.is_none() {
        log::info("tunnel", "stopping", &[("signal", &signal.name())]);
    }
    notify::tell("STOPPING=1");
    running.server.stop();
    drop(machine);
    failure.map_or(Ok(ExitCode::SUCCESS), |reason| Err(reason.into()))
}

/// A server and its settings.
struct Running {
    arguments: Arguments,
    server: Server,
    /// `None` once it stops.
    machine: Lock<Option<Machine>>,
}

impl Running {
    /// Repairs what other programs have changed. Returns false once the server stops.
    fn check_machine(&self) -> bool {
        let mut machine = self.machine.lock();
        if let Some(machine) = machine.as_mut() {
            machine.check();
        }
        machine.is_some()
    }

    /// Reads the configuration anew and applies it. After an error, nothing has changed.
    fn reload(&self) -> Result<String, String> {
        notify::tell("RELOADING=1");
        let done = self.take_up();
        process::wipe_stack();
        notify::tell("READY=1");
        match &done {
            Ok(what) => log::info("config", &format!("reloaded: {what}"), &[]),
            Err(reason) => log::error(
                "config",
                "not reloaded; the earlier configuration stays",
                &[("reason", reason)],
            ),
        }
        done
    }

    #[inline(never)] // what it leaves on the stack can be wiped behind it
    fn take_up(&self) -> Result<String, String> {
        let mut machine = self.machine.lock();
        let machine = machine.as_mut().ok_or("the server stops")?;
        let mut new = settings(&self.arguments).map_err(|failure| match failure {
            Failure::Reason(reason) => reason,
            other => other.to_string(),
        })?;
        let old = self.server.settings();
        if !new.has_chosen_addresses && !old.has_chosen_addresses {
            new.addresses.clone_from(&old.addresses);
        }
        let stays = options::keep_what_needs_a_restart(&mut new, &old);
        let needs = if stays.is_empty() {
            String::new()
        } else {
            format!(" (needs a restart: {})", stays.join(", "))
        };
        let done = self.server.reload(new, |new| {
            machine.set_up(new).inspect_err(|_| {
                if let Err(reason) = machine.set_up(&old) {
                    log::error("os", "not repaired", &[("reason", &reason)]);
                }
            })
        });
        done.map(|what| what + &needs)
            .map_err(|reason| reason + &needs)
    }
}

/// The changes of a server to this machine. They are undone when this is dropped.
struct Machine {
    nat: Option<Nat>,
    network: Option<Network>,
    device: Option<String>,
}

impl Machine {
    fn check(&mut self) {
        if let Some(network) = &mut self.network {
            network.check();
        }
    }

    /// Changes the machine as the settings ask.
    fn set_up(&mut self, settings: &ServerSettings) -> Result<(), String> {
        let text = |error: io::Error| error.to_string();
        if let Some(network) = &mut self.network {
            // These routes are for networks behind clients. The tunnel's own come with the
            // addresses.
            let routes: Vec<Subnet> = settings
                .peers
                .iter()
                .flat_map(|peer| peer.routes.iter().copied())
                .collect();
            network
                .set_up(settings.mtu, &settings.addresses, &routes)
                .map_err(text)?;
        }
        let uplink = match &settings.nat {
            settings::Nat::By(uplink) => Some(uplink.as_str()),
            settings::Nat::Auto if !settings.push_routes.is_empty() => None,
            _ => {
                self.nat = None;
                return Ok(());
            }
        };
        match (&settings.device, &self.device, &self.nat) {
            (_, _, Some(nat)) => nat.open_to(&settings.push_routes).map_err(text)?,
            (Device::Tun(_), Some(device), None) => {
                let ports: Vec<u16> = settings.listen.iter().map(SocketAddr::port).collect();
                let nat = Nat::begin(
                    device,
                    &settings.addresses,
                    uplink,
                    &settings.push_routes,
                    &ports,
                );
                self.nat = Some(nat.map_err(text)?);
            }
            _ if uplink.is_some() => {
                return Err(
                    "nat needs a device on this host. Try: leave out --no-tun and --private".into(),
                );
            }
            _ => {}
        }
        Ok(())
    }
}

fn settings(arguments: &Arguments) -> Result<ServerSettings, Failure> {
    let mut settings = match arguments.path("-c") {
        Some(file) => super::configured_server(&file)?,
        None => ServerSettings::default(),
    };
    super::set_given(arguments, &mut settings)?;
    settings.device = device::chosen(arguments, &settings.device);
    let mut keys = Vec::new();
    for file in arguments.paths("-k") {
        keys.extend(super::keys(&file)?);
    }
    settings.peers.extend((1..).zip(keys).map(peer));
    if settings.peers.is_empty() && !arguments.has("-c") {
        let which = "no clients are given. Try: -k FILE with a key for each, or -c FILE";
        return Err(UsageError(which.into()).into());
    }
    settings.consistent()?;
    Ok(settings)
}

/// The settings for this machine. If another link already has one of the default networks, the
/// server takes others, with a warning. Networks that a person chose stay.
///
/// # Errors
/// Another server on this machine has the same network. Only one of the two could work.
pub(super) fn on_this_machine(mut settings: ServerSettings) -> Result<ServerSettings, String> {
    let overlaps = settings.overlaps();
    if let Some(overlap) = overlaps.iter().find(|overlap| overlap.is_server) {
        return Err(format!("another server runs on this machine: {overlap}"));
    }
    let has_fixed = settings.peers.iter().any(|peer| !peer.addresses.is_empty());
    if let Device::Tun(device) = &settings.device
        && !settings.has_chosen_addresses
        && !has_fixed
        && !overlaps.is_empty()
    {
        settings.addresses = overlaps::free(&settings.addresses, device);
        let now = listed(&settings.addresses);
        let why = listed(&overlaps);
        let text = "this machine uses the default network already, so the tunnel takes another; \
                    set 'address' to keep it";
        log::warning("config", text, &[("addresses", &now), ("reason", &why)]);
    }
    for overlap in settings.overlaps() {
        log::warning("config", &overlap.to_string(), &[]);
    }
    Ok(settings)
}

/// Each key is one client. Its name is the key's comment, or else its number.
fn peer((number, NamedKey { key, name, .. }): (usize, NamedKey)) -> Peer {
    Peer {
        name: name.unwrap_or_else(|| format!("client{number}")),
        keys: vec![key],
        ..Peer::default()
    }
}

fn listen(settings: &ServerSettings) -> Result<Vec<TcpListener>, String> {
    settings.listen.iter().map(bind).collect()
}

fn bind(address: &SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => {
                " (another program listens there, or an earlier address of this server, as [::] \
                 does on 0.0.0.0). Try: ss -ltnp"
            }
            io::ErrorKind::PermissionDenied => {
                " (a port below 1024 takes root; for a service, use low-port.conf in \
                 /usr/share/doc/fernvpn/examples)"
            }
            io::ErrorKind::AddrNotAvailable => {
                " (this machine does not have that address). Try: ip -brief address"
            }
            _ => "",
        };
        format!("cannot listen on {address}: {}{advice}", os::reason(&error))
    })
}
