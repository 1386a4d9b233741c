//! Which client has which address?
//!
//! Every configured client has its addresses from the start, connected or not. The configuration
//! alone determines them. Nothing is stored, and a client has the same address after a restart of
//! either side. A client without a fixed address gets the free one at `SHA-256(name)`, or the next
//! free one. So a client that is added or removed moves another one only if they collide.

use crate::packet::subnet::Subnet;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::net::IpAddr;

/// The tunnel's networks, and the addresses that are taken in them.
pub struct AddressPool {
    networks: Vec<Subnet>,
    taken: HashSet<IpAddr>,
}

impl AddressPool {
    /// A pool of `networks`. The address that each has is the server's.
    pub fn new(networks: &[Subnet]) -> AddressPool {
        let taken = networks.iter().map(|network| network.address).collect();
        AddressPool {
            networks: networks.to_vec(),
            taken,
        }
    }

    /// Takes a fixed address. Returns `None` if it is taken already, or lies in no network.
    pub fn take(&mut self, address: IpAddr) -> Option<Subnet> {
        let network = self
            .networks
            .iter()
            .find(|network| network.contains(address))?;
        self.taken.insert(address).then_some(Subnet {
            address,
            prefix: network.prefix,
        })
    }

    /// Leases an address in every network in which `fixed` has none. A name gets the same number in
    /// all networks, as far as it is free there.
    ///
    /// # Errors
    /// Fails if a network is full.
    pub fn lease(&mut self, name: &str, fixed: &[Subnet]) -> Result<Vec<Subnet>, String> {
        let digest = Sha256::digest(name.as_bytes());
        let start = digest
            .iter()
            .take(4)
            .fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        let smallest = self.networks.iter().map(Subnet::hosts).min().unwrap_or(0);
        let mut leased = Vec::new();
        for network in &self.networks {
            if fixed.iter().any(|subnet| network.contains(subnet.address)) {
                continue;
            }
            let free = (0..smallest)
                .map(|step| network.host(1 + (start % smallest + step) % smallest))
                .find(|address| !self.taken.contains(address));
            let address = free.ok_or_else(|| {
                format!(
                    "no address is left in {network} for {name}. \
                     Try: a larger network, or fewer clients"
                )
            })?;
            self.taken.insert(address);
            leased.push(Subnet {
                address,
                prefix: network.prefix,
            });
        }
        Ok(leased)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(networks: &[&str]) -> AddressPool {
        AddressPool::new(
            &networks
                .iter()
                .map(|text| text.parse().unwrap())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn a_name_has_the_same_address_whoever_else_is_there() {
        let alone = pool(&["10.8.0.1/16", "fd0f::1/64"])
            .lease("alice", &[])
            .unwrap();
        let mut shared = pool(&["10.8.0.1/16", "fd0f::1/64"]);
        shared.lease("bob", &[]).unwrap();
        assert_eq!(shared.lease("alice", &[]).unwrap(), alone);
        let (IpAddr::V4(v4), IpAddr::V6(v6)) = (alone[0].address, alone[1].address) else {
            panic!("{alone:?}")
        };
        assert_eq!(
            u64::from(v4.to_bits() & 0xffff),
            v6.to_bits() as u64 & 0xffff,
            "the same number in both"
        );
        assert_eq!((alone[0].prefix, alone[1].prefix), (16, 64));
    }

    #[test]
    fn a_small_network_fills_up_to_the_last_address() {
        let mut pool = pool(&["10.0.0.1/29"]);
        let mut addresses: Vec<_> = (0..5)
            .map(|i| {
                pool.lease(&format!("client{i}"), &[]).unwrap()[0]
                    .address
                    .to_string()
            })
            .collect();
        addresses.sort();
        assert_eq!(
            addresses,
            ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
        );
        assert!(
            pool.lease("one more", &[])
                .unwrap_err()
                .contains("10.0.0.1/29")
        );
    }

    #[test]
    fn fixed_addresses() {
        let mut pool = pool(&["10.8.0.1/24", "fd0f::1/64"]);
        let fixed = pool.take("10.8.0.2".parse().unwrap()).unwrap();
        assert_eq!(fixed.to_string(), "10.8.0.2/24");
        assert_eq!(pool.take("10.8.0.2".parse().unwrap()), None, "taken");
        assert_eq!(
            pool.take("10.8.0.1".parse().unwrap()),
            None,
            "the server's own"
        );
        assert_eq!(pool.take("10.9.0.2".parse().unwrap()), None, "outside");
        let leased = pool.lease("alice", &[fixed]).unwrap();
        assert_eq!(leased.len(), 1);
        assert!(leased[0].address.is_ipv6());
    }
}
