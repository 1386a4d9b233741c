//! How does a host forward packets for the tunnel, and for nothing else?
//!
//! ```text
//! switch                                off -> on
//! ipv4/conf/DEVICE/forwarding             0 -> 2     for each device by which packets may arrive
//! ipv6/conf/DEVICE/force_forwarding       0 -> 1     the same, since Linux 6.17
//! ipv6/conf/all/forwarding                0 -> 2     before 6.17, IPv6 forwards on all or none,
//! ipv6/conf/DEVICE/accept_ra              1 -> 2     and then router advertisements need a 2 here
//! ```
//!
//! A switch that is on already belongs to another program, and stays as it is. The kernel takes
//! every number but 0 for "on", and other programs write 1. So a 2 is fernvpn's own. If a 2 has
//! become a 1, another program uses the switch and owns it from then on. fernvpn never writes
//! `all/forwarding` of IPv4. A program that reads it, such as Docker, then sees that it has to set
//! it.
//!
//! Sysctls outlive the process. A file in `/run/fernvpn` has a line for each switch (path, off,
//! on). Its owner keeps it locked, so that other instances see that the owner is alive. The folder
//! may belong to the service's user, so a line only counts if it is one of the table above. When an
//! instance stops, it leaves a switch on if another living instance lists it too. That instance
//! restores it later. An instance that finds the file of a dead instance with its own device
//! restores all of that file's switches ([`put_back`]).
//!
//! Firewall rules drop packets that pass only because of these switches and do not concern a tunnel
//! ([`Forwarding::guard`]).

use std::fmt::Write as _;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use crate::os::folder::{self, Entry, FileLock, owner_of, set_mode};
use crate::os::overlaps::GROUP;
use crate::os::{log, rules, sys, tried};

const FOLDER: &str = "/run/fernvpn";

/// "On", as fernvpn writes it.
const OURS: &str = "2";

/// One sysctl that this instance has switched on, or plans to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Switch {
    path: PathBuf,
    off: String,
    on: String,
    /// The device's number, which stays when the device is renamed. 0 stands for all devices.
    device: u32,
}

/// The switches that one server has turned on.
pub(super) struct Forwarding {
    device: String,
    ipv4: bool,
    ipv6: bool,
    uplink: Option<String>,
    state: PathBuf,
    file: Option<File>,
    switches: Vec<Switch>,
}

/// A plan of this server's switches. While it lives, no other instance changes any switch.
pub(super) struct Plan {
    switches: Vec<Switch>,
    others: Vec<Others>,
    _lock: FileLock,
}

/// The file of another instance in the same network.
struct Others {
    alive: bool,
    switches: Vec<Switch>,
}

impl Forwarding {
    /// Makes a value with no switch on. Without an `uplink`, packets may arrive by any device.
    pub(super) fn new(
        device: &str,
        (ipv4, ipv6): (bool, bool),
        uplink: Option<&str>,
    ) -> io::Result<Forwarding> {
        Ok(Forwarding {
            device: device.into(),
            ipv4,
            ipv6,
            uplink: uplink.map(str::to_owned),
            state: state_file(device)?,
            file: None,
            switches: Vec::new(),
        })
    }

    /// Looks at the switches, and makes a plan. The caller installs the plan's rules before it
    /// carries the plan out.
    pub(super) fn plan(&self) -> io::Result<Plan> {
        let lock = lock()?;
        let others = others(&self.state);
        let mut switches = Vec::new();
        if self.ipv4 {
            for device in self.devices("ipv4") {
                let path = conf("ipv4", &device, "forwarding");
                switches.extend(self.ours(path, "0", OURS, &others));
            }
        }
        let all = conf("ipv6", "all", "forwarding");
        let is_per_device = is_number(&conf("ipv6", "all", "force_forwarding"));
        if self.ipv6 && is_per_device && value(&all) == "0" {
            for device in self.devices("ipv6") {
                let path = conf("ipv6", &device, "force_forwarding");
                switches.extend(self.ours(path, "0", "1", &others));
            }
        } else if self.ipv6
            && !is_per_device
            && let Some(all) = self.ours(all, "0", OURS, &others)
        {
            // A host that becomes a router must not lose its own router, so this comes first.
            for device in entries(&conf_folder("ipv6")) {
                let path = conf("ipv6", &device, "accept_ra");
                switches.extend(self.ours(path, "1", "2", &others));
            }
            switches.push(all);
        }
        Ok(Plan {
            switches,
            others,
            _lock: lock,
        })
    }

