//! How do a server's clients reach what is behind it? By forwarding, and under the server's address
//! (`server.nft`).
//!
//! The firewall's table belongs to a child, `nft -i`: the kernel removes it when that one ends,
//! which it does when its stdin does, however this process dies. What sysctl says outlives the
//! process. So the old values are written to a file before the first change; whoever opens the same
//! device in the same network later puts them back first ([`put_back`]). Should the child be ended,
//! the rules are put in again by another one; if that cannot be, the server ends: it would forward
//! without them.
//!
//! Connections from behind the server to its clients are for hosts in private networks that it
//! pushes (10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, fc00::/7, or parts of these): a site, not the
//! internet. NAT gives clients only ports that the kernel gives to programs that connect, and none
//! at which the server listens: CVE-2021-3773.
//!
//! With a named uplink only this and the tunnel's device forward. Otherwise all do, and packets
//! that have nothing to do with the tunnel are dropped if none did before. IPv6 that forwards on
//! all devices no longer listens to routers, hence `accept_ra`; kernels before 6.17 cannot do it
//! for one device alone.

use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::signal::{self, Signal};
use super::{command, log, rules, sys, tried};
use crate::packet::subnet::Subnet;

/// Longest that `nft` may take to put the rules in.
const PATIENCE: Duration = Duration::from_secs(20);

/// Forwarding and NAT, undone when this is dropped.
pub struct Nat {
    device: String,
    networks: Vec<Subnet>,
    uplink: Option<String>,
    router: bool,
    ports: (u16, u16),
    rules: Arc<Mutex<Rules>>,
}

/// What the child has put in, or shall.
#[derive(Default)]
struct Rules {
    text: String,
    table: String,
    nft: Option<Nft>,
    failure: Option<String>,
}

/// The child that owns the table.
struct Nft {
    child: Child,
    says: Receiver<String>,
}

impl Nat {
    /// Forwards what comes from `networks` by the tunnel's `device`, by one `uplink` or by any
    /// device, and connections to clients from the private ones of the `pushed` networks. The
    /// server listens at the ports `listen`.
    ///
    /// # Errors
    /// What does not work. Nothing is left changed then.
    pub fn begin(
        device: &str,
        networks: &[Subnet],
        uplink: Option<&str>,
        pushed: &[Subnet],
        listen: &[u16],
    ) -> io::Result<Nat> {
        put_back(device);
        let changes = sysctls(device, networks, uplink);
        let nat = Nat {
            device: device.into(),
            networks: networks.to_vec(),
            uplink: uplink.map(str::to_owned),
            router: changes
                .iter()
                .any(|(path, ..)| path.ends_with("all/forwarding")),
            ports: ports(listen),
            rules: Arc::default(),
        };
        let state = state_file(device)?;
        // The rules come first: at no time is everything forwarded.
        nat.open_to(pushed)?;
        let old: String = changes
            .iter()
            .map(|(path, old, _)| format!("{} {old}\n", path.display()))
            .collect();
        let folder = fs::create_dir_all("/run/fernvpn");
        folder
            .and_then(|()| fs::File::create_new(&state)) // no link: root may be here in another user's folder
            .and_then(|mut file| file.write_all(old.as_bytes()))
            .map_err(|error| tried(format!("cannot write {}", state.display()), &error))?;
        for (path, _, new) in &changes {
            set(path, new)?;
        }
        Ok(nat)
    }

    /// Puts the rules in, or others in their place in one step: connections go on.
    ///
    /// # Errors
    /// What does not work. The rules are then as before.
    pub fn open_to(&self, pushed: &[Subnet]) -> io::Result<()> {
        let mut rules = locked(&self.rules);
        let text = rule_text(self, pushed);
        if rules.text == text {
            return Ok(());
        }
        log::command(&format!("nft '{text}'"));
        let table = format!("table inet fernvpn-nat-{}", self.device);
        match &mut rules.nft {
            Some(nft) => nft.put_in(&format!("delete {table}; {text}"), &table)?,
            nft => *nft = Some(Nft::start(&self.rules, &text, &table)?),
        }
        (rules.text, rules.table) = (text, table);
        Ok(())
    }

    /// Why the server cannot go on, if so: its rules are gone.
    pub fn failure(&self) -> Option<String> {
        locked(&self.rules).failure.clone()
    }
}

