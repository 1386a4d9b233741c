//! In which form does a packet leave, and which peer is next?
//!
//! A super-packet leaves whole, in a record of its own, if the peer takes it. Otherwise it leaves
//! as the packets that it stands for. Small packets that wait for the same peer share a record
//! (`fair_queue`), which costs one seal and one write.
//!
//! ```text
//!  Packets       | length u16 | packet | length u16 | packet | …
//!  SuperPacket   | offload header, 10 bytes | packet |
//! ```

use crate::packet::offload::{self, Checked, Offload};
use crate::packet::segmentation::segment;
use crate::protocol::record::HEADROOM;
use crate::tunnel::observe::counters::count;
use crate::tunnel::session::buffers::FRAMES;
use crate::tunnel::session::sender::{Sent, SessionSender};
use std::collections::VecDeque;
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;

/// A packet of at least this length whose checksum is not complete crosses as a super-packet. The
/// far kernel then need not compute the sum. For a shorter packet, the sum costs less than a record
/// of its own.
const WORTH_ITS_OWN_RECORD: usize = 2048;
/// The most records that a reader sends before it reads again. If they are large, it collects fewer
/// at once.
const RECORDS_A_TURN: usize = 16;
/// The offset of a packet that may leave as a super-packet. The record's header and the offload
/// header fit before it.
pub const PACKET_AT: usize = HEADROOM + offload::LENGTH;

/// Finds the peer that gets the packets for an address.
pub trait Router {
    /// The sender of the peer that has this address, if there is one and it is connected. If not,
    /// the packet counts as unrouted.
    fn sender_for(&self, destination: IpAddr) -> Option<Arc<SessionSender>>;
}

/// Packets that one thread has put into the queues of peers, and the peers to which it still has to
/// send.
#[derive(Default)]
pub struct Batch {
    /// The peers whose packets wait for [`Batch::send_next`].
    peers: VecDeque<Arc<SessionSender>>,
    segments: Vec<u8>,
    /// The full socket for which the thread itself waits, beside its own events. Then no flusher
    /// has to.
    waits: bool,
    full: Option<Arc<SessionSender>>,
}

impl Batch {
    /// For a thread that also waits for [`Batch::full`], and then calls [`Batch::resume`].
    pub fn that_waits() -> Batch {
        let mut batch = Batch::default();
        batch.waits = true;
        batch
    }

    /// Adds a packet of `length` bytes from the device. It stands at [`PACKET_AT`] in a buffer of
    /// [`FRAMES`]. If the packet leaves without a copy, another buffer takes the place of this one.
    /// `header` is as the device gave it.
    pub fn push_from_device(
        &mut self,
        peer: &Arc<SessionSender>,
        frame: &mut Vec<u8>,
        length: usize,
        header: Offload,
    ) {
        match header.check(&frame[PACKET_AT..PACKET_AT + length]) {
            Ok(packet) if leaves_whole(peer, &packet) => {
                let offload = packet.offload();
                self.push_whole(peer, frame, length, offload);
            }
            Ok(packet) => self.push_segments(peer, &packet),
            Err(_) => {
                if header.complete_inner(&mut frame[PACKET_AT..PACKET_AT + length]) {
                    self.push_from_device(peer, frame, length, Offload::default());
                } else {
                    count(&peer.traffic.dropped_offload);
                }
            }
        }
    }

    /// Adds a packet from another peer, or an answer of this end.
    pub fn push(&mut self, peer: &Arc<SessionSender>, packet: &Checked) {
        if leaves_whole(peer, packet) {
            let mut frame = FRAMES.take();
            let bytes = packet.packet();
            frame[PACKET_AT..PACKET_AT + bytes.len()].copy_from_slice(bytes);
            self.push_whole(peer, &mut frame, bytes.len(), packet.offload());
            FRAMES.give(frame);
        } else {
            self.push_segments(peer, packet);
        }
    }

    fn push_whole(
        &mut self,
        peer: &Arc<SessionSender>,
        frame: &mut Vec<u8>,
        length: usize,
        offload: Offload,
    ) {
        self.note(peer, length);
        frame[HEADROOM..PACKET_AT].copy_from_slice(&offload.to_wire());
        peer.queue_super_packet(frame, offload::LENGTH + length);
    }

    fn push_segments(&mut self, peer: &Arc<SessionSender>, packet: &Checked) {
        self.note(peer, packet.packet().len());
        segment(packet, &mut self.segments, |segment| {
            peer.queue_packet(segment);
        });
    }

    /// Counts a packet, and remembers that its peer has to send.
    fn note(&mut self, peer: &Arc<SessionSender>, length: usize) {
        peer.traffic.packet_out(length);
        if !self.peers.iter().any(|known| Arc::ptr_eq(known, peer)) {
            self.peers.push_back(Arc::clone(peer));
        }
    }

    /// Sends one record to one of the peers, which take turns. Returns false if this thread has
    /// nothing left to send now.
    pub fn send_next(&mut self) -> bool {
        let Some(peer) = self.peers.pop_front() else {
            return false;
        };
        match peer.send_next() {
            Sent::All => {}
            Sent::More => self.peers.push_back(peer),
            Sent::Full if self.waits && self.full.is_none() => self.full = Some(peer),
            Sent::Full => peer.call_flusher(),
        }
        !self.peers.is_empty()
    }

    /// Sends what a reader has collected, and little that others add meanwhile, because a reader
    /// has to go on reading.
    pub fn send_some(&mut self) {
        for _ in 0..RECORDS_A_TURN {
            if !self.send_next() {
                return;
            }
        }
        for peer in self.peers.drain(..) {
            peer.call_flusher();
        }
    }

    /// The socket to wait for.
    pub fn full(&self) -> Option<&TcpStream> {
        self.full.as_ref().map(|peer| &*peer.socket)
    }

    /// Continues, because that socket takes data again.
    pub fn resume(&mut self) {
        if let Some(peer) = self.full.take() {
            peer.resume();
            self.peers.push_back(peer);
        }
    }
}

impl Drop for Batch {
    /// Some thread has to wait for the socket.
    fn drop(&mut self) {
        if let Some(peer) = &self.full {
            peer.call_flusher();
        }
    }
}

/// Whether the peer should get this as a SuperPacket record.
fn leaves_whole(peer: &SessionSender, packet: &Checked) -> bool {
    let offload = packet.offload();
    let is_long = packet.packet().len() >= WORTH_ITS_OWN_RECORD;
    peer.super_packets && offload != Offload::default() && (packet.segments() > 1 || is_long)
}
