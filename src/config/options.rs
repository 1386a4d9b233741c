//! Which options are there? Each has one row, from which everything else is made.
//!
//! ```text
//!  OptionSpec ─> the command line      --listen 0.0.0.0:443        config::arguments
//!             ─> the configuration     listen = 0.0.0.0:443        config::file
//!             ─> fernvpn help, the man pages, the completions      commands::documents
//!             ─> what a reload of the server does with a change    keep_what_needs_a_restart
//! ```
//!
//! The command line and a file set an option through the same row. So `--mtu 1400` and `mtu = 1400`
//! mean the same, and fail with the same words.

use super::settings::{ClientSettings, Device, Peer, ServerSettings};
use super::values::{
    EVERYTHING, address, any_or, congestion, device_name, host_and_port, instance_name, list,
    listen_addresses, nat, network, number, path, pushed_or, subnet, suites, yes_or_no,
};
use crate::protocol::record::Suite;

/// The name of the device if none is given.
pub const DEVICE: &str = "fern0";

/// The default of `suites`: all suites.
const DEFAULT_SUITES: &str = "the default suites";
/// The value of an option that is a switch: on the command line it has none.
const SWITCH: &str = "yes|no";

/// One option.
pub struct OptionSpec {
    /// Its name in a configuration file.
    pub name: &'static str,
    /// Its name on the command line, if it has one.
    pub flag: Option<&'static str>,
    /// The name of its value, such as `ADDRESS:PORT`. Words in lower case stand for themselves.
    pub value: &'static str,
    /// A short explanation.
    pub about: &'static str,
    /// Further sentences for the man page.
    pub more: &'static str,
    /// The default. It is empty if there is none.
    pub default: &'static str,
    /// Whether it can have several values, separated by commas or in several lines.
    pub list: bool,
    /// What a reload of a server does with a change.
    pub reload: Reload,
    /// The function that sets it. Its kind says in which sections the option may stand.
    pub set: Setter,
}

/// Sets an option to the value in a text. The error says what is wrong with the value, and what
/// would be right.
type Set<S> = fn(&mut S, &str) -> Result<(), String>;

/// The functions that set an option, for each section that has it.
pub enum Setter {
    /// `[server]`.
    Server(Set<ServerSettings>),
    /// `[client]`.
    Client(Set<ClientSettings>),
    /// `[server]` and `[client]`.
    Both(Set<ServerSettings>, Set<ClientSettings>),
    /// `[peer]`.
    Peer(Set<Peer>),
    /// `[peer]`, about its key. The reader of a file sets it, because it knows the folder.
    PeerKey,
    /// `[client]`, about its key.
    ClientKey,
}

/// What a reload of the server does with a change of an option.
pub enum Reload {
    /// The new value applies at once.
    Now,
    /// The clients that the change concerns connect again.
    Reconnect,
    /// The change needs a restart. This function restores the old value, and returns whether the
    /// new one differed.
    Restart(fn(&mut ServerSettings, &ServerSettings) -> bool),
    /// A client's option. A client has no reload.
    Start,
}