    /// Whether the machine is as the plan says.
    pub(super) fn is_done(&self, plan: &Plan) -> bool {
        let is_on = |switch: &Switch| value(&switch.path) == switch.on;
        self.file.is_some() && plan.switches == self.switches && plan.switches.iter().all(is_on)
    }

    /// The switches that another program has turned off since this instance turned them on.
    pub(super) fn lost(&self) -> Vec<String> {
        let is_lost = |it: &&Switch| it.path.exists() && value(&it.path) == it.off;
        let lost = self.switches.iter().filter(is_lost);
        lost.map(|it| name(&it.path)).collect()
    }

    /// Carries the plan out. It restores switches that the plan no longer lists, unless another
    /// program owns them now.
    pub(super) fn carry_out(&mut self, plan: Plan) -> io::Result<()> {
        let written = write_locked(&self.state, &plan.switches);
        self.file =
            Some(written.map_err(|error| {
                tried(format!("cannot write {}", self.state.display()), &error)
            })?);
        let is_kept = |old: &Switch| plan.switches.iter().any(|new| new.path == old.path);
        let mut dropped = std::mem::replace(&mut self.switches, plan.switches.clone());
        dropped.retain(|old| !is_kept(old));
        restore(&dropped, &plan.others);
        for switch in &plan.switches {
            if value(&switch.path) != switch.on {
                set(&switch.path, &switch.on)?;
            }
        }
        Ok(())
    }

    /// Rules that drop packets which pass only because of the plan. They leave packets to or from
    /// another server's device to that server's rules. They accept frames between two ports of one
    /// bridge: those pass the same hook (br_netfilter) without these switches.
    pub(super) fn guard(&self, plan: &Plan) -> String {
        let of = |path: &str| {
            let ours = plan.switches.iter().filter(|it| it.path.starts_with(path));
            ours.filter(|it| !it.path.ends_with("accept_ra"))
                .map(|it| it.device)
                .collect::<Vec<_>>()
        };
        let mut text = String::new();
        for (family, devices) in [
            ("ipv4", of("/proc/sys/net/ipv4")),
            ("ipv6", of("/proc/sys/net/ipv6")),
        ] {
            if devices.is_empty() {
                continue;
            }
            let from = if devices.contains(&0) {
                String::new()
            } else {
                let numbers: Vec<String> = devices.iter().map(u32::to_string).collect();
                format!("iif {{ {} }} ", numbers.join(", "))
            };
            let device = rules::device_name(&self.device);
            let _ = write!(
                text,
                "meta nfproto {family} {from}iifname != \"{device}\" oifname != \"{device}\" \
                 iifgroup != {GROUP} oifgroup != {GROUP} drop; "
            );
        }
        if text.is_empty() {
            return text;
        }
        let devices = entries(Path::new("/sys/class/net")).into_iter();
        let bridges = devices.filter(|name| sysfs(name, "bridge").exists());
        let accepted = bridges
            .map(|name| index(&name))
            .map(|number| format!("iif {number} oif {number} accept; "));
        accepted.collect::<String>() + &text
    }

    /// The devices by which packets may arrive. Packets at a port of a bridge or bond arrive by the
    /// bridge or bond.
    fn devices(&self, family: &str) -> Vec<String> {
        if let Some(uplink) = &self.uplink {
            return vec![self.device.clone(), uplink.clone()];
        }
        let mut devices = entries(&conf_folder(family));
        devices.retain(|name| {
            !["all", "default", "lo"].contains(&name.as_str()) && !sysfs(name, "master").exists()
        });
        devices
    }

    /// This switch, unless another program has turned it on already.
    fn ours(&self, path: PathBuf, off: &str, on: &str, others: &[Others]) -> Option<Switch> {
        let name = path.parent()?.file_name()?.to_str()?;
        let device = if name == "all" { 0 } else { index(name) };
        let is_same = |it: &&Switch| {
            it.path == path
                || device != 0
                    && it.device == device
                    && it.path.file_name() == path.file_name()
                    && it.path.ancestors().nth(2) == path.ancestors().nth(2)
        };
        let listed = others.iter().flat_map(|other| &other.switches);
        let known = self.switches.iter().chain(listed).find(is_same);
        let now = value(&path);
        let is_ours = now == on && (known.is_some() || on == OURS && off == "0");
        (now == off || is_ours).then(|| Switch {
            off: known.map_or(off.to_owned(), |known| known.off.clone()),
            on: on.to_owned(),
            device,
            path,
        })
    }
}

