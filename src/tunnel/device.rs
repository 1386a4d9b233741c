//! How do packets pass between the TUN device and the tunnel?
//!
//! ```text
//!  frame    | room for record and offload header | packet … | room for tag and text |
//!                                                ^ PACKET_AT: the device reads to here,
//!                                                  the record is sealed around it
//! ```

use crate::os::lock::Locked;
use crate::os::log;
use crate::os::notify::{Heartbeat, MAX_IDLE_WAIT};
use crate::os::tun::{Tun, Woken};
use crate::os::wake::Wake;
use crate::packet::offload::{self, Checked, Offload};
use crate::packet::{icmp, ip, segmentation};
use crate::tunnel::session::buffers::FRAMES;
use crate::tunnel::session::dispatch::{Batch, PACKET_AT, Router};
use crate::tunnel::session::sender::SessionSender;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// The longest IP packet in bytes.
const MAX_PACKET: usize = 65_535;
/// The most bytes that are read before one record is sent. It is more than a record holds, so that
/// packets queue up where flows take turns, and not in the device.
const READ_AHEAD: usize = 96 * 1024;
/// Each packet wakes the thread that waits for packets. If another thread has read the packet by
/// then, it likely reads the next as well. The device's thread then does not wait for this long.
const NAP: Duration = Duration::from_micros(100);

/// Reads packets from the device until `wake` rings. Sends each to the peer that `router` names for
/// its destination. Packets that are ready at the same time may share a record. No packet waits for
/// others.
///
/// # Errors
/// Fails if the device is gone or broken, and a tunnel without it is of no use.
pub fn run_device_reader(device: &Tun, wake: &Wake, router: &dyn Router) -> Result<(), String> {
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
        let turn = device.read_lock().lock();
        let (bytes, more) = match read_packets(device, &mut batch, router, turn) {
            Ok(read) => read,
            Err(error) => {
                // Somebody has removed the device. Its network is set up again as soon as it is
                // there.
                device.create_again().map_err(|_| failed(error))?;
                let name = device.name();
                log::warning(
                    "os",
                    "the device was removed; creating it again",
                    &[("name", &name)],
                );
                continue;
            }
        };
        found |= bytes > 0;
        if batch.send_next() {
            continue;
        }
        if !found {
            thread::sleep(NAP);
        }
        let timeout = if more { Duration::ZERO } else { MAX_IDLE_WAIT };
        let woken = device
            .wait(wake, batch.full(), Some(timeout))
            .map_err(failed)?;
        found = woken != Woken::ByDevice;
        match woken {
            Woken::ByWake => return Ok(()),
            Woken::BySocket => batch.resume(),
            Woken::ByDevice => {}
        }
    }
}

/// Reads packets that are ready, [`READ_AHEAD`] bytes or a little more. Returns the number of
/// bytes, and whether there may be more. The caller holds the device's read lock, because two
/// threads that read at once could change the order of packets.
fn read_packets(
    device: &Tun,
    batch: &mut Batch,
    router: &dyn Router,
    _turn: Locked<()>,
) -> io::Result<(usize, bool)> {
    let header = if device.offload() { offload::LENGTH } else { 0 };
    let mut frame = FRAMES.take();
    let mut bytes = 0;
    let mut result = Ok(());
    while bytes <= READ_AHEAD && result.is_ok() {
        match device.read_now(&mut frame[PACKET_AT - header..PACKET_AT + MAX_PACKET]) {
            Ok(length) => {
                bytes += length;
                route_packet(
                    &mut frame,
                    length.saturating_sub(header),
                    header,
                    batch,
                    router,
                );
            }
            Err(error) => result = Err(error),
        }
    }
    FRAMES.give(frame);
    match result {
        Ok(()) => Ok((bytes, true)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok((bytes, false)),
        Err(error) => Err(error),
    }
}

/// Queues the packet of `length` bytes that was read into `frame` for its peer. An offload header
/// of `header` bytes stands before it.
fn route_packet(
    frame: &mut Vec<u8>,
    length: usize,
    header: usize,
    batch: &mut Batch,
    router: &dyn Router,
) {
    let Ok((_, destination)) = ip::addresses(&frame[PACKET_AT..PACKET_AT + length]) else {
        return;
    };
    let Some(peer) = router.sender_for(destination) else {
        return;
    };
    let offload = match frame[PACKET_AT - header..].first_chunk() {
        Some(before) if header > 0 => Offload::from_device(before),
        _ => Offload::default(),
    };
    batch.push_from_device(&peer, frame, length, offload);
}

/// The kernel behind this end of a connection. Without a device, this type answers pings itself.
pub struct LocalStack<'a> {
    device: Option<&'a Tun>,
    peer: &'a Arc<SessionSender>,
    scratch: Vec<u8>,
}

impl<'a> LocalStack<'a> {
    /// The kernel behind `device`, if there is one, which talks to `peer`.
    pub fn new(device: Option<&'a Tun>, peer: &'a Arc<SessionSender>) -> LocalStack<'a> {
        LocalStack {
            device,
            peer,
            scratch: Vec::new(),
        }
    }

    /// Whether it accepts packets for destinations other than this end itself.
    pub fn has_device(&self) -> bool {
        self.device.is_some()
    }

    /// Delivers a packet. An answer of this end itself goes into `batch`.
    pub fn deliver(&mut self, packet: &Checked, batch: &mut Batch) {
        match self.device {
            Some(device) => write_packet(device, packet, &mut self.scratch),
            None => self.answer_echo(packet, batch),
        }
    }

    fn answer_echo(&mut self, packet: &Checked, batch: &mut Batch) {
        self.scratch.clear();
        self.scratch.extend_from_slice(packet.packet());
        if icmp::answer_echo(&mut self.scratch)
            && let Ok(reply) = Offload::default().check(&self.scratch)
        {
            batch.push(self.peer, &reply);
        }
    }

    /// Reads the packets that the kernel has to send, unless another thread does so now. The
    /// kernel's answers to the packets just delivered (acknowledgements, echo replies) are there
    /// already. So no other thread has to wake up for them.
    pub fn poll_local_replies(&self, batch: &mut Batch, router: &dyn Router) {
        if let Some(device) = self.device
            && let Some(turn) = device.read_lock().try_lock()
        {
            // The device's own thread meets the same error.
            let _ = read_packets(device, batch, router, turn);
        }
    }
}

/// Hands a packet to the kernel, whole or as the packets that it stands for. A packet that the
/// kernel refuses is lost, as on any link.
fn write_packet(device: &Tun, packet: &Checked, segments: &mut Vec<u8>) {
    if device.offload() {
        let header = packet.offload().to_device();
        let _ = device.write(&[IoSlice::new(&header), IoSlice::new(packet.packet())]);
    } else {
        segmentation::segment(packet, segments, |segment| {
            let _ = device.write(&[IoSlice::new(segment)]);
        });
    }
}
