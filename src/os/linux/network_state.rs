//! What does Linux know of a network? This asks by netlink.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;
use std::{fs, io};

use super::netlink::{Netlink, Watch};
use crate::os::log;
use crate::os::network_state::NetworkState;
use crate::os::notify::Heartbeat;

/// How often the program checks, if the kernel reports no change.
const INTERVAL: Duration = Duration::from_secs(2);
/// The pause between two checks. Changes come in groups, and one check for a group is enough.
const PAUSE: Duration = Duration::from_millis(20);
/// See [`NetworkState::look`].
pub(in crate::os) fn look(tables: &[u32]) -> io::Result<NetworkState> {
    let mut netlink = Netlink::open()?;
    let nft = netlink.nft_generation().ok();
    let mut links = netlink.links()?;
    for link in links
        .iter_mut()
        .filter(|it| it.kind == "veth" && it.master.is_none())
    {
        let setting = format!("/proc/sys/net/ipv4/conf/{}/forwarding", link.name);
        link.forwards = fs::read_to_string(setting).is_ok_and(|value| value.trim() == "1");
    }
    let mut routes = Vec::new();
    if links
        .iter()
        .any(|link| link.kind == "bridge" || link.forwards)
    {
        routes = netlink.routes(None)?;
    } else {
        for table in tables {
            routes.extend(netlink.routes(Some(*table))?);
        }
    }
    Ok(NetworkState {
        addresses: netlink.addresses()?,
        rules: netlink.rules()?,
        links,
        routes,
        nft,
    })
}

/// Whether the kernel spreads connections with this mark to this address over several routers.
pub fn has_several_ways(to: IpAddr, mark: Option<u32>) -> bool {
    Netlink::open().is_ok_and(|mut it| it.has_several_ways(to, mark).unwrap_or(false))
}

/// Calls `check` again and again from a thread of its own, until it returns that it is done.
///
/// # Errors
/// The kernel does not report changes, or no thread is left.
pub fn keep(mut check: impl FnMut() -> bool + Send + 'static) -> io::Result<()> {
    let watch = Watch::open()?;
    let keeping = move || {
        let heartbeat = Heartbeat::new("network");
        while check() {
            heartbeat.beat();
            thread::sleep(PAUSE);
            if let Err(error) = watch.wait(INTERVAL) {
                log::warning("os", "cannot wait for changes", &[("reason", &error)]);
                thread::sleep(INTERVAL);
            }
        }
    };
    thread::Builder::new()
        .name("network".into())
        .spawn(keeping)
        .map(drop)
}
