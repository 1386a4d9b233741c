//! Which packets share a record?
//!
//! Several small packets that are ready for the same peer go into one Packets record: one seal, one write. A
//! super-packet goes alone and whole, if the peer takes it, and as the packets that it stands for otherwise.
//!
//! ```text
//!  Packets       | length u16 | packet | length u16 | packet | …
//!  SuperPacket   | offload header, 10 bytes | packet |
//! ```

use super::outbound::{FRAME_ROOM, FRAMES, Outbound, count};
use crate::packet::offload::{self, Checked, Offload};
use crate::packet::segmentation::segment;
use crate::protocol::record::{HEADROOM, Kind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Content at which a record is sent even if more packets are ready: large enough to share the costs, small enough
/// not to keep the first packet waiting.
const FULL: usize = 32 * 1024;
/// From this length on, a packet whose checksum is not complete crosses as a super-packet: the far kernel then need
/// not sum it up at all. For shorter ones summing costs less than a record of their own.
const WORTH_ITS_OWN_RECORD: usize = 2048;
/// Where a packet is put that may leave as a super-packet: behind the room for the record and its offload header.
pub const PACKET_AT: usize = HEADROOM + offload::LENGTH;

/// Packets on their way to one peer.
pub struct Batch {
    peer: Option<Arc<Outbound>>,
    frame: Vec<u8>,
    content: usize,
    segments: Vec<u8>,
}

impl Batch {
    /// An empty batch. It holds no memory until it is used.
    pub fn new() -> Batch {
        Batch { peer: None, frame: Vec::new(), content: 0, segments: Vec::new() }
    }

    /// Adds a packet for `peer`. What was there for another peer leaves first.
    pub fn push(&mut self, peer: &Arc<Outbound>, parcel: &Checked) {
        note(peer, parcel);
        if leaves_whole(peer, parcel) {
            self.flush();
            let mut frame = FRAMES.take();
            let packet = parcel.packet();
            frame[PACKET_AT..PACKET_AT + packet.len()].copy_from_slice(packet);
            send_whole(peer, &mut frame, parcel.offload(), packet.len());
            FRAMES.give(frame);
        } else {
            self.push_packets(peer, parcel);
        }
    }

    /// As [`Batch::push`], for a packet of `length` bytes that stands at [`PACKET_AT`] in a frame of its own, from
    /// which it can leave without being copied. `header` is as the device gave it.
    pub fn push_from(&mut self, peer: &Arc<Outbound>, frame: &mut Vec<u8>, length: usize, header: Offload) {
        let Ok(parcel) = header.check(&frame[PACKET_AT..PACKET_AT + length]) else { return };
        if leaves_whole(peer, &parcel) {
            note(peer, &parcel);
            self.flush();
            let offload = parcel.offload();
            send_whole(peer, frame, offload, length);
        } else {
            self.push(peer, &parcel);
        }
    }

    /// Sends what is there.
    pub fn flush(&mut self) {
        if let Some(peer) = self.peer.take() {
            peer.send(Kind::Packets, &mut self.frame, self.content);
        }
        self.content = 0;
    }

    /// Gives the buffer back until it is needed again.
    pub fn rest(&mut self) {
        self.flush();
        FRAMES.give(std::mem::take(&mut self.frame));
    }

    fn push_packets(&mut self, peer: &Arc<Outbound>, parcel: &Checked) {
        let mut segments = std::mem::take(&mut self.segments);
        segment(parcel, &mut segments, |packet| self.append(peer, packet));
        self.segments = segments;
    }

    fn append(&mut self, peer: &Arc<Outbound>, packet: &[u8]) {
        let Ok(length) = u16::try_from(packet.len()) else { return };
        let same = self.peer.as_ref().is_some_and(|known| Arc::ptr_eq(known, peer));
        if !same || (self.content > 0 && self.content + 2 + packet.len() > FULL) {
            self.flush();
            self.peer = Some(Arc::clone(peer));
        }
        if self.frame.is_empty() {
            self.frame = FRAMES.take();
        }
        let start = HEADROOM + self.content;
        self.frame[start..start + 2].copy_from_slice(&length.to_be_bytes());
        self.frame[start + 2..start + 2 + packet.len()].copy_from_slice(packet);
        self.content += 2 + packet.len();
    }
}

impl Default for Batch {
    fn default() -> Batch {
        Batch::new()
    }
}

/// Whether the peer should get this as a SuperPacket record.
fn leaves_whole(peer: &Outbound, parcel: &Checked) -> bool {
    let offload = parcel.offload();
    let long = parcel.packet().len() >= WORTH_ITS_OWN_RECORD;
    peer.super_packets && offload != Offload::default() && (parcel.segments() > 1 || long)
}

fn send_whole(peer: &Arc<Outbound>, frame: &mut Vec<u8>, offload: Offload, length: usize) {
    debug_assert!(frame.len() >= FRAME_ROOM, "room for any frame");
    frame[HEADROOM..PACKET_AT].copy_from_slice(&offload.to_wire());
    peer.send(Kind::SuperPacket, frame, offload::LENGTH + length);
}

fn note(peer: &Outbound, parcel: &Checked) {
    count(&peer.traffic.packets_out);
    peer.traffic.bytes_out.fetch_add(parcel.packet().len() as u64, Ordering::Relaxed);
}
