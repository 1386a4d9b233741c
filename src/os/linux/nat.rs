//! How do clients reach the networks behind a server? The server forwards their packets
//! (`forwarding.rs`) under its own address (`server.nft`).
//!
//! The firewall's table belongs to a child, `nft -i`. The child ends when its stdin ends, however
//! this process dies, and then the kernel removes the table. If somebody ends the child, another
//! child installs the rules again. If that fails, the server ends, because it would forward without
//! them. A thread checks every 2 s what forwards, because devices come and go, and other programs
//! begin to forward.
//!
//! Hosts behind the server may connect to clients only from private networks that it pushes:
//! 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, fc00::/7, or parts of these. That is a site, not the
//! internet. NAT gives clients only ports that the kernel gives to programs that connect, and none
//! at which the server listens (CVE-2021-3773).
//!
//! With a named uplink, only this and the tunnel's device forward. Otherwise all devices do.
//! Packets that do not concern the tunnel are dropped then, if they were not forwarded before.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::forwarding::Forwarding;
use crate::os::lock::{Lock, Rank};
use crate::os::log::RateLimitedLog;
use crate::os::signal::{self, Signal};
use crate::os::{command, log, rules, tried};
use crate::packet::subnet::Subnet;

pub use super::forwarding::put_back;

/// The longest time that `nft` may take to install the rules.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often the server checks whether it still forwards as planned.
const LOOK: Duration = Duration::from_secs(2);

/// After how many of these checks it also looks for a firewall that drops forwarded packets.
const FIREWALL_LOOKS: u32 = 30;

/// A program that switches forwarding off again and again must not fill a disk.
static REPAIRS: RateLimitedLog = RateLimitedLog::new(30, Duration::from_secs(60));

/// Forwarding and NAT, undone when this is dropped.
pub struct Nat {
    kept: Arc<Kept>,
    /// Ends the thread that checks, when it is dropped.
    stop: Option<Sender<()>>,
    looks: Option<JoinHandle<()>>,
}

/// The state that the thread keeps.
struct Kept {
    device: String,
    networks: Vec<Subnet>,
    uplink: Option<String>,
    ports: (u16, u16),
    wanted: Lock<Wanted>,
    rules: Arc<Lock<Rules>>,
}

/// The parts that can change while the server runs.
struct Wanted {
    pushed: Vec<Subnet>,
    forwarding: Forwarding,
    /// Other programs' firewalls that the log has named.
    firewalls: Vec<String>,
}

/// The rules that the child has installed, or has to.
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
    /// Forwards packets from `networks` that come by the tunnel's `device`, out by one `uplink` or
    /// by any device. Also forwards connections to clients from the private ones of the `pushed`
    /// networks. The server listens at the ports `listen`.
    ///
    /// # Errors
    /// What does not work. All changes are undone then.
    pub fn begin(
        device: &str,
        networks: &[Subnet],
        uplink: Option<&str>,
        pushed: &[Subnet],
        listen: &[u16],
    ) -> io::Result<Nat> {
        put_back(device);
        let ipv4 = networks.iter().any(|network| network.address.is_ipv4());
        let ipv6 = networks.iter().any(|network| network.address.is_ipv6());
        let kept = Kept {
            device: device.into(),
            networks: networks.to_vec(),
            uplink: uplink.map(str::to_owned),
            ports: ports(listen),
            wanted: Lock::new(
                Rank::NatWanted,
                Wanted {
                    pushed: pushed.to_vec(),
                    forwarding: Forwarding::new(device, (ipv4, ipv6), uplink)?,
                    firewalls: Vec::new(),
                },
            ),
            rules: Arc::new(Lock::new(Rank::NatRules, Rules::default())),
        };
        let (stop, stopped) = mpsc::channel();
        let mut nat = Nat {
            kept: Arc::new(kept),
            stop: Some(stop),
            looks: None,
        };
        nat.kept.keep()?;
        nat.kept.warn_of_firewalls();
        let kept = Arc::clone(&nat.kept);
        let looks = thread::Builder::new().name("forwarding".into());
        nat.looks = Some(looks.spawn(move || kept.look_until(&stopped))?);
        Ok(nat)
    }

    /// Installs the rules, or replaces them in one step, so that connections go on.
    ///
    /// # Errors
    /// What does not work. The rules stay as before.
    pub fn open_to(&self, pushed: &[Subnet]) -> io::Result<()> {
        let before = {
            let mut wanted = self.kept.wanted.lock();
            std::mem::replace(&mut wanted.pushed, pushed.to_vec())
        };
        self.kept.keep().map(drop).inspect_err(|_| {
            self.kept.wanted.lock().pushed = before;
        })
    }

    /// Why the server cannot go on, if its rules are gone.
    pub fn failure(&self) -> Option<String> {
        self.kept.rules.lock().failure.clone()
    }
}