/// All options, in the order in which they are explained.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "listen",
        flag: Some("--listen"),
        value: "ADDRESS:PORT",
        about: "where the server listens",
        more: "The address [::] stands for IPv4 as well. A port below 1024 needs \
               CAP_NET_BIND_SERVICE, which examples/low-port.conf gives to the service.",
        default: "127.0.0.1:12345",
        list: true,
        reload: Reload::Restart(|new, old| keep(&mut new.listen, &old.listen)),
        set: Setter::Server(|own, value| put(&mut own.listen, listen_addresses(value))),
    },
    OptionSpec {
        name: "proxy-protocol-from",
        flag: Some("--proxy-protocol-from"),
        value: "NETWORK",
        about: "load balancers that name the client by the PROXY protocol",
        more: "They begin each connection with version 2 of that protocol. The server refuses \
               anything else from these addresses.",
        default: "",
        list: true,
        reload: Reload::Now,
        set: Setter::Server(|own, value| put(&mut own.balancers, list(value, network))),
    },
    OptionSpec {
        name: "server",
        flag: Some("--connect"),
        value: "HOST:PORT",
        about: "where the server is",
        more: "HOST is a name or an address. An IPv6 address stands in brackets.",
        default: "127.0.0.1:12345, on the command line",
        list: false,
        reload: Reload::Start,
        set: Setter::Client(|own, value| put(&mut own.server, host_and_port(value))),
    },
    OptionSpec {
        name: "interface",
        flag: Some("--tun"),
        value: "NAME",
        about: "the tunnel's device",
        more: "Each server and client on one machine needs a device of its own.",
        default: DEVICE,
        list: false,
        reload: Reload::Restart(|new, old| keep(&mut new.device, &old.device)),
        set: Setter::Both(
            |own, value| put(&mut own.device, device_name(value).map(Device::Tun)),
            |own, value| put(&mut own.device, device_name(value).map(Device::Tun)),
        ),
    },
    OptionSpec {
        name: "address",
        flag: Some("--address"),
        value: "ADDRESS/PREFIX",
        about: "the server's addresses in the tunnel, with their networks",
        more: "Clients get their addresses from these networks. Where the server's machine uses \
               the default networks already, the server takes others that are free.",
        default: "10.8.0.1/24, fd0f:e12e::1/64",
        list: true,
        reload: Reload::Restart(|new, old| keep(&mut new.addresses, &old.addresses)),
        set: Setter::Server(|own, value| {
            own.has_chosen_addresses = true;
            put(&mut own.addresses, list(value, subnet))
        }),
    },
    OptionSpec {
        name: "mtu",
        flag: Some("--mtu"),
        value: "BYTES",
        about: "largest packet within the tunnel's own network",
        more: "The path sets no limit, because TCP carries the tunnel. A packet that leaves the \
               tunnel's own network has at most 1500 bytes.",
        default: "9000",
        list: false,
        reload: Reload::Reconnect,
        set: Setter::Server(|own, value| put(&mut own.mtu, number(value, 576, 65_535))),
    },
    OptionSpec {
        name: "nat",
        flag: Some("--nat"),
        value: "auto|no|DEVICE",
        about: "whether to forward for clients, under this machine's address",
        more: "With auto, the server forwards if it pushes routes. With the name of a device, it \
               forwards by that device only.",
        default: "auto",
        list: false,
        reload: Reload::Restart(|new, old| keep(&mut new.nat, &old.nat)),
        set: Setter::Server(|own, value| put(&mut own.nat, nat(value))),
    },
    OptionSpec {
        name: "push-routes",
        flag: Some("--push-routes"),
        value: "NETWORK",
        about: "networks that clients reach through the server",
        more: "They come in addition to the tunnel's own networks. 0.0.0.0/0, ::/0 is everything.",
        default: "",
        list: true,
        reload: Reload::Reconnect,
        set: Setter::Server(|own, value| put(&mut own.push_routes, list(value, network))),
    },
    OptionSpec {
        name: "allow",
        flag: Some("--allow"),
        value: "any|none|NETWORK",
        about: "networks that packets of clients may reach",
        more: "push-routes only tells clients what to send. allow is what the server passes on, to \
               its own addresses and to other clients as well.",
        default: "any",
        list: true,
        reload: Reload::Now,
        set: Setter::Server(|own, value| put(&mut own.allow, any_or(value))),
    },
    OptionSpec {
        name: "push-dns",
        flag: Some("--push-dns"),
        value: "ADDRESS",
        about: "resolvers that clients use",
        more: "",
        default: "",
        list: true,
        reload: Reload::Reconnect,
        set: Setter::Server(|own, value| put(&mut own.push_dns, list(value, address))),
    },
    OptionSpec {
        name: "client-to-client",
        flag: Some("--client-to-client"),
        value: SWITCH,
        about: "whether clients may send packets to each other",
        more: "",
        default: "no",
        list: false,
        reload: Reload::Now,
        set: Setter::Server(|own, value| put(&mut own.client_to_client, yes_or_no(value))),
    },
    OptionSpec {
        name: "routes",
        flag: Some("--routes"),
        value: "pushed|none|NETWORK",
        about: "which networks go into the tunnel",
        more: "With pushed, the server decides. With none, only the tunnel's own network does.",
        default: "pushed",
        list: true,
        reload: Reload::Start,
        set: Setter::Client(|own, value| put(&mut own.routes, pushed_or(value, network))),
    },
    OptionSpec {
        name: "dns",
        flag: Some("--dns"),
        value: "pushed|none|ADDRESS",
        about: "which resolvers to use",
        more: "With pushed, the server decides. They resolve all names.",
        default: "pushed",
        list: true,
        reload: Reload::Start,
        set: Setter::Client(|own, value| put(&mut own.dns, pushed_or(value, address))),
    },
    OptionSpec {
        name: "kill-switch",
        flag: Some("--kill-switch"),
        value: SWITCH,
        about: "whether packets may leave this machine by the tunnel only",
        more: "This also holds while the server is away, and after the client was killed. An \
               orderly stop ends it, and so does 'fernvpn unlock'.",
        default: "no",
        list: false,
        reload: Reload::Start,
        set: Setter::Client(|own, value| put(&mut own.kill_switch, yes_or_no(value))),
    },
    OptionSpec {
        name: "suites",
        flag: Some("--suite"),
        value: "SUITE",
        about: "allowed suites, the preferred one first",
        more: "A suite is the encryption that protects the packets.",
        default: DEFAULT_SUITES,
        list: true,
        reload: Reload::Now,
        set: Setter::Both(
            |own, value| put(&mut own.suites, suites(value)),
            |own, value| put(&mut own.suites, suites(value)),
        ),
    },
    OptionSpec {
        name: "keepalive",
        flag: Some("--keepalive"),
        value: "SECONDS",
        about: "silence after which one end asks whether the other is there",
        more: "",
        default: "15",
        list: false,
        reload: Reload::Reconnect,
        set: Setter::Server(|own, value| put(&mut own.keepalive, number(value, 1, 3600))),
    },
    OptionSpec {
        name: "max-clients",
        flag: Some("--max-clients"),
        value: "NUMBER",
        about: "how many clients may be connected at once",
        more: "",
        default: "4096",
        list: false,
        reload: Reload::Now,
        set: Setter::Server(|own, value| put(&mut own.max_clients, number(value, 1, 1_000_000))),
    },
    OptionSpec {
        name: "hello-max-age",
        flag: Some("--hello-max-age"),
        value: "SECONDS",
        about: "how far a client's clock may be off",
        more: "Without this option, no clock matters.",
        default: "unlimited",
        list: false,
        reload: Reload::Now,
        set: Setter::Server(|own, value| {
            put(&mut own.hello_max_age, number(value, 1, u64::MAX).map(Some))
        }),
    },
    OptionSpec {
        name: "congestion",
        flag: Some("--congestion"),
        value: "auto|system|NAME",
        about: "TCP congestion control of the connection, for what this end sends",
        more: "With auto, a long path gets bbr and a short one cubic, if the kernel has them. With \
               system, the kernel's own choice holds.",
        default: "auto",
        list: false,
        reload: Reload::Now,
        set: Setter::Both(
            |own, value| put(&mut own.congestion, congestion(value)),
            |own, value| put(&mut own.congestion, congestion(value)),
        ),
    },
    OptionSpec {
        name: "keylog",
        flag: Some("--keylog"),
        value: "FILE",
        about: "write the keys of every session to FILE, for 'fernvpn capture'",
        more: "With this file, anybody can read everything that went through the tunnel.",
        default: "",
        list: false,
        reload: Reload::Restart(|new, old| keep(&mut new.keylog, &old.keylog)),
        set: Setter::Both(
            |own, value| put(&mut own.keylog, path(value).map(Some)),
            |own, value| put(&mut own.keylog, path(value).map(Some)),
        ),
    },
    OptionSpec {
        name: "name",
        flag: Some("--name"),
        value: "NAME",
        about: "name of this instance, for 'fernvpn status' and 'fernvpn reload'",
        more: "The systemd units set it to the name of the unit.",
        default: "server",
        list: false,
        reload: Reload::Restart(|new, old| keep(&mut new.name, &old.name)),
        set: Setter::Server(|own, value| put(&mut own.name, instance_name(value))),
    },
    OptionSpec {
        name: "name",
        flag: Some("--name"),
        value: "NAME",
        about: "name of this instance, for 'fernvpn status'",
        more: "The systemd units set it to the name of the unit.",
        default: "client",
        list: false,
        reload: Reload::Start,
        set: Setter::Client(|own, value| put(&mut own.name, instance_name(value))),
    },
    OptionSpec {
        name: "name",
        flag: None,
        value: "NAME",
        about: "name of the client, for logs and 'fernvpn status'",
        more: "",
        default: "",
        list: false,
        reload: Reload::Reconnect,
        set: Setter::Peer(|own, value| put(&mut own.name, instance_name(value))),
    },
    OptionSpec {
        name: "key",
        flag: None,
        value: "KEY",
        about: "the client's key, as 'fernvpn genkey' prints it",
        more: "A client may have several keys, so that it can change from one to the next. No two \
               clients may have the same key.",
        default: "",
        list: true,
        reload: Reload::Reconnect,
        set: Setter::PeerKey,
    },
    OptionSpec {
        name: "key",
        flag: None,
        value: "KEY",
        about: "the client's key, as 'fernvpn genkey' prints it",
        more: "",
        default: "",
        list: false,
        reload: Reload::Start,
        set: Setter::ClientKey,
    },
    OptionSpec {
        name: "key-file",
        flag: None,
        value: "FILE",
        about: "the file that holds the key",
        more: "A relative name begins in the folder of the configuration.",
        default: "",
        list: false,
        reload: Reload::Reconnect,
        set: Setter::PeerKey,
    },
    OptionSpec {
        name: "key-file",
        flag: None,
        value: "FILE",
        about: "the file that holds the key",
        more: "A relative name begins in the folder of the configuration.",
        default: "",
        list: false,
        reload: Reload::Start,
        set: Setter::ClientKey,
    },
    OptionSpec {
        name: "ratchet",
        flag: None,
        value: SWITCH,
        about: "whether the key moves on with each session",
        more: "An attacker who gets such a key later cannot read sessions that were recorded \
               before. Both sides must have the same setting. The server must be able to write \
               the key-file, so /var/lib/fernvpn is the place for it.",
        default: "no",
        list: false,
        reload: Reload::Reconnect,
        set: Setter::PeerKey,
    },
    OptionSpec {
        name: "ratchet",
        flag: None,
        value: SWITCH,
        about: "whether the key moves on with each session",
        more: "Both sides must have the same setting. The client must be able to write the \
               key-file, so /var/lib/fernvpn is the place for it.",
        default: "no",
        list: false,
        reload: Reload::Start,
        set: Setter::ClientKey,
    },
    OptionSpec {
        name: "address",
        flag: Some("--address"),
        value: "ADDRESS",
        about: "fixed addresses of the client in the tunnel",
        more: "For a family without a fixed address, the server leases one that depends on the \
               client's name and stays the same.",
        default: "leased",
        list: true,
        reload: Reload::Reconnect,
        set: Setter::Peer(|own, value| put(&mut own.addresses, list(value, address))),
    },
    OptionSpec {
        name: "routes",
        flag: None,
        value: "NETWORK",
        about: "networks behind this client, which others reach through it",
        more: "",
        default: "",
        list: true,
        reload: Reload::Now,
        set: Setter::Peer(|own, value| put(&mut own.routes, list(value, network))),
    },
    OptionSpec {
        name: "allow",
        flag: None,
        value: "any|none|NETWORK",
        about: "networks that packets of this client may reach",
        more: "It takes the place of allow in [server].",
        default: "as in [server]",
        list: true,
        reload: Reload::Now,
        set: Setter::Peer(|own, value| {
            let listed = any_or(value).map(|it| it.unwrap_or(EVERYTHING.to_vec()));
            put(&mut own.allow, listed.map(Some))
        }),
    },
];

