//! `fernvpn client`, `fernvpn unlock`

use super::{Failure, device, status};
use crate::config::arguments::{Arguments, UsageError};
use crate::config::settings::{ClientSettings, Device};
use crate::config::state_file::StoredRatchet;
use crate::fernet::Key;
use crate::os::control::Control;
use crate::os::lock::{Lock, Rank};
use crate::os::network::{self, KillSwitch, Network};
use crate::os::resolver;
use crate::os::signal::Signal;
use crate::os::tun::Tun;
use crate::os::{log, network_state, notify, process, signal};
use crate::tunnel::client::{Client, Machine};
use crate::tunnel::session::receiver::MAX_MESSAGE;
use crate::tunnel::wire::network_config::NetworkConfig;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The answer to a reload.
const RESTART: &str = "a client reads its configuration only when it starts. Try: restart it";

/// How long an orderly stop may take.
const STOP_TIME: Duration = Duration::from_secs(13);

pub(super) fn client(arguments: &Arguments) -> Result<ExitCode, Failure> {
    signal::block()?;
    process::forbid_core_dumps()?;
    super::set_log_level(arguments)?;
    let settings = settings(arguments)?;
    process::wipe_stack();
    let has_command = !settings.command.is_empty();
    if has_command && !arguments.has("--verbose") {
        log::set_quiet();
    }
    let (ended, command) = run(settings);
    match command {
        None if !has_command => ended.map(|()| ExitCode::SUCCESS).map_err(Failure::Reason),
        None => {
            let reason = ended
                .err()
                .unwrap_or_else(|| "stopped before the tunnel was up".into());
            log::say(format_args!("fernvpn: {reason}"));
            Ok(ExitCode::from(125))
        }
        Some(command) => {
            if let Err(reason) = ended {
                log::error(
                    "tunnel",
                    "the tunnel has ended; COMMAND has no network",
                    &[("reason", &reason)],
                );
            }
            Ok(ExitCode::from(command.join().unwrap_or(125)))
        }
    }
}

pub(super) fn unlock(_: &Arguments) -> Result<ExitCode, Failure> {
    network::unlock(None)
        .map(|()| ExitCode::SUCCESS)
        .map_err(|error| Failure::Reason(error.to_string()))
}

