//! What does the server tell a client about its network? This is the content of a Config record,
//! PROTOCOL.md section 4.5.
//!
//! ```text
//!  addresses=10.8.0.2/24,fd0f:e12e::2/64\n
//!  server=10.8.0.1,fd0f:e12e::1\n
//!  mtu=1500\n  routes=\n  dns=\n  keepalive=15\n
//! ```

use crate::packet::subnet::Subnet;
use crate::protocol::fields::{self, FieldError, Fields};
use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

/// The network as a client should set it up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// The client's tunnel addresses, each with the prefix length of the tunnel's network.
    pub addresses: Vec<Subnet>,
    /// The server's tunnel addresses.
    pub server: Vec<IpAddr>,
    /// The MTU of the tunnel device, in bytes.
    pub mtu: u16,
    /// Networks whose packets go into the tunnel, besides its own.
    pub routes: Vec<Subnet>,
    /// Resolvers.
    pub dns: Vec<IpAddr>,
    /// How long a side may be silent before the other sends a Ping.
    pub keepalive: Duration,
}

/// The smallest MTU. IPv6 needs 1280 (RFC 8200, section 5), IPv4 alone only 576.
pub const MIN_MTU: u16 = 576;
/// The most items in a list. A record could hold more than a machine should have to set.
const MAX_ITEMS: usize = 1000;

impl NetworkConfig {
    /// The content of the record.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = String::new();
        fields::write(&mut text, "addresses", &join(&self.addresses));
        fields::write(&mut text, "server", &join(&self.server));
        fields::write(&mut text, "mtu", &self.mtu.to_string());
        fields::write(&mut text, "routes", &join(&self.routes));
        fields::write(&mut text, "dns", &join(&self.dns));
        fields::write(
            &mut text,
            "keepalive",
            &self.keepalive.as_secs().to_string(),
        );
        text.into_bytes()
    }

    /// Reads a record's content.
    ///
    /// # Errors
    /// [`FieldError`] with the name of the field that is wrong.
    pub fn decode(content: &[u8]) -> Result<NetworkConfig, FieldError> {
        let fields = Fields::parse(content)?;
        let number = |name| {
            let number = fields.number(name)?.ok_or(FieldError::Missing(name))?;
            u16::try_from(number).map_err(|_| FieldError::Value(name))
        };
        let config = NetworkConfig {
            addresses: networks(&fields, "addresses")?,
            server: list(&fields, "server")?,
            mtu: number("mtu")?,
            routes: networks(&fields, "routes")?,
            dns: list(&fields, "dns")?,
            keepalive: Duration::from_secs(number("keepalive")?.into()),
        };
        let (v4, v6): (Vec<&Subnet>, Vec<&Subnet>) = config
            .addresses
            .iter()
            .partition(|own| own.address.is_ipv4());
        if config.addresses.is_empty() || v4.len() > 1 || v6.len() > 1 {
            return Err(FieldError::Value("addresses"));
        }
        if !config
            .addresses
            .iter()
            .all(|own| own.is_tunnels() && own.is_host())
        {
            return Err(FieldError::Value("addresses"));
        }
        if config.mtu < MIN_MTU {
            return Err(FieldError::Value("mtu"));
        }
        if config.keepalive.is_zero() {
            return Err(FieldError::Value("keepalive"));
        }
        Ok(config)
    }
}

/// The items, separated by a comma and a blank, for people.
pub fn listed(items: &[impl Display]) -> String {
    join(items).replace(',', ", ")
}

fn join(items: &[impl Display]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// Reads addresses or networks, each with its prefix length.
fn networks(fields: &Fields, name: &'static str) -> Result<Vec<Subnet>, FieldError> {
    if fields.list(name).any(|item| !item.contains('/')) {
        return Err(FieldError::Value(name));
    }
    list(fields, name)
}

fn list<T: FromStr>(fields: &Fields, name: &'static str) -> Result<Vec<T>, FieldError> {
    fields.required(name)?;
    let items: Option<Vec<T>> = fields
        .list(name)
        .take(MAX_ITEMS + 1)
        .map(|item| item.parse().ok())
        .collect();
    items
        .filter(|items| items.len() <= MAX_ITEMS)
        .ok_or(FieldError::Value(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let config = NetworkConfig {
            addresses: vec![
                "10.8.0.2/24".parse().unwrap(),
                "fd0f::2/64".parse().unwrap(),
            ],
            server: vec!["10.8.0.1".parse().unwrap()],
            mtu: 1500,
            routes: vec!["0.0.0.0/0".parse().unwrap()],
            dns: vec![],
            keepalive: Duration::from_secs(15),
        };
        assert_eq!(NetworkConfig::decode(&config.encode()), Ok(config.clone()));
        let text = String::from_utf8(config.encode()).unwrap();
        for (from, to, wrong) in [
            ("mtu=1500", "mtu=100", FieldError::Value("mtu")),
            ("mtu=1500", "mtu=99999", FieldError::Value("mtu")),
            ("mtu=1500", "mtu=+1500", FieldError::Value("mtu")),
            (
                "keepalive=15",
                "keepalive=0",
                FieldError::Value("keepalive"),
            ),
            (
                "keepalive=15",
                "keepalive=+15",
                FieldError::Value("keepalive"),
            ),
            (
                "10.8.0.2/24",
                "10.8.0.2/+24",
                FieldError::Value("addresses"),
            ),
            ("0.0.0.0/0", "0.0.0.0/40", FieldError::Value("routes")),
            ("10.8.0.2/24", "10.8.0.2/7", FieldError::Value("addresses")),
            ("fd0f::2/64", "::1/64", FieldError::Value("addresses")),
            ("addresses=", "other=", FieldError::Missing("addresses")),
            ("mtu=1500", "mtu=01500", FieldError::Value("mtu")),
            ("10.8.0.2/24,fd0f::2/64", "", FieldError::Value("addresses")),
            ("10.8.0.2/24", "10.8.0.2", FieldError::Value("addresses")),
            ("10.8.0.2/24", "10.8.0.0/24", FieldError::Value("addresses")),
            (
                "10.8.0.2/24",
                "10.8.0.255/24",
                FieldError::Value("addresses"),
            ),
            ("fd0f::2/64", "fd0f::/64", FieldError::Value("addresses")),
            ("fd0f::2/64", "10.8.0.3/24", FieldError::Value("addresses")),
            (
                "10.8.0.2/24,",
                "10.8.0.2/24, ",
                FieldError::Value("addresses"),
            ),
            ("0.0.0.0/0", "192.168.7.1", FieldError::Value("routes")),
            ("dns=", "dns=10.8.0.1/32", FieldError::Value("dns")),
            ("dns=", "mtu=", FieldError::Twice("mtu".into())),
        ] {
            assert_eq!(
                NetworkConfig::decode(text.replace(from, to).as_bytes()),
                Err(wrong),
                "{to}"
            );
        }
    }
}
