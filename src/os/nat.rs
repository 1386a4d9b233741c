//! How do a server's clients reach what is behind it? By forwarding, and under the server's address (`server.nft`).
//!
//! The firewall's table belongs to a child, `nft -i`: the kernel removes it when that one ends, which it does when its
//! stdin does, however this process dies. What sysctl says outlives the process. So the old values are written to a
//! file before the first change; whoever has opened the same device in the same network later puts them back first.
//!
//! With a named uplink only this and the tunnel's device forward. Otherwise all do, and packets that have nothing to do
//! with the tunnel are dropped if none did before. IPv6 that forwards on all devices no longer listens to routers, hence
//! `accept_ra`; kernels before 6.17 cannot do it for one device alone.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::{command, log, tried};
use crate::packet::subnet::Subnet;

/// Longest that `nft` may take to put the rules in.
const PATIENCE: Duration = Duration::from_secs(20);

/// Forwarding and NAT, undone when this is dropped.
#[derive(Debug)]
pub struct Nat {
    nft: Option<Child>,
    stopping: Arc<AtomicBool>,
    state: PathBuf,
}

impl Nat {
    /// Forwards what comes from `networks` by the tunnel's `device`, by one `uplink` or by any device.
    ///
    /// # Errors
    /// What does not work. Nothing is left changed then.
    pub fn begin(device: &str, networks: &[Subnet], uplink: Option<&str>) -> io::Result<Nat> {
        let network = fs::read_link("/proc/self/ns/net")?.display().to_string();
        let network: String = network.chars().filter(char::is_ascii_digit).collect();
        let state = PathBuf::from(format!("/run/fernvpn/{device}-{network}.sysctl"));
        let mut nat = Nat { nft: None, stopping: Arc::default(), state };
        nat.put_back();
        let changes = sysctls(device, networks, uplink);
        // The rules come first: at no time is everything forwarded.
        let router = changes.iter().any(|(path, ..)| path.ends_with("all/forwarding"));
        nat.own(device, &rules(device, networks, uplink, router))?;
        let old: String = changes.iter().map(|(path, old, _)| format!("{} {old}\n", path.display())).collect();
        let folder = fs::create_dir_all("/run/fernvpn");
        folder
            .and_then(|()| fs::write(&nat.state, old))
            .map_err(|error| tried(format!("cannot write {}", nat.state.display()), &error))?;
        for (path, _, new) in &changes {
            set(path, new)?;
        }
        Ok(nat)
    }

    /// Starts the child that owns the rules, and waits until it has put them in.
    fn own(&mut self, device: &str, rules: &str) -> io::Result<()> {
        let (said, says) = UnixStream::pair()?;
        said.set_read_timeout(Some(PATIENCE))?;
        let says = OwnedFd::from(says);
        log::command(&format!("nft '{rules}'"));
        // A group of its own: Ctrl-C in the terminal is for this process to judge.
        let mut nft = command::prepare(&["nft", "-i"])?;
        nft.process_group(0).stdin(Stdio::piped()).stdout(says.try_clone()?).stderr(says);
        let child = nft.spawn().map_err(|error| tried("cannot start nft (apt install nftables)", &error))?;
        drop(nft); // and with it our copies of its ends
        let child = self.nft.insert(child);
        let table = format!("table inet fernvpn-nat-{device}");
        if let Some(stdin) = &mut child.stdin {
            writeln!(stdin, "{rules}\nlist {table}")?;
        }
        // It goes on after an error, so success is to see the table.
        let mut lines = BufReader::new(said);
        loop {
            let mut line = String::new();
            match lines.read_line(&mut line) {
                Ok(0) => return Err(io::Error::other("nft ended before it had put the rules of NAT in")),
                Err(error) => return Err(tried("nft does not put the rules of NAT in", &error)),
                Ok(_) if line.starts_with(&table) => break,
                Ok(_) if line.starts_with("Error") => {
                    return Err(io::Error::other(format!("nft refuses the rules of NAT: {}", line.trim())));
                }
                Ok(_) => {}
            }
        }
        lines.get_ref().set_read_timeout(None)?;
        let stopping = self.stopping.clone();
        thread::Builder::new().name("nft".into()).spawn(move || {
            let _ = io::copy(&mut lines, &mut io::sink());
            if !stopping.load(Ordering::SeqCst) {
                log::error("os", "nft was ended: clients have no NAT until this server is started again", &[]);
            }
        })?;
        Ok(())
    }

