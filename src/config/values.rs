//! What does the value of an option mean? A text becomes a typed value, or a sentence about what is
//! wrong with it and what would be right.

use super::settings::{Congestion, Nat};
use crate::packet::subnet::Subnet;
use crate::protocol::record::Suite;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// The most items in one list, because a Config record has no more.
const MAX_ITEMS: usize = 1000;

/// Words that other programs take for yes and for no.
const YES: [&str; 5] = ["yes", "true", "on", "1", "enabled"];
const NO: [&str; 6] = ["no", "false", "off", "0", "none", "disabled"];

/// Comma-separated items, at least one and at most [`MAX_ITEMS`].
pub(super) fn list<T>(
    value: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let items = items(value)?;
    if items.len() > MAX_ITEMS {
        return Err(format!(
            "there are more than {MAX_ITEMS} items. Try: join some, or leave some out"
        ));
    }
    items.into_iter().map(parse).collect()
}

/// The items of a list. None may have a blank or a semicolon in it.
fn items(value: &str) -> Result<Vec<&str>, String> {
    let items: Vec<&str> = value.split(',').map(str::trim).collect();
    for item in &items {
        if item.is_empty() {
            return Err("there is a comma without an item beside it".into());
        }
        let parts: Vec<&str> = item
            .split(|c: char| c.is_whitespace() || c == ';')
            .filter(|part| !part.is_empty())
            .collect();
        if parts.len() > 1 {
            let right = parts.join(", ");
            return Err(format!("items are separated by commas: {right}"));
        }
    }
    Ok(items)
}

/// A network, written as its first address and its prefix length.
pub(super) fn network(item: &str) -> Result<Subnet, String> {
    let subnet = subnet(item)?;
    let first = subnet.network();
    if first == subnet.address {
        return Ok(subnet);
    }
    let prefix = subnet.prefix;
    Err(format!(
        "{subnet} is an address in the network {first}/{prefix}; write the network"
    ))
}

/// An address with the length of its network's prefix.
pub(super) fn subnet(item: &str) -> Result<Subnet, String> {
    if let Some((address, mask)) = item.split_once('/')
        && let Ok(IpAddr::V4(mask)) = mask.parse()
    {
        let prefix = mask.to_bits().leading_ones();
        return Err(format!(
            "write a prefix length in place of the netmask: {address}/{prefix}"
        ));
    }
    item.parse()
}

/// One address that a host can have.
pub(super) fn address(item: &str) -> Result<IpAddr, String> {
    if let Some((address, _)) = item.split_once('/')
        && address.parse::<IpAddr>().is_ok()
    {
        return Err(format!(
            "'{item}' is not a single address; leave out the prefix: {address}"
        ));
    }
    match item.parse::<IpAddr>() {
        Ok(address) if !address.is_unspecified() && !address.is_multicast() => Ok(address),
        _ => Err(format!(
            "'{item}' is not an address such as 10.8.0.2 or fd0f:e12e::2"
        )),
    }
}

/// Whether, and by which device, to forward.
pub(super) fn nat(value: &str) -> Result<Nat, String> {
    let word = value.to_ascii_lowercase();
    match word.as_str() {
        "auto" => Ok(Nat::Auto),
        "no" => Ok(Nat::No),
        word if YES.contains(&word) => Err(format!(
            "'{value}' does not say by which device; write auto, or the name of the device that \
             leads out, such as eth0"
        )),
        word if NO.contains(&word) => Err(format!("write no in place of '{value}'")),
        _ => device_name(value).map(Nat::By),
    }
}

/// What the server pushes (`None`), nothing, or these items.
pub(super) fn pushed_or<T>(
    value: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<Vec<T>>, String> {
    match value {
        "pushed" => Ok(None),
        "none" => Ok(Some(Vec::new())),
        items => match list(items, parse) {
            Ok(items) => Ok(Some(items)),
            Err(reason) => Err(format!("{reason} (or 'pushed', or 'none')")),
        },
    }
}

/// Every address.
pub(super) const EVERYTHING: [Subnet; 2] = [
    Subnet {
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        prefix: 0,
    },
    Subnet {
        address: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        prefix: 0,
    },
];

/// Every address (`None`), none, or those in these networks.
pub(super) fn any_or(value: &str) -> Result<Option<Vec<Subnet>>, String> {
    match value {
        "any" => Ok(None),
        "none" => Ok(Some(Vec::new())),
        items => match list(items, network) {
            Ok(items) => Ok(Some(items)),
            Err(reason) => Err(format!("{reason} (or 'any', or 'none')")),
        },
    }
}

/// A whole number in decimal digits.
pub(super) fn number<T: TryFrom<u64>>(value: &str, least: u64, most: u64) -> Result<T, String> {
    let is_digit = |c: char| c.is_ascii_digit();
    if value.chars().all(is_digit)
        && let Ok(number) = value.parse::<u64>()
        && (least..=most).contains(&number)
        && let Ok(number) = T::try_from(number)
    {
        return Ok(number);
    }
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c.is_whitespace());
    let mut reason = format!("'{value}' is not a whole number from {least} to {most}");
    if digits != value && !digits.is_empty() && digits.chars().all(is_digit) {
        reason += &format!("; leave out the unit: {digits}");
    }
    Err(reason)
}