/// The result of the tunnel, and the thread that waits for the command, if one was started.
fn run(settings: ClientSettings) -> (Result<(), String>, Option<JoinHandle<u8>>) {
    // Before the handshake, which would end a session of this client's on another machine.
    if let Err(error) = device::check_system(&settings.device) {
        return (Err(error.to_string()), None);
    }
    let client = match Client::new(settings.clone()) {
        Ok(client) => client,
        Err(error) => return (Err(format!("cannot start: {error}")), None),
    };
    process::wipe_stack();
    // Its lock comes before anything is changed on this machine.
    let asked = Arc::clone(&client);
    let answer = move |question: &str| {
        status::answer(
            question,
            |format| asked.status(format),
            || Err(RESTART.into()),
        )
    };
    let control = Control::open(&settings.name, answer);
    if let Err(reason) = &control {
        log::info(
            "os",
            "fernvpn status cannot ask this client",
            &[("reason", reason)],
        );
    }
    let lock = match &settings.device {
        Device::Tun(device) if settings.kill_switch => Some(device.clone()),
        _ => None,
    };
    let has_lock = lock.is_some();
    let changed = Arc::new(Lock::new(Rank::Machine, Changed::default()));
    if let Some(device) = &lock {
        // The kill switch lets this client ask the local network's resolvers, but not a resolver on
        // this machine. So the client asks that one before.
        let known = resolver::past_the_tunnel();
        let is_here = |resolver: &SocketAddr| resolver.ip().is_loopback();
        if (known.is_empty() || known.iter().any(is_here))
            && let Err(reason) = client.find_server()
        {
            log::warning("tunnel", &reason, &[]);
        }
        match KillSwitch::begin(device) {
            Ok(switch) => changed.lock().kill_switch = Some(switch),
            Err(error) => return (Err(error.to_string()), None),
        }
    }
    if let Err(error) = keep(&settings, &changed) {
        let text = "cannot watch the network, so changes by other programs are not repaired";
        log::warning("os", text, &[("reason", &error)]);
    }
    let mut host = Host {
        settings,
        changed: Arc::clone(&changed),
        client: Arc::clone(&client),
        command: None,
        running: Arc::new(Lock::new(Rank::RunningCommand, None)),
    };
    let stopped = Arc::clone(&client);
    let running = Arc::clone(&host.running);
    let end_changes = move || {
        let mut changed = changed.lock();
        changed.is_over = true;
        drop(changed.opened.take());
    };
    let over = end_changes.clone();
    let clean_up = move || {
        over();
        if lock.is_some()
            && let Err(error) = network::unlock(lock.as_deref())
        {
            log::warning("os", "the kill switch is still on", &[("reason", &error)]);
        }
    };
    let undo = clean_up.clone();
    let waiting = thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            loop {
                let (signal, by_terminal) = signal::wait();
                if let Some(command) = *running.lock() {
                    if !by_terminal {
                        // The process may have ended just now.
                        let _ = signal::send(command, signal);
                    }
                    continue;
                }
                // SIGHUP from a terminal says that the terminal is gone.
                if (signal, by_terminal) == (Signal::Hangup, false) {
                    log::warning("config", RESTART, &[]);
                    continue;
                }
                log::info("tunnel", "stopping", &[("signal", &signal.name())]);
                notify::tell("STOPPING=1");
                stopped.stop();
                // An attempt to connect cannot be interrupted.
                thread::sleep(STOP_TIME);
                undo();
                std::process::exit(0);
            }
        });
    let ended = match waiting {
        Ok(_) => {
            notify::watch();
            client.run(&mut host)
        }
        Err(error) => Err(format!("cannot start a thread: {error}")),
    };
    drop(control);
    if ended.is_err() && has_lock {
        log::warning(
            "os",
            "the kill switch stays on; fernvpn unlock ends it",
            &[],
        );
        end_changes();
    } else {
        clean_up();
    }
    (ended, host.command)
}

fn settings(arguments: &Arguments) -> Result<ClientSettings, Failure> {
    let file = arguments.path("-k");
    let ratchet = arguments.has("--ratchet");
    let key = match &file {
        // Whoever takes the state reads the key: this one would stay after the first step.
        Some(file) if ratchet => {
            StoredRatchet::read(file)?;
            Some(Key::from_bytes(&[0; 32]))
        }
        Some(file) => super::keys(file)?.into_iter().next().map(|named| named.key),
        None if ratchet => return Err(UsageError("--ratchet belongs to -k FILE".into()).into()),
        None => None,
    };
    let ratchet = file.filter(|_| ratchet);
    let mut settings = match (arguments.path("-c"), key) {
        (Some(file), None) => super::configured_client(&file)?,
        (Some(file), Some(key)) => ClientSettings {
            key,
            ratchet,
            ..super::configured_client(&file)?
        },
        (None, Some(key)) => ClientSettings {
            ratchet,
            ..ClientSettings::new("127.0.0.1:12345", key)
        },
        (None, None) => {
            let which = "no key is given. Try: -k FILE with the key, or -c FILE";
            return Err(UsageError(which.into()).into());
        }
    };
    super::set_given(arguments, &mut settings)?;
    settings.device = device::chosen(arguments, &settings.device);
    settings.command = arguments.command().unwrap_or_default().to_vec();
    if arguments.command().is_some()
        && (settings.command.is_empty() || settings.device == Device::None)
    {
        return Err(UsageError("-- takes a COMMAND, and a device for its network".into()).into());
    }
    settings.send = arguments.text("--send")?.map(str::to_owned);
    let is_wrong = |text: &String| text.is_empty() || text.len() > MAX_MESSAGE;
    if settings.send.as_ref().is_some_and(is_wrong) {
        return Err(UsageError(format!("--send takes 1 to {MAX_MESSAGE} bytes of text")).into());
    }
    let count = arguments.number("--count", 65_535)?;
    settings.pings = match (arguments.has("--ping"), count) {
        (true, count) => u32::try_from(count.unwrap_or(3)).ok(),
        (false, None) => None,
        (false, Some(_)) => return Err(UsageError("--count belongs to --ping".into()).into()),
    };
    settings.once = arguments.has("--once");
    Ok(settings)
}

