//! How do packets pass between the TUN device and the tunnel?
//!
//! ```text
//!  frame    | room for record and offload header | packet … | room for tag and text |
//!                                                ^ PACKET_AT: the device reads to here, the record is sealed around it
//! ```

use super::batch::{Batch, PACKET_AT};
use super::outbound::{FRAMES, Outbound};
use crate::os::notify::{Pulse, TURN};
use crate::os::tun::{Tun, Woken};
use crate::os::wake::Wake;
use crate::packet::offload::{self, Checked, Offload};
use crate::packet::{icmp, ip, segmentation};
use std::io::{self, ErrorKind, IoSlice};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Longest IP packet, in bytes.
const MAX_PACKET: usize = 65_535;

/// Bytes read at most before one record is sent. More than a record holds, so that what queues up does so where
/// flows take turns, and not in the device.
const AHEAD: usize = 96 * 1024;

/// Reads packets from the device until `wake` rings, and sends each to the peer that `route` names for its
/// destination. Packets that are ready at the same time may share a record; nothing waits for more to come.
///
/// # Errors
/// A sentence: the device is gone or broken, and a tunnel without it would be half alive.
pub fn pump(device: &Tun, wake: &Wake, route: impl Fn(IpAddr) -> Option<Arc<Outbound>>) -> Result<(), String> {
    let failed =
        |error: io::Error| format!("cannot read from the device {}, which may be gone: {error}", device.name());
    let header = if device.offload() { offload::LENGTH } else { 0 };
    let mut frame = FRAMES.take();
    let mut batch = Batch::that_waits();
    let mut ahead = 0;
    let pulse = Pulse::new("device");
    loop {
        pulse.beat();
        let mut idle = false;
        match device.read_now(&mut frame[PACKET_AT - header..PACKET_AT + MAX_PACKET]) {
            Ok(read) => {
                let packet = &frame[PACKET_AT..PACKET_AT + read.saturating_sub(header)];
                let Ok((_, destination)) = ip::addresses(packet) else { continue };
                let Some(peer) = route(destination) else { continue };
                let length = packet.len();
                let asked = match frame[PACKET_AT - header..].first_chunk() {
                    Some(bytes) if header > 0 => Offload::from_device(bytes),
                    _ => Offload::default(),
                };
                batch.push_from(&peer, &mut frame, length, asked);
                ahead += length;
                if ahead <= AHEAD {
                    continue;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => idle = true,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        }
        ahead = 0;
        if batch.send_next() {
            continue;
        }
        match device.wait(wake, batch.full(), Some(if idle { TURN } else { Duration::ZERO })).map_err(failed)? {
            Woken::ByWake => return Ok(()),
            Woken::BySocket => batch.resume(),
            Woken::ByDevice => {}
        }
    }
}

/// Hands a packet to the kernel, whole or as the packets that it stands for. What the kernel does not take is lost,
/// as on any link.
fn deliver(device: &Tun, parcel: &Checked, segments: &mut Vec<u8>) {
    if device.offload() {
        let header = parcel.offload().to_device();
        let _ = device.write(&[IoSlice::new(&header), IoSlice::new(parcel.packet())]);
    } else {
        segmentation::segment(parcel, segments, |packet| {
            let _ = device.write(&[IoSlice::new(packet)]);
        });
    }
}

/// The kernel behind this end of a connection. Without a device, pings are answered in its place.
pub struct Kernel<'a> {
    device: Option<&'a Tun>,
    peer: &'a Arc<Outbound>,
    scratch: Vec<u8>,
}

impl<'a> Kernel<'a> {
    /// The kernel behind `device`, if there is one, and before `peer`.
    pub fn new(device: Option<&'a Tun>, peer: &'a Arc<Outbound>) -> Kernel<'a> {
        Kernel { device, peer, scratch: Vec::new() }
    }

    /// Whether it can be given packets for others than this end itself.
    pub fn has_device(&self) -> bool {
        self.device.is_some()
    }

    /// Takes a packet. What it answers itself goes into `batch`.
    pub fn take(&mut self, parcel: &Checked, batch: &mut Batch) {
        if let Some(device) = self.device {
            return deliver(device, parcel, &mut self.scratch);
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(parcel.packet());
        if icmp::answer_echo(&mut self.scratch)
            && let Ok(reply) = Offload::default().check(&self.scratch)
        {
            batch.push(self.peer, &reply);
        }
    }
}