/// A switch.
pub(super) fn yes_or_no(value: &str) -> Result<bool, String> {
    let word = value.to_ascii_lowercase();
    match value {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ if YES.contains(&word.as_str()) => {
            Err(format!("'{value}' is neither yes nor no; write yes"))
        }
        _ if NO.contains(&word.as_str()) => {
            Err(format!("'{value}' is neither yes nor no; write no"))
        }
        _ => Err(format!("'{value}' is neither yes nor no")),
    }
}

/// The congestion control of a connection.
pub(super) fn congestion(value: &str) -> Result<Congestion, String> {
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

/// Suites, each once.
pub(super) fn suites(value: &str) -> Result<Vec<Suite>, String> {
    let mut suites = Vec::new();
    for name in items(value)? {
        let Some(suite) = Suite::parse(name) else {
            let names = Suite::ALL.map(Suite::name).join(", ");
            return Err(format!(
                "there is no suite '{name}'; the suites are {names}"
            ));
        };
        if !suites.contains(&suite) {
            suites.push(suite);
        }
    }
    Ok(suites)
}

/// Where to listen.
pub(super) fn listen_addresses(value: &str) -> Result<Vec<SocketAddr>, String> {
    let mut addresses = Vec::new();
    for item in items(value)? {
        let wrong = |reason: &str| {
            format!("'{item}' is not ADDRESS:PORT, such as 0.0.0.0:12345 or [::]:12345{reason}")
        };
        split_port(item, 0).map_err(|reason| wrong(&reason))?;
        addresses.extend(resolved(item).map_err(|_| wrong(""))?);
    }
    Ok(addresses)
}

/// An address may have a zone, as in `[fe80::1%eth0]:12345`. std reads that only without brackets.
fn resolved(item: &str) -> io::Result<Vec<SocketAddr>> {
    let zoned = item.strip_prefix('[').and_then(|it| it.split_once("]:"));
    match zoned.and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?))) {
        Some(zoned) => zoned.to_socket_addrs().map(Iterator::collect),
        None => item.to_socket_addrs().map(Iterator::collect),
    }
}

/// Where the server is. This only checks the form. The host is looked up at every connection.
pub(super) fn host_and_port(value: &str) -> Result<String, String> {
    match split_port(value, 1) {
        Ok(()) => Ok(value.into()),
        Err(reason) => Err(format!(
            "'{value}' is not HOST:PORT, such as vpn.example.org:12345 or \
             [2001:db8::1]:12345{reason}"
        )),
    }
}

/// Checks that a text is a host and a port, which must be at least `least`.
///
/// # Errors
/// What would be right, to be appended to a sentence. Empty if there is nothing to guess.
fn split_port(text: &str, least: u16) -> Result<(), String> {
    if text.contains("://") {
        return Err("; leave out what stands before ://, and any path".into());
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(format!(
            "; an IPv6 address stands in brackets, followed by the port: [{text}]:12345"
        ));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let Some((host, port)) = rest.split_once(']') else {
            return Err("; the bracket is not closed".into());
        };
        let (address, zone) = host.split_once('%').unwrap_or((host, "lo"));
        if address.parse::<Ipv6Addr>().is_err() || !is_name(zone, 15) {
            return Err("; there is no IPv6 address in the brackets".into());
        }
        return match port.strip_prefix(':') {
            Some(port) => is_port(port, least),
            None => Err(format!("; the port is missing: [{host}]:12345")),
        };
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(match text.parse::<u16>() {
            Ok(port) => format!("; the address is missing: 0.0.0.0:{port}"),
            Err(_) if is_name(text, 253) => format!("; the port is missing: {text}:12345"),
            Err(_) => String::new(),
        });
    };
    if host.parse::<Ipv6Addr>().is_ok() {
        return Err(format!(
            "; an IPv6 address stands in brackets: [{host}]:{port}"
        ));
    }
    let fine = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !(1..=253).contains(&host.len()) || !host.chars().all(fine) {
        return Err(String::new());
    }
    is_port(port, least)
}

fn is_port(text: &str, least: u16) -> Result<(), String> {
    match number::<u16>(text, least.into(), 65_535) {
        Ok(_) => Ok(()),
        Err(_) => Err("; a port is a number from 1 to 65535".into()),
    }
}

/// The name of a file. A relative one begins in the folder of the configuration, or where the
/// program was started.
pub(super) fn path(value: &str) -> Result<PathBuf, String> {
    if value.starts_with('~') {
        return Err("'~' means a home folder only in a shell; write the whole path".into());
    }
    Ok(value.into())
}

/// The name of a device.
pub(super) fn device_name(value: &str) -> Result<String, String> {
    if is_name(value, 15) {
        return Ok(value.into());
    }
    Err(format!(
        "'{value}' cannot name a device; a name has 1 to 15 letters, digits, '-', '_' and '.'"
    ))
}

/// The name of an instance or a client.
pub(super) fn instance_name(value: &str) -> Result<String, String> {
    if is_name(value, 32) {
        return Ok(value.into());
    }
    Err(format!(
        "'{value}' is not a name; a name has 1 to 32 letters, digits, '-', '_' and '.'"
    ))
}

/// Whether this is safe as the name of a device or a file.
fn is_name(value: &str, longest: usize) -> bool {
    let fine = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    (1..=longest).contains(&value.len()) && value.bytes().all(fine) && !value.starts_with('.')
}
