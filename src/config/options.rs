//! One option at a time: the name and value of an option, from the command line or from a file, into the settings.
//!
//! Both come through here, so that `--mtu 1400` and `mtu = 1400` mean the same and fail with the same words.

use super::settings::{ClientSettings, Congestion, Device, Nat, Peer, Routes, ServerSettings};
use crate::packet::subnet::Subnet;
use crate::protocol::record::Suite;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// Items in one list at most: a client is told of no more.
const MAX_ITEMS: usize = 1000;
/// The name of the device where none is given.
pub const DEVICE: &str = "fern0";

impl ServerSettings {
    /// Sets the option `name`. Lists are replaced.
    ///
    /// # Errors
    /// A sentence: what is wrong, and what would be right.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "listen" => self.listen = listen_addresses(value)?,
            "proxy-protocol-from" => self.balancers = list(value, network)?,
            "interface" => self.device = Device::Tun(device_name(value)?),
            "address" => self.addresses = list(value, str::parse)?,
            "mtu" => self.mtu = number(value, 576, 65_535)?,
            "nat" => {
                self.nat = match value {
                    "auto" => Nat::Auto,
                    "no" => Nat::No,
                    device => Nat::By(device_name(device)?),
                }
            }
            "push-routes" => self.push_routes = list(value, network)?,
            "push-dns" => self.push_dns = list(value, address)?,
            "client-to-client" => self.client_to_client = yes_or_no(value)?,
            "suites" => self.suites = suites(value)?,
            "keepalive" => self.keepalive = number(value, 1, 3600)?,
            "max-clients" => self.max_clients = number(value, 1, 1_000_000)?,
            "hello-max-age" => self.hello_max_age = Some(number(value, 1, u64::MAX)?),
            "congestion" => self.congestion = congestion(value)?,
            "keylog" => self.keylog = Some(value.into()),
            "name" => self.name = instance_name(value)?,
            _ => return Err(format!("a server has no option '{name}'")),
        }
        Ok(())
    }
}

impl Peer {
    /// Sets the option `name`, but for keys.
    ///
    /// # Errors
    /// A sentence: what is wrong, and what would be right.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "name" => self.name = instance_name(value)?,
            "address" => self.addresses = list(value, address)?,
            "routes" => self.routes = list(value, network)?,
            _ => return Err(format!("a peer has no option '{name}'")),
        }
        Ok(())
    }
}

impl ClientSettings {
    /// Sets the option `name`. Lists are replaced.
    ///
    /// # Errors
    /// A sentence: what is wrong, and what would be right.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "server" => self.server = host_and_port(value)?,
            "interface" => self.device = Device::Tun(device_name(value)?),
            "routes" => {
                self.routes = match value {
                    "pushed" => Routes::Pushed,
                    "none" => Routes::Only(Vec::new()),
                    networks => Routes::Only(list(networks, network).map_err(or_words)?),
                }
            }
            "dns" => {
                self.dns = match value {
                    "pushed" => None,
                    "none" => Some(Vec::new()),
                    addresses => Some(list(addresses, address).map_err(or_words)?),
                }
            }
            "kill-switch" => self.kill_switch = yes_or_no(value)?,
            "suites" => self.suites = suites(value)?,
            "congestion" => self.congestion = congestion(value)?,
            "keylog" => self.keylog = Some(value.into()),
            "name" => self.name = instance_name(value)?,
            _ => return Err(format!("a client has no option '{name}'")),
        }
        Ok(())
    }
}

/// Comma-separated items, at least one and at most as many as a client takes.
fn list<T>(value: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    let items: Vec<T> = value.split(',').map(|item| parse(item.trim())).collect::<Result<_, _>>()?;
    if items.len() <= MAX_ITEMS {
        Ok(items)
    } else {
        Err(format!("more than {MAX_ITEMS} items; join them, or leave some out"))
    }
}

/// A network, whose own address it is that stands before the prefix.
fn network(item: &str) -> Result<Subnet, String> {
    let subnet: Subnet = item.parse()?;
    match subnet.network() {
        own if own == subnet.address => Ok(subnet),
        own => {
            Err(format!("{subnet} is an address in the network {own}/{}, which is what belongs here", subnet.prefix))
        }
    }
}

fn address(item: &str) -> Result<IpAddr, String> {
    let address: Option<IpAddr> = item.parse().ok();
    let address = address.filter(|address| !address.is_unspecified() && !address.is_multicast());
    address.ok_or_else(|| format!("'{item}' is no address such as 10.8.0.2 or fd0f:e12e::2"))
}

fn or_words(reason: String) -> String {
    format!("{reason} (or 'pushed', or 'none')")
}

fn number<T: TryFrom<u64>>(value: &str, least: u64, most: u64) -> Result<T, String> {
    let digits = value.bytes().all(|c| c.is_ascii_digit()); // `parse` would take a sign
    let number = value.parse::<u64>().ok().filter(|n| digits && (least..=most).contains(n));
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
        name if (1..=15).contains(&name.len()) && name.bytes().all(fine) => Ok(Congestion::Named(name.into())),
        _ => Err(format!("'{value}' is neither auto nor system nor a congestion control such as bbr")),
    }
}

fn suites(value: &str) -> Result<Vec<Suite>, String> {
    let mut suites = Vec::new();
    for name in value.split(',').map(str::trim) {
        let names = Suite::ALL.map(Suite::name).join(", ");
        let suite = Suite::parse(name).ok_or_else(|| format!("'{name}' is no suite; there are {names}"))?;
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
        addresses
            .extend(found.map_err(|_| format!("'{item}' is no ADDRESS:PORT such as 0.0.0.0:12345 or [::]:12345"))?);
    }
    Ok(addresses)
}

/// Only its form: the host is looked up at every connection.
fn host_and_port(value: &str) -> Result<String, String> {
    let is_name = |host: &str| (1..=253).contains(&host.len()) && !host.contains([':', '/', '[', ']', ' ', '\t']);
    match value.rsplit_once(':') {
        Some((host, port)) if is_name(host) && number::<u16>(port, 1, 65_535).is_ok() => Ok(value.into()),
        _ if value.parse::<SocketAddr>().is_ok_and(|address| address.port() > 0) => Ok(value.into()),
        _ => Err(format!("'{value}' is no HOST:PORT such as vpn.example.org:12345 or [2001:db8::1]:12345")),
    }
}

fn device_name(value: &str) -> Result<String, String> {
    let fine = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    match value.len() {
        1..=15 if value.bytes().all(fine) && !value.starts_with('.') => Ok(value.into()),
        _ => Err(format!("'{value}' cannot name a device: 1 to 15 letters, digits, '-' and '_'")),
    }
}

fn instance_name(value: &str) -> Result<String, String> {
    let fine = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    match value.len() {
        1..=32 if value.bytes().all(fine) && !value.starts_with('.') => Ok(value.into()),
        _ => Err(format!("'{value}' is no name: 1 to 32 letters, digits, '-', '_' and '.'")),
    }
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
            let error = server.set(name, value).unwrap_err();
            assert!(error.contains(right), "{name}={value}: {error}");
        }
        server.set("suites", "fernet, fernet,aes-256-gcm").unwrap();
        assert_eq!(server.suites, [Suite::Fernet, Suite::Aes256Gcm]);
    }
}
