//! Which options contradict each other, though each one alone is right?
//!
//! Names, keys, addresses and networks behind clients must be unique in the whole configuration.
//! Addresses must lie in the tunnel's networks, and these must not overlap. Each conflict says
//! where it is, so that the reader of a file can name the line.

use super::settings::{ClientSettings, Device, Nat, Peer, ServerSettings};
use super::state_file::StoredRatchet;
use crate::os::overlaps::{Overlap, overlaps};
use crate::packet::subnet::Subnet;
use crate::protocol::key_schedule::Root;
use std::collections::HashMap;
use std::net::IpAddr;

/// The smallest MTU with IPv6, RFC 8200 section 5.
const MIN_MTU_OF_IPV6: u16 = 1280;

/// The place of a value: the peer (`None` for the server itself), the option, and the number of its
/// item.
pub type Place = (Option<usize>, &'static str, usize);

/// Two options that contradict each other, or one that contradicts a default.
#[derive(Debug)]
pub struct Conflict {
    /// The later one.
    pub at: Place,
    /// The earlier one, if it was given.
    pub first: Option<Place>,
    /// What is wrong, and what would be right.
    pub reason: String,
}

impl ServerSettings {
    /// Checks settings against each other. All settings pass here, whatever their source.
    ///
    /// # Errors
    /// The first conflict.
    pub fn consistent(&self) -> Result<(), String> {
        match conflicts(self).into_iter().next() {
            None => Ok(()),
            Some(conflict) => Err(conflict.reason),
        }
    }
}

impl ServerSettings {
    /// Finds the tunnel's networks that another link of this machine has as well.
    pub fn overlaps(&self) -> Vec<Overlap> {
        match &self.device {
            Device::Tun(device) => overlaps(&self.addresses, device),
            Device::None | Device::Private { .. } => Vec::new(),
        }
    }
}

impl ClientSettings {
    /// The same for networks and routes of a server's Config. A route for most of the world
    /// overlaps everything on purpose.
    pub fn overlaps(&self, networks: &[Subnet], told: &[Subnet]) -> Vec<Overlap> {
        let Device::Tun(device) = &self.device else {
            return Vec::new();
        };
        let routes = self.routes.as_deref().unwrap_or(told).iter();
        let routes =
            routes.filter(|route| route.prefix >= if route.address.is_ipv4() { 8 } else { 16 });
        let is_own = |route: &Subnet| networks.iter().any(|own| own.contains(route.address));
        let routes: Vec<Subnet> = routes.filter(|route| !is_own(route)).copied().collect();
        let mut found = overlaps(&routes, device);
        found.iter_mut().for_each(|overlap| overlap.is_route = true);
        found.splice(0..0, overlaps(networks, device));
        found
    }
}

/// All conflicts of a server's settings.
pub fn conflicts(settings: &ServerSettings) -> Vec<Conflict> {
    let mut found = Found {
        settings,
        conflicts: Vec::new(),
        seen: HashMap::new(),
    };
    for (item, address) in settings.listen.iter().enumerate() {
        found.once((None, "listen", item), address.to_string(), |_| {
            format!("listen: {address} stands twice")
        });
    }
    for (item, own) in settings.addresses.iter().enumerate() {
        found.address_of_server(item, own);
    }
    if settings.mtu < MIN_MTU_OF_IPV6 && settings.addresses.iter().any(|own| own.address.is_ipv6())
    {
        let reason = "IPv6 needs an mtu of at least 1280; with a smaller one, give IPv4 addresses \
                      only (address = ...)";
        found.wrong((None, "mtu", 0), reason.into());
    }
    if let (Nat::By(uplink), Device::Tun(device)) = (&settings.nat, &settings.device)
        && uplink == device
    {
        let reason = format!(
            "{device} is the tunnel itself; nat takes the device that leads out of this machine"
        );
        found.wrong((None, "nat", 0), reason);
    }
    for (number, peer) in settings.peers.iter().enumerate() {
        let at = |option, item| (Some(number), option, item);
        if !peer.name.is_empty() {
            found.once(at("name", 0), peer.name.clone(), |_| {
                format!("two peers are called {}", peer.name)
            });
        }
        let file = peer.ratchet.as_ref();
        let kept = file.and_then(|file| StoredRatchet::read(file).ok());
        let kept = kept.map(|kept| kept.key);
        for (item, key) in peer.keys.iter().cloned().chain(kept).enumerate() {
            let id = Root::new(key)
                .id()
                .map(|byte| format!("{byte:02x}"))
                .concat();
            found.once(at("key", item), id, |other| {
                format!("{other} has the same key; each client needs its own")
            });
        }
        for (item, address) in peer.addresses.iter().enumerate() {
            found.address_of_peer(at("address", item), *address);
        }
        for (item, route) in peer.routes.iter().enumerate() {
            let inside = |own: &&Subnet| own.contains(route.address) && own.prefix <= route.prefix;
            if let Some(own) = settings.addresses.iter().find(inside) {
                let reason = format!(
                    "{route} lies in {own}, the tunnel's own network; routes takes networks \
                     behind the client"
                );
                found.wrong(at("routes", item), reason);
            }
            found.once(at("routes", item), route.to_string(), |other| {
                format!("{route} is behind {other} already")
            });
        }
    }
    found.conflicts
}

struct Found<'a> {
    settings: &'a ServerSettings,
    conflicts: Vec<Conflict>,
    seen: HashMap<(&'static str, String), Place>,
}

impl Found<'_> {
    fn wrong(&mut self, at: Place, reason: String) {
        self.conflicts.push(Conflict {
            at,
            first: None,
            reason,
        });
    }

    /// Finds values that must be unique. `reason` gets the earlier owner.
    fn once(&mut self, at: Place, thing: String, reason: impl FnOnce(&str) -> String) {
        let first = *self.seen.entry((at.1, thing)).or_insert(at);
        if first != at {
            let owner = match first.0.map(|peer| self.settings.peers[peer].name.as_str()) {
                None => "the server",
                Some("") => "another peer",
                Some(name) => name,
            };
            self.conflicts.push(Conflict {
                at,
                first: Some(first),
                reason: reason(owner),
            });
        }
    }

    fn address_of_server(&mut self, item: usize, own: &Subnet) {
        let at = (None, "address", item);
        let overlaps = |other: &Subnet| other.contains(own.address) || own.contains(other.address);
        let earlier = self.settings.addresses[..item].iter().position(overlaps);
        if let Some(reason) = no_address_of_a_server(own) {
            self.wrong(at, reason);
        } else if let Some(first) = earlier {
            self.conflicts.push(Conflict {
                at,
                first: Some((None, "address", first)),
                reason: format!("address {own} lies in the same network as another one"),
            });
        }
        // Each client has an address in each network, and so has the server.
        let of = |peer: &Peer| {
            let fixed = peer.addresses.iter().filter(|fixed| own.contains(**fixed));
            fixed.count().max(1)
        };
        let clients: usize = self.settings.peers.iter().map(of).sum();
        if own.is_tunnels() && own.hosts() > 0 && clients as u64 >= own.hosts() {
            let room = own.hosts() - 1;
            let reason = format!(
                "address {own} leaves room for {room} clients, and there are {clients}; take a \
                 larger network"
            );
            self.wrong(at, reason);
        }
        self.seen
            .entry(("address", own.address.to_string()))
            .or_insert(at);
    }

    fn address_of_peer(&mut self, at: Place, address: IpAddr) {
        let networks = &self.settings.addresses;
        match networks.iter().find(|own| own.contains(address)) {
            None if networks.is_empty() => {} // these have a mistake of their own
            None => {
                let networks: Vec<String> = networks.iter().map(Subnet::to_string).collect();
                let networks = networks.join(", ");
                let reason =
                    format!("address {address} is not in the tunnel's networks ({networks})");
                self.wrong(at, reason);
            }
            Some(own) if is_networks(own, address) => {
                let reason = format!(
                    "address {address} belongs to the network {own} as a whole, and to no client"
                );
                self.wrong(at, reason);
            }
            Some(_) => {}
        }
        self.once(at, address.to_string(), |other| {
            format!("address {address} is taken already, by {other}")
        });
    }
}