impl Drop for Nat {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.looks.take().map(JoinHandle::join);
        put_back(&self.kept.device);
        let nft = self.kept.rules.lock().nft.take();
        nft.into_iter().for_each(|mut nft| nft.end());
    }
}

impl Kept {
    /// Compares switches and rules with the plan, and repairs them. Returns whether the owner of
    /// any switch changed.
    fn keep(&self) -> io::Result<bool> {
        let mut wanted = self.wanted.lock();
        let plan = wanted.forwarding.plan()?;
        // The rules come first, so that nothing else is ever forwarded.
        self.put_in(&rule_text(
            self,
            &wanted.pushed,
            &wanted.forwarding.guard(&plan),
        ))?;
        let is_done = wanted.forwarding.is_done(&plan);
        if !is_done {
            let lost = wanted.forwarding.lost();
            wanted.forwarding.carry_out(plan)?;
            if !lost.is_empty() {
                let text = "another program switched forwarding off; switched it on again";
                REPAIRS.warning("os", text, &[("what", &lost.join(", "))]);
            }
        }
        Ok(!is_done)
    }

    /// Lets nft install these rules, if they are not there yet.
    fn put_in(&self, text: &str) -> io::Result<()> {
        let mut rules = self.rules.lock();
        if rules.text == text {
            return Ok(());
        }
        log::command(&format!("nft '{text}'"));
        let table = format!("table inet {}", table_name(&self.device));
        match &mut rules.nft {
            Some(nft) => nft.put_in(&format!("delete {table}; {text}"), &table)?,
            nft => *nft = Some(Nft::start(&self.rules, text, &table)?),
        }
        (rules.text, rules.table) = (text.to_owned(), table);
        Ok(())
    }

    /// The body of the thread that checks, until the other end of `stopped` is dropped.
    fn look_until(&self, stopped: &Receiver<()>) {
        let mut reason = String::new();
        for look in 1_u32.. {
            if stopped.recv_timeout(LOOK) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let kept = self.keep();
            // Docker, for one, sets up its firewall as it begins to forward.
            if kept.as_ref().is_ok_and(|has_changed| *has_changed) || look % FIREWALL_LOOKS == 0 {
                self.warn_of_firewalls();
            }
            match kept {
                Ok(_) => reason.clear(),
                Err(error) if error.to_string() == reason => {} // the log has it already
                Err(error) => {
                    reason = error.to_string();
                    let text = "forwarding is not as planned, and clients may reach nothing";
                    log::warning("os", text, &[("reason", &reason)]);
                }
            }
        }
    }

    /// If another program's chain drops forwarded packets, fernvpn's rules cannot change that, so a
    /// person has to know. The log names each chain once, and again if it went away and came back.
    fn warn_of_firewalls(&self) {
        let device = &self.device;
        let found = firewalls();
        let mut wanted = self.wanted.lock();
        let new = found
            .iter()
            .filter(|it| !wanted.firewalls.contains(&it.name));
        for Firewall {
            table,
            chain,
            insert,
            ..
        } in new
        {
            let text = "a firewall drops forwarded packets. Unless a rule there lets clients \
                        through, they reach nothing. Such a rule is:";
            log::warning("os", text, &[("table", table), ("chain", chain)]);
            for way in insert {
                log::to_paste(&way.replace("DEVICE", device));
            }
        }
        wanted.firewalls = found.into_iter().map(|it| it.name).collect();
    }
}

/// Another program's chain that drops what none of its rules accepts.
#[derive(Debug, PartialEq, Eq)]
struct Firewall {
    name: String,
    table: String,
    chain: String,
    /// The commands that let a tunnel's DEVICE through.
    insert: [String; 2],
}

fn firewalls() -> Vec<Firewall> {
    let chains = chains(&command::said(&["nft", "list", "chains"]).unwrap_or_default());
    let refuses = |it: &&Chain| it.drops || ends_in_refusal(&it.table, &it.name, 0);
    let mut found: Vec<Firewall> = chains.iter().filter(refuses).map(Chain::firewall).collect();
    // These are the kernel's older tables, which nft does not see.
    for (names, program) in [
        ("/proc/net/ip_tables_names", "iptables-legacy"),
        ("/proc/net/ip6_tables_names", "ip6tables-legacy"),
    ] {
        let is_used = std::fs::read_to_string(names).is_ok_and(|names| names.contains("filter"));
        let policy = |said: String| said.starts_with("-P FORWARD DROP") || refuses_legacy(&said);
        if is_used && command::said(&[program, "-S", "FORWARD"]).is_some_and(policy) {
            found.push(Firewall {
                name: program.into(),
                table: program.into(),
                chain: "FORWARD".into(),
                insert: ["-i", "-o"]
                    .map(|way| format!("{program} -I FORWARD {way} DEVICE -j ACCEPT")),
            });
        }
    }
    found
}