impl OptionSpec {
    /// Whether the option may stand in the section with this name.
    pub fn is_in(&self, section: &str) -> bool {
        match self.set {
            Setter::Server(_) => section == "server",
            Setter::Client(_) | Setter::ClientKey => section == "client",
            Setter::Both(..) => section == "server" || section == "client",
            Setter::Peer(_) | Setter::PeerKey => section == "peer",
        }
    }

    /// The name of its value on the command line, where a switch has none.
    pub fn argument(&self) -> Option<&'static str> {
        Some(self.value).filter(|value| *value != SWITCH)
    }

    /// The default, if there is one.
    pub fn default(&self) -> Option<String> {
        match self.default {
            "" => None,
            DEFAULT_SUITES => Some(Suite::DEFAULT.map(Suite::name).join(", ")),
            text => Some(text.to_owned()),
        }
    }

    /// The explanation with the default.
    pub fn summary(&self) -> String {
        match self.default() {
            None => self.about.to_owned(),
            Some(default) => format!("{} (default: {default})", self.about),
        }
    }
}

/// The options of the section with this name.
pub fn of(section: &str) -> impl Iterator<Item = &'static OptionSpec> {
    OPTIONS.iter().filter(move |option| option.is_in(section))
}

/// An option of a section.
pub fn find(section: &str, name: &str) -> Option<&'static OptionSpec> {
    of(section).find(|option| option.name == name)
}

