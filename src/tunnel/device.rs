//! How do packets pass between the TUN device and the tunnel?
//!
//! ```text
//!  frame    | room for record and offload header | packet … | room for tag and text |
//!                                                ^ PACKET_AT: the device reads to here, the record is sealed around it
//! ```

use crate::os::notify::{Heartbeat, MAX_IDLE_WAIT};
use crate::os::tun::{Tun, Woken};
use crate::os::wake::Wake;
use crate::packet::offload::{self, Checked, Offload};
use crate::packet::{icmp, ip, segmentation};
use crate::tunnel::locked;
use crate::tunnel::session::dispatch::{Batch, PACKET_AT};
use crate::tunnel::session::sender::{FRAMES, SessionSender};
use std::io::{self, ErrorKind, IoSlice};
use std::net::IpAddr;
use std::sync::{Arc, MutexGuard};
use std::thread;
use std::time::Duration;

/// Longest IP packet, in bytes.
const MAX_PACKET: usize = 65_535;

/// Bytes read at most before one record is sent. More than a record holds, so that what queues up
/// does so where flows take turns, and not in the device.
const AHEAD: usize = 96 * 1024;

/// Each packet wakes the thread that waits for packets. If others have read it by then, the next is
/// likely theirs too: for so long it is not woken at all.
const NAP: Duration = Duration::from_micros(100);

/// Reads packets from the device until `wake` rings, and sends each to the peer that `route` names
/// for its destination. Packets that are ready at the same time may share a record; nothing waits
/// for more to come.
///
/// # Errors
/// A sentence: the device is gone or broken, and a tunnel without it would be half alive.
pub fn pump(
    device: &Tun,
    wake: &Wake,
    route: impl Fn(IpAddr) -> Option<Arc<SessionSender>>,
) -> Result<(), String> {
    let failed = |error: io::Error| {
        format!(
            "cannot read from the device {}, which may be gone: {error}",
            device.name()
        )
    };
    let mut batch = Batch::that_waits();
    let mut found = true;
    let heartbeat = Heartbeat::new("device");
    loop {
        heartbeat.beat();
        let (bytes, more) =
            read(device, &mut batch, &route, locked(device.read_lock())).map_err(failed)?;
        found |= bytes > 0;
        if batch.send_next() {
            continue;
        }
        if !found {
            thread::sleep(NAP);
        }
        let woken = device
            .wait(
                wake,
                batch.full(),
                Some(if more { Duration::ZERO } else { MAX_IDLE_WAIT }),
            )
            .map_err(failed)?;
        found = woken != Woken::ByDevice;
        match woken {
            Woken::ByWake => return Ok(()),
            Woken::BySocket => batch.resume(),
            Woken::ByDevice => {}
        }
    }
}

/// Reads packets that are ready, [`AHEAD`] bytes or a little more. Returns how many bytes, and
/// whether there may be more.
fn read(
    device: &Tun,
    batch: &mut Batch,
    route: &dyn Fn(IpAddr) -> Option<Arc<SessionSender>>,
    _turn: MutexGuard<()>,
) -> io::Result<(usize, bool)> {
    let header = if device.offload() { offload::LENGTH } else { 0 };
    let mut frame = FRAMES.take();
    let mut bytes = 0;
    let mut result = Ok(());
    while bytes <= AHEAD && result.is_ok() {
        result = device
            .read_now(&mut frame[PACKET_AT - header..PACKET_AT + MAX_PACKET])
            .map(|length| {
                bytes += length;
                let packet = PACKET_AT..PACKET_AT + length.saturating_sub(header);
                let to = ip::addresses(&frame[packet.clone()])
                    .ok()
                    .and_then(|(_, destination)| route(destination));
                let asked = match frame[PACKET_AT - header..].first_chunk() {
                    Some(before) if header > 0 => Offload::from_device(before),
                    _ => Offload::default(),
                };
                to.iter()
                    .for_each(|peer| batch.push_from(peer, &mut frame, packet.len(), asked));
            });
    }
    FRAMES.give(frame);
    match result {
        Ok(()) => Ok((bytes, true)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok((bytes, false)),
        Err(error) => Err(error),
    }
}

/// Hands a packet to the kernel, whole or as the packets that it stands for. What the kernel does
/// not take is lost, as on any link.
fn write(device: &Tun, parcel: &Checked, segments: &mut Vec<u8>) {
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
pub struct LocalStack<'a> {
    device: Option<&'a Tun>,
    peer: &'a Arc<SessionSender>,
    scratch: Vec<u8>,
}

impl<'a> LocalStack<'a> {
    /// The kernel behind `device`, if there is one, and before `peer`.
    pub fn new(device: Option<&'a Tun>, peer: &'a Arc<SessionSender>) -> LocalStack<'a> {
        LocalStack {
            device,
            peer,
            scratch: Vec::new(),
        }
    }

    /// Reads what the kernel has to send, if nobody else does just now. What it answers to packets
    /// that it was just given (acknowledgements, echo replies) is there already, so that no other
    /// thread need wake up for it.
    pub fn poll_local_replies(
        &self,
        batch: &mut Batch,
        route: &dyn Fn(IpAddr) -> Option<Arc<SessionSender>>,
    ) {
        if let Some(device) = self.device
            && let Ok(turn) = device.read_lock().try_lock()
        {
            let _ = read(device, batch, route, turn); // the device's own thread meets the same error
        }
    }

    /// Whether it can be given packets for others than this end itself.
    pub fn has_device(&self) -> bool {
        self.device.is_some()
    }

    /// Takes a packet. What it answers itself goes into `batch`.
    pub fn deliver(&mut self, parcel: &Checked, batch: &mut Batch) {
        if let Some(device) = self.device {
            return write(device, parcel, &mut self.scratch);
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