/// The changes of a client to this machine.
#[derive(Default)]
struct Changed {
    kill_switch: Option<KillSwitch>,
    /// The device, once there is one.
    opened: Option<(Network, Arc<Tun>)>,
    /// The changes are undone, and nothing must be repaired any more.
    is_over: bool,
}

/// The threads that make, repair and undo the changes share it.
type Shared = Arc<Lock<Changed>>;

/// Repairs the changes to this machine when other programs undo them.
fn keep(settings: &ClientSettings, changed: &Shared) -> io::Result<()> {
    if !matches!(settings.device, Device::Tun(_)) {
        return Ok(());
    }
    let changed = Arc::clone(changed);
    network_state::keep(move || {
        let mut changed = changed.lock();
        if changed.is_over {
            return false;
        }
        if let Some(switch) = &mut changed.kill_switch {
            switch.check();
        }
        if let Some((network, _)) = &mut changed.opened {
            network.check();
        }
        true
    })
}

/// This machine. The device is opened when the server has described its network.
struct Host {
    settings: ClientSettings,
    changed: Shared,
    client: Arc<Client>,
    /// Waits for the end of the command, stops the client, and keeps the command's exit status.
    command: Option<JoinHandle<u8>>,
    /// The command's process while there is one.
    running: Arc<Lock<Option<u32>>>,
}

impl Machine for Host {
    fn set_up(
        &mut self,
        config: &NetworkConfig,
        carrier: SocketAddr,
    ) -> Result<Option<Arc<Tun>>, String> {
        let text = |error: io::Error| error.to_string();
        let mut changed = self.changed.lock();
        let opened = &mut changed.opened;
        let first = opened.is_none();
        if first {
            *opened = device::open(&self.settings.device)
                .map_err(text)?
                .map(|(network, tun)| (network, Arc::new(tun)));
            if opened.is_none() {
                self.settings.device = Device::None;
            }
        }
        let Some((network, tun)) = opened else {
            return Ok(None);
        };
        let ClientSettings {
            routes,
            dns,
            command,
            ..
        } = &self.settings;
        let routes = routes.as_ref().unwrap_or(&config.routes);
        let resolvers = dns.as_ref().unwrap_or(&config.dns);
        network
            .set_up_client(config.mtu, &config.addresses, routes, resolvers, carrier)
            .map_err(text)?;
        for overlap in self.settings.overlaps(&config.addresses, routes) {
            log::warning("os", &overlap.to_string(), &[]);
        }
        if first
            && command.is_empty()
            && let Some(server) = config.server.first()
        {
            let ping = format!("ping {server}");
            let page = format!("curl http://{server}:8000/");
            device::invite(network, tun.name(), &[&ping, &page]);
        }
        if first
            && !command.is_empty()
            && let Some(private) = network.private()
        {
            let failed = |error: io::Error| format!("cannot start the command: {error}");
            let mut command = private.command(resolvers, command).map_err(failed)?;
            let mut command = command.spawn().map_err(failed)?;
            *self.running.lock() = Some(command.id());
            let client = Arc::clone(&self.client);
            let running = Arc::clone(&self.running);
            let waiting = thread::Builder::new()
                .name("command".into())
                .spawn(move || {
                    let status = command.wait();
                    *running.lock() = None;
                    client.stop();
                    status.ok().and_then(process::shell_status).unwrap_or(125)
                });
            self.command = Some(waiting.map_err(failed)?);
        }
        Ok(Some(Arc::clone(tun)))
    }
}