/// A section in which options are set.
pub trait Settings {
    /// The name of the section.
    const SECTION: &'static str;

    /// Sets an option, if it is one of this section.
    fn set_by(&mut self, set: &Setter, value: &str) -> Option<Result<(), String>>;
}

impl Settings for ServerSettings {
    const SECTION: &'static str = "server";

    fn set_by(&mut self, set: &Setter, value: &str) -> Option<Result<(), String>> {
        match set {
            Setter::Server(set) | Setter::Both(set, _) => Some(set(self, value)),
            _ => None,
        }
    }
}

impl Settings for ClientSettings {
    const SECTION: &'static str = "client";

    fn set_by(&mut self, set: &Setter, value: &str) -> Option<Result<(), String>> {
        match set {
            Setter::Client(set) | Setter::Both(_, set) => Some(set(self, value)),
            _ => None,
        }
    }
}

impl Settings for Peer {
    const SECTION: &'static str = "peer";

    fn set_by(&mut self, set: &Setter, value: &str) -> Option<Result<(), String>> {
        match set {
            Setter::Peer(set) => Some(set(self, value)),
            _ => None,
        }
    }
}

/// Sets one option. A list is replaced.
///
/// # Errors
/// Fails if there is no such option, or the value does not suit it.
pub fn set<S: Settings>(settings: &mut S, name: &str, value: &str) -> Result<(), String> {
    find(S::SECTION, name)
        .and_then(|option| settings.set_by(&option.set, value))
        .unwrap_or_else(|| Err(format!("there is no option '{name}'")))
}

