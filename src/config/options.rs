//! One option at a time: the name and value of an option, from the command line or from a file,
//! into the settings.
//!
//! Both come through here, so that `--mtu 1400` and `mtu = 1400` mean the same and fail with the
//! same words.

use super::settings::{ClientSettings, Congestion, Device, Nat, Peer, ServerSettings};
use crate::packet::subnet::Subnet;
use crate::protocol::record::Suite;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// Items in one list at most: a client is told of no more.
const MAX_ITEMS: usize = 1000;
/// The name of the device where none is given.
pub const DEVICE: &str = "fern0";

/// An option: its name, and what sets it. Lists are replaced. The error is a sentence: what is
/// wrong, and what would be right.
pub type Setter<S> = (&'static str, fn(&mut S, &str) -> Result<(), String>);

/// Options of `[server]`.
pub const SERVER: &[Setter<ServerSettings>] = &[
    ("listen", |own, value| {
        put(&mut own.listen, listen_addresses(value))
    }),
    ("proxy-protocol-from", |own, value| {
        put(&mut own.balancers, list(value, network))
    }),
    ("interface", |own, value| {
        put(&mut own.device, device_name(value).map(Device::Tun))
    }),
    ("address", |own, value| {
        put(&mut own.addresses, list(value, str::parse))
    }),
    ("mtu", |own, value| {
        put(&mut own.mtu, number(value, 576, 65_535))
    }),
    ("nat", |own, value| put(&mut own.nat, nat(value))),
    ("push-routes", |own, value| {
        put(&mut own.push_routes, list(value, network))
    }),
    ("push-dns", |own, value| {
        put(&mut own.push_dns, list(value, address))
    }),
    ("client-to-client", |own, value| {
        put(&mut own.client_to_client, yes_or_no(value))
    }),
    ("suites", |own, value| put(&mut own.suites, suites(value))),
    ("keepalive", |own, value| {
        put(&mut own.keepalive, number(value, 1, 3600))
    }),
    ("max-clients", |own, value| {
        put(&mut own.max_clients, number(value, 1, 1_000_000))
    }),
    ("hello-max-age", |own, value| {
        put(&mut own.hello_max_age, number(value, 1, u64::MAX).map(Some))
    }),
    ("congestion", |own, value| {
        put(&mut own.congestion, congestion(value))
    }),
    ("keylog", |own, value| {
        put(&mut own.keylog, Ok(Some(value.into())))
    }),
    ("name", |own, value| {
        put(&mut own.name, instance_name(value))
    }),
];

/// Options of `[peer]`, but for those in [`KEYS`].
pub const PEER: &[Setter<Peer>] = &[
    ("name", |own, value| {
        put(&mut own.name, instance_name(value))
    }),
    ("address", |own, value| {
        put(&mut own.addresses, list(value, address))
    }),
    ("routes", |own, value| {
        put(&mut own.routes, list(value, network))
    }),
];

/// Options of `[client]`, but for those in [`KEYS`].
pub const CLIENT: &[Setter<ClientSettings>] = &[
    ("server", |own, value| {
        put(&mut own.server, host_and_port(value))
    }),
    ("interface", |own, value| {
        put(&mut own.device, device_name(value).map(Device::Tun))
    }),
    ("routes", |own, value| {
        put(&mut own.routes, pushed_or(value, network))
    }),
    ("dns", |own, value| {
        put(&mut own.dns, pushed_or(value, address))
    }),
    ("kill-switch", |own, value| {
        put(&mut own.kill_switch, yes_or_no(value))
    }),
    ("suites", |own, value| put(&mut own.suites, suites(value))),
    ("congestion", |own, value| {
        put(&mut own.congestion, congestion(value))
    }),
    ("keylog", |own, value| {
        put(&mut own.keylog, Ok(Some(value.into())))
    }),
    ("name", |own, value| {
        put(&mut own.name, instance_name(value))
    }),
];

/// The options of a peer and a client about keys, which only a file's reader can set (`file`).
pub const KEYS: [&str; 3] = ["key", "key-file", "ratchet"];

/// All options of the section with this name.
pub fn names(section: &str) -> Vec<&'static str> {
    fn of<S>(options: &[Setter<S>], more: &[&'static str]) -> Vec<&'static str> {
        options
            .iter()
            .map(|(name, _)| *name)
            .chain(more.iter().copied())
            .collect()
    }
    match section {
        "server" => of(SERVER, &[]),
        "peer" => of(PEER, &KEYS),
        "client" => of(CLIENT, &KEYS),
        _ => Vec::new(),
    }
}

/// Sets one option.
///
/// # Errors
/// A sentence.
pub fn set<S>(
    options: &[Setter<S>],
    settings: &mut S,
    name: &str,
    value: &str,
) -> Result<(), String> {
    let option = options.iter().find(|(known, _)| *known == name);
    option.map_or(Err(format!("there is no option '{name}'")), |(_, set)| {
        set(settings, value)
    })
}

fn put<T>(place: &mut T, value: Result<T, String>) -> Result<(), String> {
    value.map(|value| *place = value)
}

/// Comma-separated items, at least one and at most as many as a client takes.
fn list<T>(value: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    let items: Vec<T> = value
        .split(',')
        .map(|item| parse(item.trim()))
        .collect::<Result<_, _>>()?;
    if items.len() <= MAX_ITEMS {
        Ok(items)
    } else {
        Err(format!(
            "more than {MAX_ITEMS} items; join them, or leave some out"
        ))
    }
}

/// A network, whose own address it is that stands before the prefix.
fn network(item: &str) -> Result<Subnet, String> {
    let subnet: Subnet = item.parse()?;
    match subnet.network() {
        own if own == subnet.address => Ok(subnet),
        own => Err(format!(
            "{subnet} is an address in the network {own}/{}, which is what belongs here",
            subnet.prefix
        )),
    }
}

fn address(item: &str) -> Result<IpAddr, String> {
    let address: Option<IpAddr> = item.parse().ok();
    let address = address.filter(|address| !address.is_unspecified() && !address.is_multicast());
    address.ok_or_else(|| format!("'{item}' is no address such as 10.8.0.2 or fd0f:e12e::2"))
}

fn nat(value: &str) -> Result<Nat, String> {
    match value {
        "auto" => Ok(Nat::Auto),
        "no" => Ok(Nat::No),
        device => device_name(device).map(Nat::By),
    }
}

/// What the server pushes (`None`), nothing, or these items.
fn pushed_or<T>(
    value: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<Vec<T>>, String> {
    match value {
        "pushed" => Ok(None),
        "none" => Ok(Some(Vec::new())),
        items => list(items, parse)
            .map(Some)
            .map_err(|reason| format!("{reason} (or 'pushed', or 'none')")),
    }
}

fn number<T: TryFrom<u64>>(value: &str, least: u64, most: u64) -> Result<T, String> {
    let digits = value.bytes().all(|c| c.is_ascii_digit()); // `parse` would take a sign
    let number = value
        .parse::<u64>()
        .ok()
        .filter(|n| digits && (least..=most).contains(n));
    let number = number.and_then(|n| T::try_from(n).ok());
    number.ok_or_else(|| format!("'{value}' is no whole number from {least} to {most}"))
}

pub(super) fn yes_or_no(value: &str) -> Result<bool, String> {
    match value {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(format!("'{value}' is neither yes nor no")),
    }
}

fn congestion(value: &str) -> Result<Congestion, String> {
    let fine = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
    match value {
        "auto" => Ok(Congestion::Auto),
        "system" => Ok(Congestion::System),
        name if (1..=15).contains(&name.len()) && name.bytes().all(fine) => {
            Ok(Congestion::Named(name.into()))
        }
        _ => Err(format!(
            "'{value}' is neither auto nor system nor a congestion control such as bbr"
        )),
    }
}

fn suites(value: &str) -> Result<Vec<Suite>, String> {
    let mut suites = Vec::new();
    for name in value.split(',').map(str::trim) {
        let names = Suite::ALL.map(Suite::name).join(", ");
        let suite =
            Suite::parse(name).ok_or_else(|| format!("'{name}' is no suite; there are {names}"))?;
        if !suites.contains(&suite) {
            suites.push(suite);
        }
    }
    Ok(suites)
}

fn listen_addresses(value: &str) -> Result<Vec<SocketAddr>, String> {
    let mut addresses = Vec::new();
    for item in value.split(',').map(str::trim) {
        let found = item.to_socket_addrs();
        addresses.extend(found.map_err(|_| {
            format!("'{item}' is no ADDRESS:PORT such as 0.0.0.0:12345 or [::]:12345")
        })?);
    }
    Ok(addresses)
}

/// Only its form: the host is looked up at every connection.
fn host_and_port(value: &str) -> Result<String, String> {
    let is_name = |host: &str| {
        (1..=253).contains(&host.len()) && !host.contains([':', '/', '[', ']', ' ', '\t'])
    };
    match value.rsplit_once(':') {
        Some((host, port)) if is_name(host) && number::<u16>(port, 1, 65_535).is_ok() => {
            Ok(value.into())
        }
        _ if value
            .parse::<SocketAddr>()
            .is_ok_and(|address| address.port() > 0) =>
        {
            Ok(value.into())
        }
        _ => Err(format!(
            "'{value}' is no HOST:PORT such as vpn.example.org:12345 or [2001:db8::1]:12345"
        )),
    }
}

fn device_name(value: &str) -> Result<String, String> {
    named(value, 15).ok_or_else(|| {
        format!("'{value}' cannot name a device: 1 to 15 letters, digits, '-' and '_'")
    })
}

fn instance_name(value: &str) -> Result<String, String> {
    named(value, 32)
        .ok_or_else(|| format!("'{value}' is no name: 1 to 32 letters, digits, '-', '_' and '.'"))
}

/// A name that is safe as that of a device or a file.
fn named(value: &str, longest: usize) -> Option<String> {
    let fine = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    let is_name =
        (1..=longest).contains(&value.len()) && value.bytes().all(fine) && !value.starts_with('.');
    is_name.then(|| value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_refused_say_what_is_right() {
        let mut server = ServerSettings::default();
        for (name, value, right) in [
            ("listen", "here", "0.0.0.0:12345"),
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
        ] {
            let error = set(SERVER, &mut server, name, value).unwrap_err();
            assert!(error.contains(right), "{name}={value}: {error}");
        }
        set(SERVER, &mut server, "suites", "fernet, fernet,aes-256-gcm").unwrap();
        assert_eq!(server.suites, [Suite::Fernet, Suite::Aes256Gcm]);
    }
}
