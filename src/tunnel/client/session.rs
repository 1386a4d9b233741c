//! What becomes of the server's packets?

use super::Client;
use super::tasks::Reply;
use crate::os::socket;
use crate::packet::offload::Checked;
use crate::packet::{icmp, ip};
use crate::tunnel::device::Kernel;
use crate::tunnel::locked;
use crate::tunnel::session::dispatch::Batch;
use crate::tunnel::session::receiver::Inside;
use crate::tunnel::session::sender::{Outbound, count};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What the server's records lead to.
pub(super) struct FromServer<'a> {
    pub(super) client: &'a Client,
    pub(super) outbound: &'a Arc<Outbound>,
    pub(super) own: Vec<IpAddr>,
    pub(super) kernel: Kernel<'a>,
    pub(super) batch: Batch,
}

impl Inside for FromServer<'_> {
    fn parcel(&mut self, parcel: &Checked) {
        if self.client.expects_reply.load(Ordering::Relaxed)
            && let Some(echo) = icmp::echo_reply(parcel.packet())
            && echo.identifier == self.client.identifier
        {
            return self.reply(Reply::Echo {
                sequence: echo.sequence,
            });
        }
        let Ok((source, destination)) = ip::addresses(parcel.packet()) else {
            return;
        };
        let traffic = &self.outbound.traffic;
        // Not from what would be a router on this machine's link.
        if !ip::one_host(source) {
            return count(&traffic.dropped_source);
        }
        // Never to what listens for many, or for this machine alone.
        if !if self.kernel.has_device() {
            ip::one_host(destination)
        } else {
            self.own.contains(&destination)
        } {
            return count(&traffic.dropped_destination);
        }
        self.kernel.take(parcel, &mut self.batch);
        count(&traffic.packets_in);
        traffic
            .bytes_in
            .fetch_add(parcel.packet().len() as u64, Ordering::Relaxed);
    }

    fn message(&mut self, text: &str) {
        self.reply(Reply::Message(text.to_owned()));
    }

    fn pause(&mut self) {
        self.client.pulse.beat();
        self.kernel.answers(&mut self.batch, &|_| self.client.way());
        self.batch.send_some();
    }

    /// A machine that has moved to another network keeps a connection that goes nowhere: the kernel
    /// would now choose another address for it.
    fn tick(&mut self) -> Result<(), String> {
        let (Ok(own), Ok(server)) = (
            self.outbound.socket.local_addr(),
            self.outbound.socket.peer_addr(),
        ) else {
            return Ok(());
        };
        match source_towards(server, self.client.mark) {
            Some(now) if now != own.ip() => Err(format!(
                "this machine's address is now {now}, no longer {}",
                own.ip()
            )),
            _ => Ok(()),
        }
    }
}

impl FromServer<'_> {
    fn reply(&self, reply: Reply) {
        if let Some(sender) = &*locked(&self.client.replies) {
            let _ = sender.try_send(reply);
        }
    }
}

/// The address from which the kernel would now talk to `server`. Connecting a UDP socket sends
/// nothing.
fn source_towards(server: SocketAddr, mark: Option<u32>) -> Option<IpAddr> {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    mark.map_or(Ok(()), |mark| socket::mark(&socket, mark))
        .ok()?;
    socket.connect(server).ok()?;
    socket.local_addr().ok().map(|own| own.ip())
}