/// Restores values that a running server cannot change, and names the options whose change needs a
/// restart.
pub fn keep_what_needs_a_restart(
    new: &mut ServerSettings,
    old: &ServerSettings,
) -> Vec<&'static str> {
    let mut kept = Vec::new();
    for option in of("server") {
        if let Reload::Restart(keep) = option.reload
            && keep(new, old)
        {
            kept.push(option.name);
        }
    }
    kept
}

/// Restores the old value, and returns whether the new one differed.
fn keep<T: Clone + PartialEq>(new: &mut T, old: &T) -> bool {
    let differs = new != old;
    if differs {
        new.clone_from(old);
    }
    differs
}

fn put<T>(place: &mut T, value: Result<T, String>) -> Result<(), String> {
    *place = value?;
    Ok(())
}

/// The known name that was probably meant.
pub fn nearest(section: &str, name: &str) -> String {
    super::arguments::did_you_mean(name, of(section).map(|option| option.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_refused_say_what_is_right() {
        let mut server = ServerSettings::default();
        for (name, value, right) in [
            ("listen", "here", "here:12345"),
            ("interface", "a/b", "15 letters"),
            ("address", "10.8.0.1/24,x", "10.8.0.1/24"),
            ("mtu", "100", "576"),
            ("mtu", "70000", "65535"),
            ("mtu", "-1", "576"),
            ("client-to-client", "maybe", "yes nor no"),
            ("suites", "rot13", "aes-256-gcm, fernet"),
            ("keepalive", "0", "1 to 3600"),
            ("name", "../x", "letters"),
            ("nat", "a/b", "15 letters"),
            ("allow", "10.8.0.0/33", "'any', or 'none'"),
        ] {
            let error = set(&mut server, name, value).unwrap_err();
            assert!(error.contains(right), "{name}={value}: {error}");
        }
        set(&mut server, "suites", "fernet, fernet,aes-256-gcm").unwrap();
        assert_eq!(server.suites, [Suite::FERNET, Suite::AES_256_GCM]);
    }

    #[test]
    fn a_row_stands_once_in_each_section_and_explains_itself() {
        for section in ["server", "peer", "client"] {
            let mut names: Vec<&str> = of(section).map(|option| option.name).collect();
            names.sort_unstable();
            let all = names.len();
            names.dedup();
            assert_eq!(names.len(), all, "[{section}] has an option twice");
        }
        for option in OPTIONS {
            let name = option.name;
            let more = option.more;
            assert!(
                !option.about.is_empty() && !option.about.ends_with('.'),
                "{name}"
            );
            assert!(more.is_empty() || more.ends_with('.'), "{name}: {more}");
        }
    }

    /// Each default in the help is the real one.
    #[test]
    fn the_defaults_are_as_they_are_explained() {
        let told = |option: &&OptionSpec| !["", "unlimited", "leased"].contains(&option.default);
        for option in of("server").filter(told) {
            let mut settings = ServerSettings::default();
            let before = format!("{settings:?}");
            set(&mut settings, option.name, &option.default().unwrap()).unwrap();
            settings.has_chosen_addresses = false;
            assert_eq!(format!("{settings:?}"), before, "{}", option.name);
        }
        for option in of("client")
            .filter(told)
            .filter(|option| option.name != "server")
        {
            let key = crate::fernet::Key::from_bytes(&[0; 32]);
            let mut settings = ClientSettings::new("", key);
            let before = format!("{settings:?}");
            if let Some(done) = settings.set_by(&option.set, &option.default().unwrap()) {
                done.unwrap();
            }
            assert_eq!(format!("{settings:?}"), before, "{}", option.name);
        }
    }

    #[test]
    fn what_needs_a_restart_stays_as_it_was() {
        let old = ServerSettings::default();
        let mut new = ServerSettings::default();
        for (name, value) in [
            ("listen", "127.0.0.1:1"),
            ("interface", "fern7"),
            ("nat", "no"),
            ("mtu", "1400"),
        ] {
            set(&mut new, name, value).unwrap();
        }
        let kept = keep_what_needs_a_restart(&mut new, &old);
        assert_eq!(kept, ["listen", "interface", "nat"]);
        let kept = [new.listen == old.listen, new.device == old.device];
        assert_eq!(kept, [true, true]);
        assert_eq!(new.mtu, 1400, "the rest is taken up");
    }
}
