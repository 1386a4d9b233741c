//! What Linux has of a network, asked by netlink.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;
use std::{fs, io};

use super::netlink::{Netlink, Watch};
use crate::os::log;
use crate::os::network_state::NetworkState;
use crate::os::notify::Heartbeat;

/// How often it is looked at, if the kernel tells of no change.
const INTERVAL: Duration = Duration::from_secs(2);
/// Between two looks: changes come in groups, and not each is worth a look of its own.
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

/// Has `check` called again and again, from a thread of its own, until it says that it was the last
/// time.
///
/// # Errors
/// The kernel does not tell of changes, or there is no thread.
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