/// Why this cannot be a server's address with its network.
fn no_address_of_a_server(own: &Subnet) -> Option<String> {
    let Subnet { address, prefix } = own;
    if own.hosts() == 0 {
        let right = if address.is_ipv4() { 24 } else { 64 };
        return Some(format!(
            "address {own} leaves no room for clients; give the network's prefix, such as \
             {address}/{right}"
        ));
    }
    if is_networks(own, *address) {
        let right = own.host(1);
        return Some(format!(
            "address {own} belongs to the network as a whole; give the server's own address in \
             it, such as {right}/{prefix}"
        ));
    }
    if !own.is_tunnels() {
        return Some(format!(
            "address {own}: a tunnel's network has a prefix of at least 8 bits (IPv4) or 32 \
             (IPv6), and ordinary addresses; use push-routes for what else clients send here"
        ));
    }
    None
}

/// Whether an address stands for all of its network: the first, and in IPv4 the last.
fn is_networks(network: &Subnet, address: IpAddr) -> bool {
    address == network.network() || address.is_ipv4() && address == network.host(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_need_room_and_networks_of_their_own() {
        let count = |text: &str| {
            let addresses = text.split(',').map(|own| own.parse().unwrap()).collect();
            conflicts(&ServerSettings {
                addresses,
                ..ServerSettings::default()
            })
            .len()
        };
        assert_eq!(count("10.8.0.1/24,10.9.0.1/24,fd0f::1/64"), 0);
        for bad in [
            "10.8.0.1/32",
            "10.8.0.0/24",
            "10.8.0.255/24",
            "10.8.0.1/24,10.8.0.2/16",
            "fd0f::/64",
            "10.8.0.1/7",
            "fd0f::1/31",
            "127.0.0.1/8",
        ] {
            assert_eq!(count(bad), 1, "{bad}");
        }
    }
}
