//! What does a client do with the server's packets?

use super::state::{Client, Reply};
use crate::os::{forwarder, network_state, socket};
use crate::packet::offload::Checked;
use crate::packet::{icmp, ip};
use crate::tunnel::device::LocalStack;
use crate::tunnel::observe::counters::count;
use crate::tunnel::session::dispatch::{Batch, Router};
use crate::tunnel::session::receiver::SessionHandler;
use crate::tunnel::session::sender::SessionSender;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a client does with the server's records.
pub(super) struct FromServer<'a> {
    pub(super) client: &'a Client,
    pub(super) sender: &'a Arc<SessionSender>,
    pub(super) own: Vec<IpAddr>,
    pub(super) stack: LocalStack<'a>,
    pub(super) batch: Batch,
}

impl SessionHandler for FromServer<'_> {
    fn on_packet(&mut self, packet: &Checked) {
        if self.client.expects_reply.load(Ordering::Relaxed)
            && let Some(echo) = icmp::echo_reply(packet.packet())
            && echo.identifier == self.client.identifier
        {
            return self.reply(Reply::Echo {
                sequence: echo.sequence,
            });
        }
        let Ok((source, destination)) = ip::addresses(packet.packet()) else {
            return;
        };
        let traffic = &self.sender.traffic;
        // A source address must not be link-local: it could act as a router on this machine's link.
        if !ip::one_host(source) {
            return count(&traffic.dropped_source);
        }
        // A packet must not reach services that listen for multicast, or for this machine alone.
        let may_arrive = if self.stack.has_device() {
            ip::one_host(destination)
        } else {
            self.own.contains(&destination)
        };
        if !may_arrive {
            return count(&traffic.dropped_destination);
        }
        self.stack.deliver(packet, &mut self.batch);
        traffic.packet_in(packet.packet().len());
    }

    fn on_message(&mut self, text: &str) {
        self.reply(Reply::Message(text.to_owned()));
    }

    fn on_batch_end(&mut self) {
        self.client.heartbeat.beat();
        let router: &dyn Router = self.client;
        self.stack.poll_local_replies(&mut self.batch, router);
        self.batch.send_some();
    }

    /// After a machine has moved to another network, its connection leads nowhere. The kernel would
    /// now choose another address for it.
    fn on_tick(&mut self) -> Result<(), String> {
        let (Ok(own), Ok(server)) = (
            self.sender.socket.local_addr(),
            self.sender.socket.peer_addr(),
        ) else {
            return Ok(());
        };
        let mark = self.client.mark;
        match source_towards(server, mark) {
            // If there are several routes, the kernel chooses one for each connection.
            Some(now)
                if now != own.ip()
                    && !(forwarder::is_here(own.ip())
                        && network_state::has_several_ways(server.ip(), mark)) =>
            {
                Err(format!(
                    "this machine's address is now {now}, no longer {}",
                    own.ip()
                ))
            }
            _ => Ok(()),
        }
    }
}

impl FromServer<'_> {
    fn reply(&self, reply: Reply) {
        if let Some(replies) = &*self.client.replies.lock() {
            let _ = replies.try_send(reply);
        }
    }
}

/// The address that the kernel would now use to talk to `server`. Connecting a UDP socket sends
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
