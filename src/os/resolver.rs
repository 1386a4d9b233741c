//! Who resolves this machine's names, and how do the tunnel's resolvers take their place?
//!
//! | manager | is given the tunnel's resolvers by | what programs then ask |
//! |---|---|---|
//! | systemd-resolved | `resolvectl dns DEVICE`, and domain `~.` | 127.0.0.53, or its NSS module |
//! | resolvconf, openresolv | `resolvconf -a DEVICE`, alone (`-m 0 -x`) | `/etc/resolv.conf` |
//! | none | nothing: [`Resolvers`] says who still resolves names | `/etc/resolv.conf` |
//!
//! [`Resolvers::keep`] checks whether the resolvers are still set, and sets them again. It only
//! reads files for that, because it is called every few seconds.
//!
//! Only resolvconf's record outlives a crash, and [`clear`] removes it. systemd-resolved forgets a
//! device's resolvers together with the device.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use super::{command, log, network};

/// The service that manages the resolvers of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manager {
    Resolved,
    Resolvconf,
}

const MANAGERS: [Manager; 2] = [Manager::Resolved, Manager::Resolvconf];
const PACKAGE: &str = "apt install systemd-resolved polkitd";

impl Manager {
    fn program(self) -> &'static str {
        match self {
            Manager::Resolved => "resolvectl",
            Manager::Resolvconf => "resolvconf",
        }
    }

    /// Whether its program is installed. systemd-resolved has a program that is called resolvconf,
    /// too.
    fn is_here(self) -> bool {
        let real = |program| command::find(program).and_then(|path| fs::canonicalize(path).ok());
        match self {
            Manager::Resolved => command::find(self.program()).is_some(),
            Manager::Resolvconf => real("resolvconf").is_some_and(|path| {
                path.file_name()
                    .is_some_and(|name| name != "resolvectl" && name != "systemd-resolve")
            }),
        }
    }

    fn set(self, device: &str, list: &[IpAddr]) -> io::Result<()> {
        match self {
            Manager::Resolved => {
                let list: Vec<String> = list.iter().map(IpAddr::to_string).collect();
                let words = ["resolvectl", "dns", device];
                let words = words.into_iter().chain(list.iter().map(String::as_str));
                command::run(&words.collect::<Vec<_>>())?;
                command::run(&["resolvectl", "domain", device, "~."])
            }
            Manager::Resolvconf => {
                let lines: String = list.iter().map(line).collect();
                let record = record(device, Path::new("/"));
                command::run_with_input(&["resolvconf", "-a", &record, "-m", "0", "-x"], &lines)
            }
        }
    }

    fn unset(self, device: &str) -> io::Result<()> {
        match self {
            Manager::Resolved => command::run(&["resolvectl", "revert", device]),
            Manager::Resolvconf => {
                let record = record(device, Path::new("/"));
                command::run(&["resolvconf", "-d", &record, "-f"])
            }
        }
    }

    /// The files that show whether the resolvers are set. The manager wrote the first one.
    fn shown_by(self, device: &str) -> PathBuf {
        match self {
            Manager::Resolved => {
                let index = format!("/sys/class/net/{device}/ifindex");
                let index = fs::read_to_string(index).unwrap_or_default();
                Path::new("/run/systemd/resolve/netif").join(index.trim())
            }
            Manager::Resolvconf => RESOLV_CONF.into(),
        }
    }
}

/// The resolvers of one tunnel, in use until this is dropped.
#[derive(Debug)]
pub struct Resolvers {
    device: String,
    list: Vec<IpAddr>,
    /// The manager that has them now.
    manager: Option<Manager>,
    /// The content of the manager's file when they were set.
    shown: Option<String>,
}

impl Resolvers {
    /// Makes a value without resolvers. `device` is the name of the tunnel's device.
    pub fn new(device: &str) -> Resolvers {
        Resolvers {
            device: device.to_owned(),
            list: Vec::new(),
            manager: None,
            shown: None,
        }
    }