/// Restores the switches that a server with this device turned on. The caller is the server itself,
/// or a program that has just opened the device, which proves that no server uses it.
pub fn put_back(device: &str) {
    let Ok(state) = state_file(device) else {
        return;
    };
    let Ok(entry) = Entry::at(&state) else {
        return;
    };
    if entry.metadata().is_err() {
        return; // nothing was switched on
    }
    match lock() {
        Ok(_lock) => {
            restore(&read(&entry), &others(&state));
            let _ = entry.remove();
        }
        Err(error) => log::warning("os", "not undone", &[("reason", &error)]),
    }
}

/// Turns off the switches that are still as fernvpn set them and that no other living instance
/// needs.
fn restore(switches: &[Switch], others: &[Others]) {
    let is_needed = |path: &Path| {
        let living = others.iter().filter(|other| other.alive);
        living
            .flat_map(|other| &other.switches)
            .any(|it| it.path == path)
    };
    for Switch { path, off, on, .. } in switches.iter().rev() {
        // The device may be gone.
        let is_as_set = path.exists() && value(path) == *on;
        if is_as_set
            && !is_needed(path)
            && let Err(error) = set(path, off)
        {
            log::warning("os", "not undone", &[("reason", &error)]);
        }
    }
}

/// The lock that an instance holds while it looks at or changes the switches.
fn lock() -> io::Result<FileLock> {
    let folder = Path::new(FOLDER);
    let made = fs::create_dir_all(folder);
    made.map_err(|error| tried(format!("cannot make {FOLDER}"), &error))?;
    folder::lock(folder)
}

/// A number for this network. It is unique until the machine restarts, when `/run` is empty.
fn network() -> io::Result<String> {
    let socket = UnixDatagram::unbound()?;
    let cookie = sys::option_bytes::<8>(socket.as_fd(), sys::SOL_SOCKET, sys::SO_NETNS_COOKIE);
    let cookie = cookie.map_err(|error| {
        tried(
            "cannot tell this network from others (SO_NETNS_COOKIE, Linux 5.14)",
            &error,
        )
    })?;
    let digits = cookie.iter().rev().map(|byte| format!("{byte:02x}"));
    Ok(digits.collect())
}

fn state_file(device: &str) -> io::Result<PathBuf> {
    let network = network()?;
    Ok(PathBuf::from(format!("{FOLDER}/{device}-{network}.sysctl")))
}

/// The files of all other instances in this network.
fn others(own: &Path) -> Vec<Others> {
    let ending = format!("-{}.sysctl", network().unwrap_or_default());
    let names = entries(Path::new(FOLDER)).into_iter();
    names
        .filter(|name| name.ends_with(&ending))
        .map(|name| Path::new(FOLDER).join(name))
        .filter(|path| path != own)
        .filter_map(|path| {
            let entry = Entry::at(&path).ok()?;
            Some(Others {
                alive: is_alive(&entry.read().ok()?),
                switches: read(&entry),
            })
        })
        .collect()
}

/// Whether the owner of a state file keeps it locked. Other users can open the file to read it.
/// Their locks do not count, if the kernel tells whose they are.
fn is_alive(file: &File) -> bool {
    if !matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
        return false;
    }
    let holder = folder::holder_pid(file).map(|pid| PathBuf::from(format!("/proc/{pid}")));
    let holder = holder.and_then(|process| fs::metadata(process).ok());
    let (Some(holder), Ok(file)) = (holder, file.metadata()) else {
        return true;
    };
    [0, owner_of(&file).0].contains(&owner_of(&holder).0)
}

/// The most that is read of a state file, in bytes. A line has about 60.
const MAX_STATE: u64 = 1 << 20;

fn read(entry: &Entry) -> Vec<Switch> {
    let mut text = String::new();
    let file = entry.read();
    let read = file.and_then(|file| file.take(MAX_STATE).read_to_string(&mut text));
    if let Err(error) = read {
        log::warning(
            "os",
            "not undone",
            &[("reason", &crate::os::reason(&error))],
        );
    }
    listed(&text)
}

/// The switches that a server may turn on, and their values: the table at the top.
const SWITCHES: &[(&str, &str, &str, &str)] = &[
    ("ipv4", "forwarding", "0", OURS),
    ("ipv6", "force_forwarding", "0", "1"),
    ("ipv6", "forwarding", "0", OURS),
    ("ipv6", "accept_ra", "1", "2"),
];