    /// Every sysctl as it was, as far as the file knows, which is then done with.
    fn put_back(&self) {
        let old = fs::read_to_string(&self.state).unwrap_or_default();
        for (path, value) in old.lines().rev().filter_map(|line| line.split_once(' ')) {
            let path = Path::new(path);
            // The device may be gone.
            if let Err(error) = set(path, value).or_else(|error| if path.exists() { Err(error) } else { Ok(()) }) {
                log::warning("os", "not undone", &[("reason", &error)]);
            }
        }
        let _ = fs::remove_file(&self.state);
    }
}

impl Drop for Nat {
    fn drop(&mut self) {
        self.put_back();
        self.stopping.store(true, Ordering::SeqCst);
        if let Some(mut nft) = self.nft.take() {
            drop(nft.stdin.take());
            let _ = nft.kill().and_then(|()| nft.wait());
        }
    }
}

/// What is to be changed: the file, what it says now, what it shall say. What is there already is not in the list.
fn sysctls(device: &str, networks: &[Subnet], uplink: Option<&str>) -> Vec<(PathBuf, String, &'static str)> {
    let conf =
        |family: &str, device: &str, name: &str| PathBuf::from(format!("/proc/sys/net/{family}/conf/{device}/{name}"));
    let mut wanted = Vec::new();
    let devices = uplink.map_or(vec!["all"], |uplink| vec![device, uplink]);
    if networks.iter().any(|network| network.address.is_ipv4()) {
        wanted.extend(devices.iter().map(|device| (conf("ipv4", device, "forwarding"), "1")));
    }
    if networks.iter().any(|network| network.address.is_ipv6()) {
        if uplink.is_some() && conf("ipv6", device, "force_forwarding").exists() {
            wanted.extend(devices.iter().map(|device| (conf("ipv6", device, "force_forwarding"), "1")));
        } else {
            for entry in fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten() {
                let accept = entry.path().join("accept_ra");
                if fs::read_to_string(&accept).is_ok_and(|value| value.trim() == "1") {
                    wanted.push((accept, "2"));
                }
            }
            wanted.push((conf("ipv6", "all", "forwarding"), "1"));
        }
    }
    let changed = |(path, new): (PathBuf, &'static str)| {
        let old = fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
        (old != new).then_some((path, old, new))
    };
    wanted.into_iter().filter_map(changed).collect()
}

/// Shown as the command that would do the same.
fn set(path: &Path, value: &str) -> io::Result<()> {
    let name = path.strip_prefix("/proc/sys").unwrap_or(path).display();
    fs::write(path, value).map_err(|error| tried(format!("cannot set {}", path.display()), &error))?;
    log::command(&format!("sysctl -w {name}={value}"));
    Ok(())
}

/// `server.nft` as one line, filled in as its head says.
fn rules(device: &str, networks: &[Subnet], uplink: Option<&str>, router: bool) -> String {
    let uplink_is = uplink.map_or(format!("!= \"{device}\""), |uplink| format!("\"{uplink}\""));
    let mut line = Vec::new();
    for rule in include_str!("server.nft").lines() {
        let (rule, note) = rule.split_once('#').unwrap_or((rule, ""));
        let left_out = note == " ONLY" && uplink.is_none() || note == " ROUTER" && !router;
        let rule = rule.trim().replace("DEVICE", device).replace("UPLINK", &uplink_is);
        let copies = if rule.contains("FAMILY") { networks } else { networks.get(..1).unwrap_or_default() };
        for network in copies.iter().filter(|_| !left_out && !rule.is_empty()) {
            let family = if network.address.is_ipv4() { "ip" } else { "ip6" };
            let net = format!("{}/{}", network.network(), network.prefix);
            line.push(rule.replace("FAMILY", family).replace("NET", &net));
        }
    }
    line.join(" ")
}