/// Another program's chain that sees forwarded packets.
struct Chain {
    /// Its family and name.
    table: String,
    name: String,
    /// Whether its policy is to drop.
    drops: bool,
}

impl Chain {
    fn firewall(&self) -> Firewall {
        let Chain { table, name, .. } = self;
        Firewall {
            name: format!("{table} {name}"),
            table: table.clone(),
            chain: name.clone(),
            insert: ["iifname", "oifname"]
                .map(|way| format!("nft insert rule {table} {name} {way} DEVICE accept")),
        }
    }
}

/// The chains in the output of `nft list chains`. fernvpn's own tables let tunnels through.
fn chains(list: &str) -> Vec<Chain> {
    let (mut table, mut chain) = ("", "");
    let mut found = Vec::new();
    for line in list.lines() {
        let inside = line.trim().trim_end_matches('{').trim_end();
        if let Some(name) = inside.strip_prefix("table ") {
            table = name;
        } else if let Some(name) = inside.strip_prefix("chain ") {
            chain = name;
        } else if inside.contains("hook forward") && !table.starts_with("inet fernvpn-") {
            found.push(Chain {
                table: table.into(),
                name: chain.into(),
                drops: inside.contains("policy drop"),
            });
        }
    }
    found
}

/// How many jumps are followed.
const JUMPS: u32 = 4;

/// Whether a chain refuses what no rule in it has accepted, by a rule without a condition: so do
/// firewalld and many a script.
fn ends_in_refusal(table: &str, chain: &str, jumps: u32) -> bool {
    let table: Vec<&str> = table.split(' ').collect();
    let ask = [&["nft", "--terse", "list", "chain"], &table[..], &[chain]].concat();
    let rules = command::said(&ask).unwrap_or_default();
    rules
        .lines()
        .any(|rule| match unconditional(rule).as_slice() {
            ["drop"] | ["reject", ..] => true,
            ["jump" | "goto", next] if jumps < JUMPS => {
                ends_in_refusal(&table.join(" "), next, jumps + 1)
            }
            _ => false,
        })
}

/// The rule without what only counts and writes a log.
fn unconditional(rule: &str) -> Vec<&str> {
    let mut words: Vec<&str> = rule.split_whitespace().collect();
    if let ["counter", "packets", _, "bytes", _, ..] = words.as_slice() {
        words.drain(..5);
    }
    if let ["log", ..] = words.as_slice() {
        let verdict = |word: &&str| ["drop", "reject", "jump", "goto"].contains(word);
        let at = words.iter().position(verdict).unwrap_or(words.len());
        words.drain(..at);
    }
    words
}

/// Whether `iptables -S` says so.
fn refuses_legacy(said: &str) -> bool {
    let refuses = |line: &str| {
        line.strip_prefix("-A FORWARD -j ")
            .is_some_and(|to| to.starts_with("DROP") || to.starts_with("REJECT"))
    };
    said.lines().any(refuses)
}

impl Nft {
    /// Starts the child, and waits until it has installed the rules.
    fn start(rules: &Arc<Lock<Rules>>, text: &str, table: &str) -> io::Result<Nft> {
        let (near, far) = UnixStream::pair()?;
        let far = OwnedFd::from(far);
        // The child has a process group of its own, because only this process handles Ctrl-C.
        let mut command = command::prepare(&["nft", "-i"])?;
        command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(far.try_clone()?)
            .stderr(far);
        let child = command
            .spawn()
            .map_err(|error| tried("cannot start nft (apt install nftables)", &error))?;
        drop(command); // this also closes our copies of its ends
        let (sender, says) = mpsc::channel();
        let mut nft = Nft { child, says };
        let (rules, id) = (Arc::clone(rules), nft.child.id());
        let watching = thread::Builder::new().name("nft".into()).spawn(move || {
            for line in BufReader::new(near).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
            drop(sender); // the thread that waits for the answer gets an error
            put_in_again(&rules, id);
        });
        if let Err(error) = watching.map(drop).and_then(|()| nft.put_in(text, table)) {
            nft.end();
            return Err(error);
        }
        Ok(nft)
    }