impl Drop for Nat {
    fn drop(&mut self) {
        put_back(&self.device);
        let nft = locked(&self.rules).nft.take();
        nft.into_iter().for_each(|mut nft| nft.end());
    }
}

/// The rules are valid at every statement.
fn locked(rules: &Mutex<Rules>) -> MutexGuard<'_, Rules> {
    rules.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Nft {
    /// Starts the child, and waits until it has put the rules in.
    fn start(rules: &Arc<Mutex<Rules>>, text: &str, table: &str) -> io::Result<Nft> {
        let (near, far) = UnixStream::pair()?;
        let far = OwnedFd::from(far);
        // A group of its own: Ctrl-C in the terminal is for this process to judge.
        let mut command = command::prepare(&["nft", "-i"])?;
        command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(far.try_clone()?)
            .stderr(far);
        let child = command
            .spawn()
            .map_err(|error| tried("cannot start nft (apt install nftables)", &error))?;
        drop(command); // and with it our copies of its ends
        let (sender, says) = mpsc::channel();
        let mut nft = Nft { child, says };
        let (rules, id, ours) = (Arc::clone(rules), nft.child.id(), table.to_owned());
        let watching = thread::Builder::new().name("nft".into()).spawn(move || {
            let mut place = [String::new(), String::new()];
            for line in BufReader::new(near).lines().map_while(Result::ok) {
                warn_of_a_firewall(&line, &mut place, &ours);
                let _ = sender.send(line);
            }
            drop(sender); // whoever waits for it is told
            put_in_again(&rules, id);
        });
        let put_in = |nft: &mut Nft| nft.put_in(&format!("list chains\n{text}"), table);
        if let Err(error) = watching.map(drop).and_then(|()| put_in(&mut nft)) {
            nft.end();
            return Err(error);
        }
        Ok(nft)
    }

    /// Has it put the rules in. It goes on after an error, so success is to see the table.
    fn put_in(&mut self, text: &str, table: &str) -> io::Result<()> {
        while self.says.try_recv().is_ok() {} // what is left of an earlier answer
        if let Some(stdin) = &mut self.child.stdin {
            writeln!(stdin, "{text}\nlist {table}")?;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self
                .says
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Err(_) => {
                    return Err(io::Error::new(
                        ErrorKind::TimedOut,
                        "nft does not put the rules of NAT in",
                    ));
                }
                Ok(line) if line.starts_with(table) => return Ok(()),
                Ok(line) if line.starts_with("Error") => {
                    return Err(io::Error::other(format!(
                        "nft refuses the rules of NAT: {}",
                        line.trim()
                    )));
                }
                Ok(_) => {}
            }
        }
    }

    fn end(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Reads a line of `list chains`. A chain of somebody else's that drops what is forwarded has the
/// last word, so a person has to know. `place` keeps the table and the chain in which the line is.
fn warn_of_a_firewall(line: &str, place: &mut [String; 2], ours: &str) {
    let inside = line.trim().trim_end_matches('{').trim_end();
    let [table, chain] = place;
    if let Some(name) = inside.strip_prefix("table ") {
        name.clone_into(table);
    } else if let Some(name) = inside.strip_prefix("chain ") {
        name.clone_into(chain);
    } else if inside.contains("hook forward") && inside.contains("policy drop") {
        let text = "a firewall drops what is forwarded; unless a rule there lets clients through, they reach nothing. It can be:";
        log::warning("os", text, &[("table", table), ("chain", chain)]);
        let (_, device) = ours.rsplit_once("fernvpn-nat-").unwrap_or_default();
        for way in ["iifname", "oifname"] {
            log::to_paste(&format!(
                "nft insert rule {table} {chain} {way} {device} accept"
            ));
        }
    }
}

/// The child of this id has ended, and its table with it.
fn put_in_again(shared: &Arc<Mutex<Rules>>, id: u32) {
    let mut rules = locked(shared);
    // One that is no longer in charge, or never was, is not missed.
    let Some(mut dead) = rules.nft.take_if(|nft| nft.child.id() == id) else {
        return;
    };
    dead.end();
    log::warning(
        "os",
        "nft was ended, and the rules of NAT are gone: putting them in again",
        &[],
    );
    match Nft::start(shared, &rules.text, &rules.table) {
        Ok(nft) => rules.nft = Some(nft),
        Err(error) => {
            rules.failure = Some(format!(
                "the rules of NAT are gone and cannot be put in again: {error}"
            ));
            // Who started the server waits for a signal, and stops it in order.
            let _ = signal::send(std::process::id(), Signal::Terminate);
        }
    }
}

/// Where the old values are while they are changed.
fn state_file(device: &str) -> io::Result<PathBuf> {
    // Of this network, and of no other until the machine is started anew, when /run is empty.
    let network = sys::option_bytes::<8>(
        UnixDatagram::unbound()?.as_fd(),
        sys::SOL_SOCKET,
        sys::SO_NETNS_COOKIE,
    )
    .map_err(|error| {
        tried(
            "cannot tell this network from others (SO_NETNS_COOKIE, Linux 5.14)",
            &error,
        )
    })?;
    let network = network
        .iter()
        .rev()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    Ok(PathBuf::from(format!(
        "/run/fernvpn/{device}-{network}.sysctl"
    )))
}

/// Every sysctl as it was before NAT for this device, if a server has not come to undo it. For
/// whoever has just opened the device, which is therefore nobody else's. The folder is the
/// service's user's, who must not have root write anything but what a server changes, and that user
/// may change as well.
pub fn put_back(device: &str) {
    let Ok(state) = state_file(device) else {
        return;
    };
    let old = fs::read_to_string(&state).unwrap_or_default();
    let is_network =
        |(path, _): &(&str, &str)| path.starts_with("/proc/sys/net/") && !path.contains("..");
    for (path, value) in old
        .lines()
        .rev()
        .filter_map(|line| line.split_once(' '))
        .filter(is_network)
    {
        let path = Path::new(path);
        // The device may be gone.
        if let Err(error) =
            set(path, value).or_else(|error| if path.exists() { Err(error) } else { Ok(()) })
        {
            log::warning("os", "not undone", &[("reason", &error)]);
        }
    }
    let _ = fs::remove_file(&state);
}

/// What is to be changed: the file, what it says now, what it shall say. What is there already is
/// not in the list.
fn sysctls(
    device: &str,
    networks: &[Subnet],
    uplink: Option<&str>,
) -> Vec<(PathBuf, String, &'static str)> {
    let conf = |family: &str, device: &str, name: &str| {
        PathBuf::from(format!("/proc/sys/net/{family}/conf/{device}/{name}"))
    };
    let mut wanted = Vec::new();
    let devices = uplink.map_or(vec!["all"], |uplink| vec![device, uplink]);
    if networks.iter().any(|network| network.address.is_ipv4()) {
        wanted.extend(
            devices
                .iter()
                .map(|device| (conf("ipv4", device, "forwarding"), "1")),
        );
    }
    if networks.iter().any(|network| network.address.is_ipv6()) {
        if uplink.is_some() && conf("ipv6", device, "force_forwarding").exists() {
            wanted.extend(
                devices
                    .iter()
                    .map(|device| (conf("ipv6", device, "force_forwarding"), "1")),
            );
        } else {
            for entry in fs::read_dir("/proc/sys/net/ipv6/conf")
                .into_iter()
                .flatten()
                .flatten()
            {
                let accept = entry.path().join("accept_ra");
                if fs::read_to_string(&accept).is_ok_and(|value| value.trim() == "1") {
                    wanted.push((accept, "2"));
                }
            }
            wanted.push((conf("ipv6", "all", "forwarding"), "1"));
        }
    }
    let changed = |(path, new): (PathBuf, &'static str)| {
        let old = fs::read_to_string(&path)
            .unwrap_or_default()
            .trim()
            .to_owned();
        (old != new).then_some((path, old, new))
    };
    wanted.into_iter().filter_map(changed).collect()
}

/// Shown as the command that would do the same.
fn set(path: &Path, value: &str) -> io::Result<()> {
    let name = path.strip_prefix("/proc/sys").unwrap_or(path).display();
    fs::write(path, value)
        .map_err(|error| tried(format!("cannot set {}", path.display()), &error))?;
    log::command(&format!("sysctl -w {name}={value}"));
    Ok(())
}

/// The ports that NAT gives to clients: the most that lie together among those that the kernel
/// gives to programs that connect, without those at which the server listens.
fn ports(listen: &[u16]) -> (u16, u16) {
    let (first, last) = rules::local_ports();
    let first = first.max(1024);
    let mut taken: Vec<u16> = listen
        .iter()
        .copied()
        .filter(|port| (first..=last).contains(port))
        .collect();
    taken.extend([first - 1, last.saturating_add(1)]);
    taken.sort_unstable();
    let gaps = taken
        .windows(2)
        .map(|pair| (pair[0] + 1, pair[1].saturating_sub(1)));
    gaps.max_by_key(|(from, to)| to.saturating_sub(*from))
        .unwrap_or((first, last))
}

/// Whether a network is a site's own, whatever else the world calls so.
fn is_private(network: &Subnet) -> bool {
    let within = |address: [u8; 4], prefix| {
        Subnet {
            address: address.into(),
            prefix,
        }
        .contains(network.address)
            && network.prefix >= prefix
    };
    match network.address {
        IpAddr::V4(_) => {
            within([10, 0, 0, 0], 8) || within([172, 16, 0, 0], 12) || within([192, 168, 0, 0], 16)
        }
        IpAddr::V6(address) => address.is_unique_local() && network.prefix >= 7,
    }
}

/// `server.nft`, filled in.
fn rule_text(nat: &Nat, pushed: &[Subnet]) -> String {
    let Nat {
        device,
        networks,
        uplink,
        router,
        ports,
        ..
    } = nat;
    let uplink_is = uplink
        .as_ref()
        .map_or(format!("!= \"{device}\""), |uplink| format!("\"{uplink}\""));
    let ports = format!("{}-{}", ports.0, ports.1);
    let tunnel: Vec<Subnet> = networks
        .iter()
        .map(|own| Subnet {
            address: own.network(),
            ..*own
        })
        .collect();
    let sites: Vec<Subnet> = pushed.iter().copied().filter(is_private).collect();
    let once = |holds| &tunnel[..usize::from(holds)];
    let lists = [
        ("TUNNEL", &tunnel[..]),
        ("SITES", &sites),
        ("ONLY", once(uplink.is_some())),
        ("ROUTER", once(*router)),
    ];
    rules::filled(
        include_str!("server.nft"),
        &[
            ("DEVICE", device),
            ("UPLINK", &uplink_is),
            ("PORTS", &ports),
        ],
        &lists,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sites_networks_may_open_connections() {
        let nets = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| text.parse().unwrap())
                .collect::<Vec<Subnet>>()
        };
        let sites = [
            "10.1.0.0/16",
            "172.16.0.0/12",
            "192.168.7.0/24",
            "fd00:1::/48",
            "10.0.0.0/8",
        ];
        assert!(nets(&sites).iter().all(is_private));
        let others = [
            "0.0.0.0/0",
            "::/0",
            "198.51.100.0/24",
            "10.0.0.0/7",
            "172.0.0.0/8",
            "2001:db8::/32",
            "f000::/4",
        ];
        assert!(!nets(&others).iter().any(is_private));
        let nat = Nat {
            device: "fern7".into(),
            networks: nets(&["10.8.0.1/24", "fd0f::1/64"]),
            uplink: None,
            router: false,
            ports: (40_000, 50_000),
            rules: Arc::default(),
        };
        let text = rule_text(&nat, &nets(&["0.0.0.0/0", "192.168.7.0/24", "fd00:1::/48"]));
        assert_eq!(text.matches("ct state new accept").count(), 2, "{text}");
        assert!(
            text.contains("ip saddr 192.168.7.0/24 ct state new accept")
                && text.contains(":40000-50000"),
            "{text}"
        );
        assert!(
            !["DEVICE", "UPLINK", "PORTS", "NET", "FAMILY", "#"]
                .iter()
                .any(|left| text.contains(left)),
            "{text}"
        );
    }

    #[test]
    fn a_client_never_gets_a_port_at_which_the_server_listens() {
        let (first, last) = ports(&[]);
        assert!(first >= 1024 && first < last);
        assert_eq!(ports(&[443, 12345]), (first, last), "not among them anyway");
        assert_eq!(ports(&[first]), (first + 1, last));
        assert_eq!(ports(&[last, first + 10]), (first + 11, last - 1));
    }
}