    /// Replaces the earlier resolvers by these. A tunnel without its resolvers is better than none.
    /// So a failure only logs which resolvers are asked then, and what to do.
    pub fn change_to(&mut self, list: &[IpAddr]) {
        if self.list == list {
            return;
        }
        if list.is_empty() {
            self.unset();
        }
        self.list = list.to_vec();
        if !list.is_empty() {
            self.set();
        }
    }

    /// Sets them again if another program has replaced them.
    pub fn keep(&mut self) {
        let Some(manager) = self.manager else { return };
        let now = fs::read_to_string(manager.shown_by(&self.device)).ok();
        if now == self.shown {
            return;
        }
        self.shown = now;
        if manager == Manager::Resolvconf && self.resolv_conf_is_ours() {
            return; // for example, a search domain was added
        }
        let text = "another program replaced the tunnel's resolvers; set them again";
        log::warning("os", text, &[]);
        self.set();
        if manager == Manager::Resolvconf && !self.resolv_conf_is_ours() {
            // resolvconf does nothing for a record that it has already.
            command::attempt(&["resolvconf", "-u"]);
            self.shown = fs::read_to_string(RESOLV_CONF).ok();
        }
    }

    fn set(&mut self) {
        let mut reasons = Vec::new();
        let here = MANAGERS.iter().filter(|manager| manager.is_here());
        let manager = here.copied().find(|manager| {
            let result = manager.set(&self.device, &self.list);
            result
                .map_err(|error| reasons.push(error.to_string()))
                .is_ok()
        });
        self.manager = manager;
        self.shown =
            manager.and_then(|manager| fs::read_to_string(manager.shown_by(&self.device)).ok());
        let remedy = match manager {
            Some(Manager::Resolved) if asks_resolved(Path::new("/")) => return,
            Some(Manager::Resolved) => {
                "ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf"
            }
            Some(Manager::Resolvconf) if self.resolv_conf_is_ours() => return,
            Some(Manager::Resolvconf) => "ln -sf /run/resolvconf/resolv.conf /etc/resolv.conf",
            None => PACKAGE,
        };
        let asked = listed(&named_in(Path::new(RESOLV_CONF)));
        let text = format!(
            "the tunnel's resolvers are not in use: programs still ask {asked} \
             ({RESOLV_CONF}). Try: {remedy}"
        );
        log::warning("os", &text, &[("reason", &reason(&reasons))]);
    }

    fn unset(&mut self) {
        if let Some(manager) = self.manager.take()
            && let Err(error) = manager.unset(&self.device)
            && (manager == Manager::Resolvconf || network::has_device(&self.device))
        {
            log::warning("os", "not undone", &[("reason", &error)]);
        }
    }

    /// Whether programs that read this text ask the tunnel's resolvers, or a resolver on this
    /// machine that resolvconf has told of them.
    fn resolv_conf_is_ours(&self) -> bool {
        named_in(Path::new(RESOLV_CONF))
            .first()
            .is_some_and(|first| first.ip().is_loopback() || self.list.contains(&first.ip()))
    }
}

impl Drop for Resolvers {
    fn drop(&mut self) {
        self.unset();
    }
}

/// Removes the record that a killed client with this device has left.
pub fn clear(device: &str) {
    let record = record(device, Path::new("/"));
    let folders = ["interface", "interfaces"].map(|name| Path::new("/run/resolvconf").join(name));
    if folders.iter().any(|folder| folder.join(&record).exists()) {
        command::attempt(&["resolvconf", "-d", &record, "-f"]);
    }
}

