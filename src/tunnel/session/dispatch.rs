//! In which form does a packet leave, and in whose turn?
//!
//! A super-packet leaves whole, in a record of its own, if the peer takes it, and as the packets
//! that it stands for otherwise. Small packets that wait for the same peer share a record
//! (`queue`): one seal, one write.
//!
//! ```text
//!  Packets       | length u16 | packet | length u16 | packet | …
//!  SuperPacket   | offload header, 10 bytes | packet |
//! ```

use crate::packet::offload::{self, Checked, Offload};
use crate::packet::segmentation::segment;
use crate::protocol::record::HEADROOM;
use crate::tunnel::session::sender::{FRAMES, Sent, SessionSender, count};
use std::collections::VecDeque;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// From this length on, a packet whose checksum is not complete crosses as a super-packet: the far
/// kernel then need not sum it up at all. For shorter ones summing costs less than a record of
/// their own.
const WORTH_ITS_OWN_RECORD: usize = 2048;
/// Records that a reader sends at most before it reads again. It collects fewer at once, if they
/// are large.
const SOME: usize = 16;
/// Where a packet is put that may leave as a super-packet: behind the room for the record and its
/// offload header.
pub const PACKET_AT: usize = HEADROOM + offload::LENGTH;

/// Packets on their way, and to whom.
#[derive(Default)]
pub struct Batch {
    /// Whose packets wait for [`Batch::send_next`].
    peers: VecDeque<Arc<SessionSender>>,
    segments: Vec<u8>,
    /// The thread can wait for one socket that is full, beside what it waits for anyway: a
    /// flusher less to hand records to.
    waits: bool,
    full: Option<Arc<SessionSender>>,
}

impl Batch {
    /// For a thread that waits for [`Batch::full`] as well, and says when [`Batch::resume`].
    pub fn that_waits() -> Batch {
        let mut batch = Batch::default();
        batch.waits = true;
        batch
    }

    /// Adds a packet for `peer`.
    pub fn push(&mut self, peer: &Arc<SessionSender>, parcel: &Checked) {
        if leaves_whole(peer, parcel) {
            let mut frame = FRAMES.take();
            let packet = parcel.packet();
            frame[PACKET_AT..PACKET_AT + packet.len()].copy_from_slice(packet);
            self.push_whole(peer, &mut frame, packet.len(), parcel.offload());
            FRAMES.give(frame);
        } else {
            self.note(peer, parcel.packet().len());
            segment(parcel, &mut self.segments, |packet| {
                peer.put(|queue| queue.push_packet(packet))
            });
        }
    }

    /// As [`Batch::push`], for a packet of `length` bytes that stands at [`PACKET_AT`] in a buffer
    /// of [`FRAMES`], which can leave without being copied; another buffer is put in its place.
    /// `header` is as the device gave it.
    pub fn push_from(
        &mut self,
        peer: &Arc<SessionSender>,
        frame: &mut Vec<u8>,
        length: usize,
        header: Offload,
    ) {
        let Ok(parcel) = header.check(&frame[PACKET_AT..PACKET_AT + length]) else {
            return;
        };
        if leaves_whole(peer, &parcel) {
            let offload = parcel.offload();
            self.push_whole(peer, frame, length, offload);
        } else {
            self.push(peer, &parcel);
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
        peer.put(|queue| queue.push_super_packet(frame, offload::LENGTH + length));
    }

    /// Sends one record to one of the peers; they take turns. False if nothing is left for this
    /// thread to send now.
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

    /// The socket to wait for.
    pub fn full(&self) -> Option<&TcpStream> {
        self.full.as_ref().map(|peer| &*peer.socket)
    }

    /// That socket takes data again.
    pub fn resume(&mut self) {
        if let Some(peer) = self.full.take() {
            peer.resume();
            self.peers.push_back(peer);
        }
    }

    /// Sends what a reader has collected, and little of what others add meanwhile: it has to go on
    /// reading.
    pub fn send_some(&mut self) {
        for _ in 0..SOME {
            if !self.send_next() {
                return;
            }
        }
        self.peers.drain(..).for_each(|peer| peer.call_flusher());
    }

    /// Counts a packet, and remembers whose turn has to come.
    fn note(&mut self, peer: &Arc<SessionSender>, length: usize) {
        count(&peer.traffic.packets_out);
        peer.traffic
            .bytes_out
            .fetch_add(length as u64, Ordering::Relaxed);
        if !self.peers.iter().any(|known| Arc::ptr_eq(known, peer)) {
            self.peers.push_back(Arc::clone(peer));
        }
    }
}

impl Drop for Batch {
    /// Somebody has to wait for the socket.
    fn drop(&mut self) {
        self.full
            .take()
            .iter()
            .for_each(SessionSender::call_flusher);
    }
}

/// Whether the peer should get this as a SuperPacket record.
fn leaves_whole(peer: &SessionSender, parcel: &Checked) -> bool {
    let offload = parcel.offload();
    let long = parcel.packet().len() >= WORTH_ITS_OWN_RECORD;
    peer.super_packets && offload != Offload::default() && (parcel.segments() > 1 || long)
}