/// The lines of a file. The folder may belong to the service's user, who must not make root write
/// anything except a server's switches.
fn listed(text: &str) -> Vec<Switch> {
    let switch = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [path, off, on] = words[..] else {
            return None;
        };
        let (family, rest) = path.strip_prefix("/proc/sys/net/")?.split_once("/conf/")?;
        let (device, name) = rest.split_once('/')?;
        let is_of_place = match (family, name, device) {
            (_, _, "" | "." | "..") => false,
            ("ipv6", "forwarding", _) => device == "all",
            ("ipv6", "accept_ra", _) => true, // of devices that come later as well
            _ => !["all", "default"].contains(&device),
        };
        let is_listed = SWITCHES.contains(&(family, name, off, on));
        (is_listed && is_of_place).then(|| Switch {
            path: path.into(),
            off: off.into(),
            on: on.into(),
            device: 0,
        })
    };
    text.lines().filter_map(switch).collect()
}

/// Replaces the file in one step by one that is locked already. Other processes can only read it
/// when it is locked.
fn write_locked(path: &Path, switches: &[Switch]) -> io::Result<File> {
    let state = Entry::at(path)?;
    let new = state.beside(".new")?;
    match new.remove() {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = new.create()?;
    file.try_lock()?;
    for Switch { path, off, on, .. } in switches {
        writeln!(file, "{} {off} {on}", path.display())?;
    }
    set_mode(&file, 0o644)?;
    new.rename_to(&state)?;
    Ok(file)
}

fn conf_folder(family: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(family).join("conf")
}

fn conf(family: &str, device: &str, name: &str) -> PathBuf {
    conf_folder(family).join(device).join(name)
}

fn sysfs(device: &str, name: &str) -> PathBuf {
    Path::new("/sys/class/net").join(device).join(name)
}

/// The device's number. It is 0, which no device has, if the device is gone.
fn index(device: &str) -> u32 {
    value(&sysfs(device, "ifindex")).parse().unwrap_or(0)
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names
}

/// The content without the end of the line. It is empty if the file cannot be read.
fn value(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().to_owned()
}

fn is_number(path: &Path) -> bool {
    value(path).parse::<u32>().is_ok()
}

/// Writes a sysctl, and logs the command that would do the same.
fn set(path: &Path, value: &str) -> io::Result<()> {
    fs::write(path, value).map_err(|error| {
        let remedy = match error.kind() {
            ErrorKind::ReadOnlyFilesystem => {
                " (Try: set it where this container is started, as docker run --sysctl does, \
                 or nat = no)"
            }
            _ => "",
        };
        let reason = crate::os::reason(&error);
        io::Error::new(
            error.kind(),
            format!("cannot set {} to {value}: {reason}{remedy}", path.display()),
        )
    })?;
    log::command(&format!("sysctl -w {}={value}", name(path)));
    Ok(())
}

/// Its name for `sysctl`.
fn name(path: &Path) -> String {
    let name = path.strip_prefix("/proc/sys").unwrap_or(path);
    name.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_server_switches_is_put_back() {
        let right = "/proc/sys/net/ipv4/conf/eth0/forwarding 0 2\n\
                     /proc/sys/net/ipv6/conf/all/forwarding 0 2\n\
                     /proc/sys/net/ipv6/conf/eth0/force_forwarding 0 1\n\
                     /proc/sys/net/ipv6/conf/default/accept_ra 1 2\n\
                     /proc/sys/net/ipv6/conf/eth0.7/accept_ra 1 2\n";
        assert_eq!(listed(right).len(), 5);
        for wrong in [
            "/proc/sys/net/ipv4/conf/eth0/rp_filter 0 2",
            "/proc/sys/net/ipv4/conf/all/forwarding 0 2",
            "/proc/sys/net/ipv4/conf/default/forwarding 0 2",
            "/proc/sys/net/ipv4/conf/../forwarding 0 2",
            "/proc/sys/net/ipv4/conf//forwarding 0 2",
            "/proc/sys/net/ipv4/conf/a/b/forwarding 0 2",
            "/proc/sys/net/ipv4/conf/../../core/conf/forwarding 0 2",
            "/proc/sys/net/ipv6/conf/eth0/forwarding 0 2",
            "/proc/sys/net/ipv6/conf/eth0/accept_ra 0 2",
            "/proc/sys/net/ipv4/conf/eth0/forwarding 1 2",
            "/proc/sys/net/ipv4/conf/eth0/forwarding 0 1",
            "/proc/sys/net/ipv4/conf/eth0/forwarding 0",
            "/proc/sys/net/ipv4/conf/eth0/forwarding 0 2 3",
            "/proc/sys/net/ipv4/ip_forward 0 2",
            "/etc/passwd 0 2",
        ] {
            assert_eq!(listed(wrong), [], "{wrong}");
        }
    }
}