/// Checks whether programs could resolve names with a tunnel that takes everything, before it is
/// up. `has_own` says that the tunnel brings resolvers.
///
/// # Errors
/// Fails if resolvers could not be reached. Says which, and what to do.
pub fn check_for_full_tunnel(has_own: bool) -> Result<(), String> {
    let runs = |manager: &Manager| match manager {
        // This command only looks.
        Manager::Resolved => command::said(&["resolvectl", "dns"]).is_some(),
        Manager::Resolvconf => true,
    };
    if has_own && MANAGERS.iter().any(|it| it.is_here() && runs(it)) {
        return Ok(());
    }
    let asked = named_in(Path::new(RESOLV_CONF));
    if asked.iter().any(|resolver| !stays_behind(resolver.ip())) {
        return Ok(());
    }
    let remedy = match has_own {
        true => format!("Try: {PACKAGE}"),
        false => "Try: dns = pushed".to_owned(),
    };
    Err(format!(
        "if everything goes into the tunnel, programs on this machine resolve no names: they ask \
         {} ({RESOLV_CONF}), to which no way leads then. {remedy}",
        listed(&asked)
    ))
}

/// Whether a resolver is in the local network, to which no route leads through a tunnel.
fn stays_behind(address: IpAddr) -> bool {
    let is_private = match address {
        IpAddr::V4(it) => it.is_private() || it.is_link_local() || it.octets()[0] == 0,
        IpAddr::V6(it) => it.is_unique_local() || it.is_unicast_link_local(),
    };
    let way = || command::said(&["ip", "route", "get", &address.to_string()]);
    is_private || !address.is_loopback() && way().is_some_and(|way| !way.contains(" via "))
}

/// The port of resolvers.
pub const PORT: u16 = 53;

/// The resolvers of the networks of this machine, which a marked socket can ask past the tunnel.
/// Resolvers on this machine come last, because their own questions may go into the tunnel.
pub fn past_the_tunnel() -> Vec<SocketAddr> {
    past_the_tunnel_in(Path::new("/"))
}

fn past_the_tunnel_in(root: &Path) -> Vec<SocketAddr> {
    let mut files: Vec<PathBuf> = KNOWN_TO.iter().map(|file| root.join(file)).collect();
    for folder in RECORDS {
        let entries = fs::read_dir(root.join(folder)).into_iter().flatten();
        let mut records: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        records.sort();
        files.extend(records);
    }
    let mut found = Vec::new();
    for resolver in files.iter().flat_map(|file| named_in(file)) {
        if !found.contains(&resolver) {
            found.push(resolver);
        }
    }
    found.sort_by_key(|resolver| resolver.ip().is_loopback());
    found
}

/// The addresses that `/etc/hosts` has for a name.
pub fn in_hosts_file(host: &str) -> Vec<IpAddr> {
    let text = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split('#').next());
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = words.next()?.parse().ok()?;
            words
                .any(|name| name.eq_ignore_ascii_case(host))
                .then_some(address)
        })
        .collect()
}

/// The full forms of a name. A name without a dot gets each of the search domains.
pub fn full_names(host: &str) -> Vec<String> {
    if host.contains('.') {
        return vec![host.to_owned()];
    }
    let text = fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    let lines = text.lines().map(|line| line.split_whitespace());
    let domains = lines
        .filter_map(|mut words| {
            let first = words.next();
            matches!(first, Some("search" | "domain")).then_some(words)
        })
        .flatten();
    let full = domains.map(|domain| format!("{host}.{domain}"));
    full.chain([host.to_owned()]).collect()
}

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Files in which other programs name the local networks' resolvers, and folders of such files.
const KNOWN_TO: [&str; 5] = [
    "etc/resolv.conf",
    "run/systemd/resolve/resolv.conf",
    "run/NetworkManager/no-stub-resolv.conf",
    "run/NetworkManager/resolv.conf",
    "run/dnsmasq/resolv.conf",
];
const RECORDS: [&str; 2] = ["run/resolvconf/interface", "run/resolvconf/interfaces"];

fn line(address: &IpAddr) -> String {
    format!("nameserver {address}\n")
}

fn reason(reasons: &[String]) -> String {
    if reasons.is_empty() {
        "there is neither systemd-resolved nor resolvconf".to_owned()
    } else {
        reasons.join("; ")
    }
}

