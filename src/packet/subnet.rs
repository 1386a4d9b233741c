//! What is the network of an address? An address and the length of its network's prefix:
//! `10.8.0.1/24`, `fd0f:e12e::1/64`.

use super::ip;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An IP address together with the size of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subnet {
    /// The address. In a route it is the first of the network.
    pub address: IpAddr,
    /// Leading bits that all addresses of the network share: 0 to 32, or to 128.
    pub prefix: u8,
}

impl Subnet {
    /// A network of one address.
    pub fn alone(address: IpAddr) -> Subnet {
        Subnet {
            address,
            prefix: if address.is_ipv4() { 32 } else { 128 },
        }
    }

    /// Whether `address` is in this network. An address of the other family never is.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => {
                self.network()
                    == Subnet {
                        address,
                        prefix: self.prefix,
                    }
                    .network()
            }
            _ => false,
        }
    }

    /// The network's own address, in which every bit after the prefix is zero.
    pub fn network(&self) -> IpAddr {
        self.host(0)
    }

    /// The address with this number in the network. Bits of `number` that do not fit are lost.
    pub fn host(&self, number: u64) -> IpAddr {
        match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(self.prefix))
                    .unwrap_or(0);
                let [.., a, b, c, d] = number.to_be_bytes();
                let number = u32::from_be_bytes([a, b, c, d]);
                IpAddr::V4(Ipv4Addr::from_bits(
                    address.to_bits() & mask | number & !mask,
                ))
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.prefix))
                    .unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(
                    address.to_bits() & mask | u128::from(number) & !mask,
                ))
            }
        }
    }

    /// Whether this can be an address in a tunnel: one host's, in a network of at most 2^24 (IPv4)
    /// or 2^96 addresses. The address brings its whole network into the tunnel. A larger network
    /// must be a route, which a client can decline.
    pub fn is_tunnels(&self) -> bool {
        ip::one_host(self.address) && self.prefix >= if self.address.is_ipv4() { 8 } else { 32 }
    }

    /// Whether a host can have this address: it is neither the network's own nor, in IPv4, its
    /// broadcast address. In a network of one or two addresses, all belong to hosts.
    pub fn is_host(&self) -> bool {
        match self.address {
            IpAddr::V4(_) if self.prefix >= 31 => true,
            IpAddr::V4(_) => self.address != self.network() && self.address != self.host(u64::MAX),
            IpAddr::V6(_) => self.prefix >= 127 || self.address != self.network(),
        }
    }

    /// The number of addresses that hosts can have here, at most 2^32. The network's own address
    /// and IPv4's broadcast address do not count.
    pub fn hosts(&self) -> u64 {
        let (bits, last) = match self.address {
            IpAddr::V4(_) => (32 - self.prefix, 1),
            IpAddr::V6(_) => (128 - self.prefix, 0),
        };
        (1u64 << u32::from(bits).min(32)).saturating_sub(1 + last)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = String;

    /// Reads `ADDRESS/PREFIX`. An address alone is a network of one.
    fn from_str(text: &str) -> Result<Subnet, String> {
        let (address, prefix) = text
            .split_once('/')
            .map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| {
            format!("{text:?} is not an address such as 10.8.0.1/24 or fd0f:e12e::1/64")
        })?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => longest,
            Some(prefix) => prefix
                .parse()
                .ok()
                .filter(|bits| *bits <= longest && prefix.bytes().all(|c| c.is_ascii_digit()))
                .ok_or_else(|| format!("{text:?}: the prefix length must be 0 to {longest}"))?,
        };
        Ok(Subnet { address, prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn networks_and_broadcast_addresses_are_no_hosts() {
        for host in [
            "10.8.0.1/24",
            "10.8.0.0/31",
            "10.8.0.1/31",
            "10.8.0.0/32",
            "fd0f::1/64",
            "fd0f::/127",
        ] {
            assert!(subnet(host).is_host(), "{host}");
        }
        for none in [
            "10.8.0.0/24",
            "10.8.0.255/24",
            "10.8.0.3/30",
            "fd0f::/64",
            "fd0f::/126",
        ] {
            assert!(!subnet(none).is_host(), "{none}");
        }
    }

    #[test]
    fn written_as_read() {
        for text in [
            "10.8.0.1/24",
            "0.0.0.0/0",
            "fd0f:e12e::1/64",
            "::/0",
            "1.2.3.4/32",
        ] {
            assert_eq!(subnet(text).to_string(), text);
        }
        assert_eq!(subnet("1.2.3.4").prefix, 32);
        for bad in [
            "",
            "10.8.0.1/33",
            "10.8.0/24",
            "::1/129",
            "10.8.0.1/",
            "10.8.0.1/-1",
            "10.8.0.1/+24",
            "x/24",
            "10.8.0.1/24/1",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn contains_and_hosts() {
        let net = subnet("10.8.0.1/24");
        assert!(
            net.contains("10.8.0.255".parse().unwrap())
                && !net.contains("10.8.1.0".parse().unwrap())
        );
        assert!(!net.contains("::1".parse().unwrap()));
        assert_eq!(
            (
                net.network().to_string().as_str(),
                net.host(300).to_string().as_str()
            ),
            ("10.8.0.0", "10.8.0.44")
        );
        assert!(subnet("0.0.0.0/0").contains("9.9.9.9".parse().unwrap()));
        assert!(subnet("::/0").contains("2001:db8::1".parse().unwrap()));
        assert_eq!(
            subnet("fd0f:e12e::1/64").host(2).to_string(),
            "fd0f:e12e::2"
        );
        assert_eq!(
            [
                "10.8.0.1/24",
                "10.0.0.0/30",
                "10.0.0.0/31",
                "10.0.0.0/32",
                "::1/128"
            ]
            .map(|t| subnet(t).hosts()),
            [254, 2, 0, 0, 0]
        );
        assert_eq!(subnet("::/0").hosts(), (1 << 32) - 1);
    }
}