    /// Lets the child install the rules. nft goes on after an error, so only the table itself shows
    /// success.
    fn put_in(&mut self, text: &str, table: &str) -> io::Result<()> {
        while self.says.try_recv().is_ok() {} // the rest of an earlier answer
        if let Some(stdin) = &mut self.child.stdin {
            writeln!(stdin, "{text}\nlist {table}")?;
        }
        outcome(&self.says, table, Instant::now() + PATIENCE)
    }

    fn end(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// The result of rules that make this table, by nft's output about them.
fn outcome(says: &Receiver<String>, table: &str, deadline: Instant) -> io::Result<()> {
    let mut said = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match says.recv_timeout(left) {
            Ok(line) if line.starts_with(table) => return Ok(()),
            // Some begin with a place: "internal:0:0-0: Error: …".
            Ok(line) if line.contains("Error:") => {
                let text = format!("nft refuses the rules of NAT: {}", line.trim());
                return Err(io::Error::other(text));
            }
            Ok(line) => said.push(line),
            Err(reason) => {
                let kind = match reason {
                    RecvTimeoutError::Timeout => ErrorKind::TimedOut,
                    RecvTimeoutError::Disconnected => ErrorKind::BrokenPipe,
                };
                return Err(io::Error::new(kind, no_table(reason, &said)));
            }
        }
    }
}

/// Why there is no table, in nft's own words if it had any.
fn no_table(reason: RecvTimeoutError, said: &[String]) -> String {
    let what = match reason {
        RecvTimeoutError::Timeout => "nft does not install the rules of NAT",
        RecvTimeoutError::Disconnected => "nft ended before the rules of NAT were in",
    };
    let lines: Vec<&str> = said.iter().map(|line| line.trim()).collect();
    match lines.iter().all(|line| line.is_empty()) {
        true => what.into(),
        false => format!("{what}: {}", lines.join(" ").trim()),
    }
}

/// Handles that the child with this id has ended, and its table with it.
fn put_in_again(shared: &Arc<Lock<Rules>>, id: u32) {
    let mut rules = shared.lock();
    // A child that does not own the table now is not replaced.
    let Some(mut dead) = rules.nft.take_if(|nft| nft.child.id() == id) else {
        return;
    };
    dead.end();
    log::warning(
        "os",
        "nft was ended, and the rules of NAT are gone; installing them again",
        &[],
    );
    match Nft::start(shared, &rules.text, &rules.table) {
        Ok(nft) => rules.nft = Some(nft),
        Err(error) => {
            rules.failure = Some(format!(
                "the rules of NAT are gone and cannot be installed again: {error}"
            ));
            // The code that started the server waits for a signal, and then stops it in order.
            let _ = signal::send(std::process::id(), Signal::Terminate);
        }
    }
}

/// The ports that NAT gives to clients. They are the longest range among the kernel's ports for
/// programs that connect, without those at which the server listens.
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

/// Whether a network is private: a site's own.
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

/// The table of a server with this device.
fn table_name(device: &str) -> String {
    rules::table_name(device, "").replacen("fernvpn-", "fernvpn-nat-", 1)
}

/// `server.nft`, filled in.
fn rule_text(kept: &Kept, pushed: &[Subnet], guard: &str) -> String {
    let Kept {
        device,
        networks,
        uplink,
        ports,
        ..
    } = kept;
    let name = rules::device_name(device);
    let uplink_is = uplink.as_ref().map_or(format!("!= \"{name}\""), |uplink| {
        format!("\"{}\"", rules::device_name(uplink))
    });
    let ports = format!("{}-{}", ports.0, ports.1);
    let tunnel: Vec<Subnet> = networks
        .iter()
        .map(|own| Subnet {
            address: own.network(),
            ..*own
        })
        .collect();
    let sites: Vec<Subnet> = pushed.iter().copied().filter(is_private).collect();
    let only = &tunnel[..usize::from(uplink.is_some())];
    let lists = [("TUNNEL", &tunnel[..]), ("SITES", &sites), ("ONLY", only)];
    rules::filled(
        include_str!("server.nft"),
        &[
            ("TABLE", &table_name(device)),
            ("DEVICE", &name),
            ("UPLINK", &uplink_is),
            ("PORTS", &ports),
            ("GUARD", guard.trim_end()),
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
        let kept = Kept {
            device: "fern7".into(),
            networks: nets(&["10.8.0.1/24", "fd0f::1/64"]),
            uplink: None,
            ports: (40_000, 50_000),
            wanted: Lock::new(
                Rank::NatWanted,
                Wanted {
                    pushed: Vec::new(),
                    forwarding: Forwarding::new("fern7", (true, true), None).unwrap(),
                    firewalls: Vec::new(),
                },
            ),
            rules: Arc::new(Lock::new(Rank::NatRules, Rules::default())),
        };
        let pushed = nets(&["0.0.0.0/0", "192.168.7.0/24", "fd00:1::/48"]);
        let text = rule_text(&kept, &pushed, "iif { 2, 3 } drop; ");
        assert!(
            text.contains("filter; iif { 2, 3 } drop; iifname"),
            "{text}"
        );
        assert_eq!(text.matches("ct state new accept").count(), 2, "{text}");
        assert!(
            text.contains("ip saddr 192.168.7.0/24 ct state new accept")
                && text.contains(":40000-50000"),
            "{text}"
        );
        assert!(
            !["DEVICE", "UPLINK", "PORTS", "GUARD", "NET", "FAMILY", "#"]
                .iter()
                .any(|left| text.contains(left)),
            "{text}"
        );
    }

    #[test]
    fn a_chain_that_drops_what_is_forwarded_is_found() {
        let list = "table inet own {\n\tchain f {\n\
                    \t\ttype filter hook forward priority 0; policy accept;\n\
                    \t}\n}\ntable ip filter {\n\tchain INPUT {\n\
                    \t\ttype filter hook input priority 0; policy drop;\n\t}\n\
                    \tchain FORWARD {\n\
                    \t\ttype filter hook forward priority 0; policy drop;\n\t}\n\
                    }\n";
        let own = "table inet fernvpn-fern0-lock {\n\tchain passing {\n\
                    \t\ttype filter hook forward priority 10; policy drop;\n";
        let found = chains(&[list, own].concat());
        let named = |it: &Chain| format!("{} {} {}", it.table, it.name, it.drops);
        let names: Vec<String> = found.iter().map(named).collect();
        assert_eq!(names, ["inet own f false", "ip filter FORWARD true"]);
        assert_eq!(
            found[1].firewall().insert[0],
            "nft insert rule ip filter FORWARD iifname DEVICE accept"
        );
    }

    #[test]
    fn a_rule_without_a_condition_is_told_from_others() {
        let is_final = |rule| matches!(unconditional(rule).as_slice(), ["drop"] | ["reject", ..]);
        for rule in [
            "\t\treject with icmpx admin-prohibited",
            "counter packets 0 bytes 0 reject with icmp host-prohibited",
            "counter packets 7 bytes 9 drop",
            "log prefix \"forward: \" drop",
        ] {
            assert!(is_final(rule), "{rule}");
        }
        for rule in [
            "iifname \"eth0\" drop",
            "ct state invalid drop",
            "counter packets 0 bytes 0",
            "log prefix \"drop \"",
            "limit rate 3/second drop",
            "}",
            "",
        ] {
            assert!(!is_final(rule), "{rule}");
        }
        assert!(refuses_legacy(
            "-P FORWARD ACCEPT\n-A FORWARD -j REJECT --reject-with icmp-host-prohibited\n"
        ));
        assert!(!refuses_legacy(
            "-P FORWARD ACCEPT\n-A FORWARD -i eth0 -j DROP\n"
        ));
    }

    #[test]
    fn what_nft_says_is_passed_on() {
        let of = |lines: &[&str], time: Duration| {
            let (sender, says) = mpsc::channel();
            lines
                .iter()
                .for_each(|line| sender.send((*line).to_owned()).unwrap());
            // One that goes on keeps its end of the channel.
            let goes_on = time.is_zero().then_some(sender);
            let outcome = outcome(&says, "table inet t", Instant::now() + time);
            drop(goes_on);
            outcome.map_err(|error| error.to_string())
        };
        let long = Duration::from_secs(60);
        assert_eq!(of(&["", "table inet t { # progname nft"], long), Ok(()));
        for (lines, time, told) in [
            (
                &["Error: Could not process rule: Not supported"][..],
                long,
                "nft refuses the rules of NAT: Error: Could not process rule: Not supported",
            ),
            (
                &["internal:0:0-0: Error: Operation not permitted"],
                long,
                "nft refuses the rules of NAT: internal:0:0-0: Error: Operation not permitted",
            ),
            (
                &["nft: error while loading shared libraries: libnftables.so.1"],
                long,
                "nft ended before the rules of NAT were in: nft: error while loading shared \
                 libraries: libnftables.so.1",
            ),
            (&[], long, "nft ended before the rules of NAT were in"),
            (
                &["", "waiting for a lock"],
                Duration::ZERO,
                "nft does not install the rules of NAT: waiting for a lock",
            ),
            (&[], Duration::ZERO, "nft does not install the rules of NAT"),
        ] {
            assert_eq!(of(lines, time), Err(told.to_owned()));
        }
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