/// The name of resolvconf's record for a device. Debian's resolvconf has an order of interfaces, in
/// which names such as `tun*` come first.
fn record(device: &str, root: &Path) -> String {
    let order = fs::read_to_string(root.join("etc/resolvconf/interface-order"));
    let order = order.unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let prefixes = order.lines().filter_map(|line| line.strip_suffix('*'));
    let first = prefixes
        .into_iter()
        .find(|prefix| !prefix.is_empty() && prefix.chars().all(plain));
    first.map_or(device.to_owned(), |prefix| format!("{prefix}.{device}"))
}

/// Whether programs on this machine ask systemd-resolved.
fn asks_resolved(root: &Path) -> bool {
    let is_stub = |address: &SocketAddr| {
        ["127.0.0.53", "127.0.0.54"].contains(&address.ip().to_string().as_str())
    };
    let switch = fs::read_to_string(root.join("etc/nsswitch.conf")).unwrap_or_default();
    let mut hosts = switch.lines().filter(|line| line.starts_with("hosts:"));
    named_in(&root.join("etc/resolv.conf")).iter().any(is_stub)
        || hosts.any(|line| line.split_whitespace().any(|word| word == "resolve"))
}

/// The resolvers that a file in the form of resolv.conf names.
fn named_in(file: &Path) -> Vec<SocketAddr> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let words = text.lines().map(|line| line.split_whitespace());
    words
        .filter_map(|mut words| match (words.next(), words.next()) {
            (Some("nameserver"), Some(address)) => resolver(address),
            _ => None,
        })
        .collect()
}

fn resolver(text: &str) -> Option<SocketAddr> {
    // std knows zones, as in fe80::1%eth0. Without the check, it would look names up.
    let address = text.split_once('%').map_or(text, |(address, _)| address);
    address.parse::<IpAddr>().ok()?;
    (text, PORT).to_socket_addrs().ok()?.next()
}

fn listed(resolvers: &[SocketAddr]) -> String {
    match resolvers {
        [] => "no resolver".to_owned(),
        list => {
            let list = list.iter().map(|resolver| resolver.ip().to_string());
            list.collect::<Vec<_>>().join(", ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("fernvpn-{name}-{}", std::process::id()));
        for (file, text) in files {
            let file = root.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        root
    }

    #[test]
    fn resolvers_are_known_from_whoever_knows_them() {
        let root = folder(
            "resolvers",
            &[
                (
                    "etc/resolv.conf",
                    "# x\nnameserver 127.0.0.53\n nameserver\t192.0.2.1 \nnameserver x.example\n",
                ),
                (
                    "run/systemd/resolve/resolv.conf",
                    "nameserver 192.0.2.1\nnameserver 2001:db8::1\n",
                ),
                ("run/resolvconf/interface/eth0", "nameserver fe80::1%lo\n"),
            ],
        );
        let found = past_the_tunnel_in(&root);
        let found: Vec<String> = found.iter().map(SocketAddr::to_string).collect();
        let right = [
            "192.0.2.1:53",
            "[2001:db8::1]:53",
            "[fe80::1%1]:53",
            "127.0.0.53:53",
        ];
        assert_eq!(found, right);
        assert!(asks_resolved(&root));
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(past_the_tunnel_in(&root), []);
        assert!(!asks_resolved(&root));
    }

    #[test]
    fn a_record_comes_first_where_resolvconf_has_an_order() {
        let order = "# x\nlo.inet6\nlo.!(pdns)\n*tap\ntun*\ntap*\n";
        let root = folder("order", &[("etc/resolvconf/interface-order", order)]);
        assert_eq!(record("fern0", &root), "tun.fern0");
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(record("fern0", &root), "fern0");
    }

    #[test]
    fn local_resolvers_stay_behind() {
        for (address, local) in [
            ("192.168.1.1", true),
            ("10.0.0.53", true),
            ("169.254.1.1", true),
            ("fd00::53", true),
            ("fe80::1", true),
            ("127.0.0.1", false),
            ("::1", false),
        ] {
            assert_eq!(stays_behind(address.parse().unwrap()), local, "{address}");
        }
    }
}
