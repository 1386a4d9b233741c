//! What is changed in the network, and how is each change put back?
//!
//! The table is [`Change`]: what sets it and what unsets it stand side by side. Each is one `ip` command, printed
//! when it runs.
//!
//! Most of it would go by itself: the addresses and routes of a device of our own vanish with its descriptor
//! (kill -9 included), those in a private network with the namespace, where nothing is undone at all. On the host
//! they are undone because the device may be one that was there before us and stays (`ip tuntap add ... user`);
//! that something is gone already is no error then.
//!
//! What outlives process and device (rules, firewall, DNS) will be further rows of the table.

use std::io;

use super::namespace::Namespace;
use super::{command, log};
use crate::packet::subnet::Subnet;

/// Where the device is.
#[derive(Debug)]
pub enum Place {
    /// In the network everybody uses.
    Host,
    /// In a network of its own.
    Private(Namespace),
}

impl Place {
    fn run(&self, argv: &[&str]) -> io::Result<()> {
        match self {
            Place::Host => command::run(argv),
            Place::Private(namespace) => namespace.run(argv),
        }
    }
}

/// One change to a device's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The device is up and carries packets of at most so many bytes.
    Up {
        /// At least 1280 for IPv6 to work.
        mtu: u16,
    },
    /// The device has this address.
    Address(Subnet),
    /// Packets to these addresses go into the device.
    Route(Subnet),
}

impl Change {
    /// The command that makes the change.
    fn set(&self, device: &str) -> String {
        match self {
            Change::Up { mtu } => format!("ip link set dev {device} mtu {mtu} up"),
            // nodad: nobody else is on this link, and waiting for a duplicate would hold up the first packets.
            Change::Address(prefix) if prefix.address.is_ipv6() => {
                format!("ip address add {prefix} dev {device} nodad")
            }
            Change::Address(prefix) => format!("ip address add {prefix} dev {device}"),
            // add, not replace: a route that is there already is somebody else's, and could not be put back.
            Change::Route(prefix) => format!("ip route add {prefix} dev {device}"),
        }
    }

    /// The command that takes it back.
    fn unset(&self, device: &str) -> String {
        match self {
            Change::Up { .. } => format!("ip link set dev {device} down"),
            Change::Address(prefix) => format!("ip address del {prefix} dev {device}"),
            Change::Route(prefix) => format!("ip route del {prefix} dev {device}"),
        }
    }
}

/// The changes made for one device. They are undone when it is dropped.
#[derive(Debug)]
pub struct Network {
    place: Place,
    device: String,
    made: Vec<Change>,
}

impl Network {
    /// No change yet. `device` is the name of an open `Tun`, and so a valid one without blanks.
    pub fn new(place: Place, device: &str) -> Network {
        Network { place, device: device.to_owned(), made: Vec::new() }
    }

    /// Where the device is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Makes a change. What fails leaves nothing to undo.
    pub fn make(&mut self, change: Change) -> io::Result<()> {
        self.run(&change.set(&self.device)).map_err(|error| explain(&change, error))?;
        self.made.push(change);
        Ok(())
    }

    /// Takes one change back while the device goes on, as a reload does. No error if it is gone already.
    pub fn take_back(&mut self, change: Change) -> io::Result<()> {
        match self.run(&change.unset(&self.device)) {
            Err(error) if !is_gone(&error) => return Err(error),
            _ => self.made.retain(|made| *made != change),
        }
        Ok(())
    }

    /// Takes everything back, last change first, and goes on after a failure, which is logged. Doing it twice is
    /// fine.
    pub fn undo(&mut self) {
        let made = std::mem::take(&mut self.made);
        if matches!(self.place, Place::Private(_)) {
            return; // it all goes with the namespace
        }
        for change in made.iter().rev() {
            match self.run(&change.unset(&self.device)) {
                Err(error) if !is_gone(&error) => log::warning("os", "not undone", &[("reason", &error)]),
                _ => {}
            }
        }
    }

    /// No name, address or number in our commands has a blank.
    fn run(&self, line: &str) -> io::Result<()> {
        self.place.run(&line.split(' ').collect::<Vec<_>>())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.undo();
    }
}

/// What the kernel says, through `ip`, of a device, route or address that does not exist (any more).
fn is_gone(error: &io::Error) -> bool {
    let text = error.to_string();
    ["Cannot find device", "No such device", "No such process", "Cannot assign requested address"]
        .iter()
        .any(|gone| text.contains(gone))
}

/// Adds what to do, where `ip` gives only a reason, and a puzzling one.
fn explain(change: &Change, error: io::Error) -> io::Error {
    let text = error.to_string();
    let remedy = match change {
        Change::Address(prefix) if prefix.address.is_ipv6() && text.contains("Permission denied") => {
            "IPv6 is switched off on this machine: sysctl net.ipv6.conf.all.disable_ipv6=0, or configure no IPv6 address"
        }
        Change::Route(_) if text.contains("File exists") => {
            "this machine has a route to the same addresses already: configure other ones, or remove it"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{text} ({remedy})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(address: &str, bits: u8) -> Subnet {
        Subnet { address: address.parse().unwrap(), prefix: bits }
    }

    #[test]
    fn each_change_stands_beside_its_undo() {
        let four = prefix("10.8.0.1", 24);
        let six = prefix("fd0f:e12e::1", 64);
        for (change, set, unset) in [
            (Change::Up { mtu: 1500 }, "ip link set dev fern0 mtu 1500 up", "ip link set dev fern0 down"),
            (
                Change::Address(four),
                "ip address add 10.8.0.1/24 dev fern0",
                "ip address del 10.8.0.1/24 dev fern0",
            ),
            (
                Change::Address(six),
                "ip address add fd0f:e12e::1/64 dev fern0 nodad",
                "ip address del fd0f:e12e::1/64 dev fern0",
            ),
            (Change::Route(prefix("::", 0)), "ip route add ::/0 dev fern0", "ip route del ::/0 dev fern0"),
        ] {
            assert_eq!((change.set("fern0"), change.unset("fern0")), (set.to_owned(), unset.to_owned()));
        }
    }

    #[test]
    fn what_is_gone_is_told_from_what_went_wrong() {
        for (text, gone) in [
            ("RTNETLINK answers: No such process", true),
            ("Cannot find device \"fern0\"", true),
            ("RTNETLINK answers: Operation not permitted", false),
        ] {
            assert_eq!(is_gone(&io::Error::other(text)), gone);
        }
    }

    #[test]
    fn puzzling_reasons_get_a_remedy() {
        let address = Change::Address(prefix("fd00::1", 64));
        let denied = explain(&address, io::Error::other("RTNETLINK answers: Permission denied"));
        assert!(denied.to_string().contains("disable_ipv6"));
        let route = Change::Route(prefix("10.0.0.0", 8));
        assert!(
            explain(&route, io::Error::other("RTNETLINK answers: File exists")).to_string().contains("route")
        );
        assert_eq!(explain(&route, io::Error::other("x")).to_string(), "x");
    }
}
