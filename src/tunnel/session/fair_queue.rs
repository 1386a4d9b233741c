//! Which record is next, and which is dropped? This queue holds the records that wait for a peer's
//! socket.
//!
//! Flows take turns, byte by byte, and a full queue drops packets of the flow that has most
//! waiting. So a bulk stream delays and displaces itself, not a ping or a keystroke beside it.
//! Start-time fair queueing (Goyal, Vin, Cheng 1996) does both with one number for each record:
//!
//! ```text
//!  start   where its flow has come to: max(now, finish of the flow)
//!  finish  of the flow: start + length
//!  queue   | start of the record that left last = now | … sorted by start … |
//!            leaves first                                     dropped first
//! ```
//!
//! A flow that has nothing waiting starts now, before the records that others have queued. Within a
//! flow, the order stays. Records that are not packets are small and rare, so they go first.
//!
//! It does not seal, send, lock or wait.

use crate::packet::{ip, offload};
use crate::protocol::record::{HEADROOM, RecordType, Suite};
use crate::tunnel::session::buffers::{FRAME_ROOM, FRAMES};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The bytes of memory that may wait for a short path. A fast path takes them in a millisecond or
/// two. More would not make it faster, and would not fit into a processor's cache.
pub const SHORT_ROOM: usize = 16 * FRAME_ROOM;
/// The same for a long path. A fast one takes them in a round trip.
pub const LONG_ROOM: usize = 64 * FRAME_ROOM;
/// The most records that are not packets: an answer, a Ping, a Close.
const MAX_OTHERS: usize = 256;
/// A shorter super-packet is copied into a buffer of its own size. Many short ones wait for a slow
/// connection, and each would otherwise hold a buffer for the longest.
const SHORT_CONTENT: usize = 40 * 1024;
/// The most bytes of content with which packets join one record: as many as a super-packet has.
const MAX_JOINED: usize = 60 * 1024;
/// How long a packet may wait. An older one is of no use.
const MAX_AGE: Duration = Duration::from_millis(500);
/// The number of hash values that distinguish flows. Two flows with the same value share one turn.
const FLOWS: usize = 256;

/// A record that is not sealed yet: its content, in a buffer in which it can be sealed.
pub struct QueuedRecord {
    /// Its type.
    pub kind: RecordType,
    /// [`HEADROOM`] bytes, the content, room for the suite.
    pub frame: Vec<u8>,
    /// The bytes of content.
    pub content: usize,
    since: Instant,
    start: u64,
}

/// The records that wait for one peer.
pub struct FairQueue {
    records: VecDeque<QueuedRecord>,
    /// The bytes of their buffers, and the limit.
    held: usize,
    room: usize,
    finish: Vec<u64>,
    now: u64,
}

impl FairQueue {
    /// An empty queue in which `room` bytes may wait.
    pub fn new(room: usize) -> FairQueue {
        FairQueue {
            records: VecDeque::new(),
            held: 0,
            room,
            finish: Vec::new(),
            now: 0,
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Forgets all records that wait.
    pub fn clear(&mut self) {
        self.records.clear();
        self.held = 0;
    }

    /// Adds a packet. It joins the record before it if it can. Returns the number of records that
    /// were dropped.
    pub fn push_packet(&mut self, packet: &[u8]) -> u64 {
        let Ok(length) = u16::try_from(packet.len()) else {
            return 1;
        };
        let (start, place) = self.place(packet);
        if let Some(before) = place
            .checked_sub(1)
            .and_then(|place| self.records.get_mut(place))
            && before.kind == RecordType::Packets
            && before.content + 2 + packet.len() <= MAX_JOINED
        {
            before.append(length, packet);
            return 0;
        }
        let mut record = QueuedRecord {
            kind: RecordType::Packets,
            frame: FRAMES.take(),
            content: 0,
            since: Instant::now(),
            start,
        };
        record.append(length, packet);
        self.insert(place, record)
    }

    /// Adds the SuperPacket record that stands in `frame`, a buffer of [`FRAMES`], and puts another
    /// one in its place.
    pub fn push_super_packet(&mut self, frame: &mut Vec<u8>, content: usize) -> u64 {
        debug_assert_eq!(frame.len(), FRAME_ROOM, "room for any frame");
        let (start, place) = self.place(&frame[HEADROOM + offload::LENGTH..HEADROOM + content]);
        let frame = if content < SHORT_CONTENT {
            exact(frame, content)
        } else {
            std::mem::replace(frame, FRAMES.take())
        };
        self.insert(
            place,
            QueuedRecord {
                kind: RecordType::SuperPacket,
                frame,
                content,
                since: Instant::now(),
                start,
            },
        )
    }

    /// Adds a record that is not packets.
    pub fn push(&mut self, kind: RecordType, content: &[u8]) -> u64 {
        let place = self.records.partition_point(|queued| !queued.is_packets());
        if place >= MAX_OTHERS {
            return 1;
        }
        let frame = exact(&[&[0; HEADROOM], content].concat(), content.len());
        self.insert(
            place,
            QueuedRecord {
                kind,
                frame,
                content: content.len(),
                since: Instant::now(),
                start: 0,
            },
        )
    }

    /// Takes the next record. Returns also how many were dropped because they have waited for too
    /// long.
    pub fn pop(&mut self) -> (Option<QueuedRecord>, u64) {
        let mut dropped = 0;
        while let Some(queued) = self.records.pop_front() {
            // A flow that was alone in the queue may send its next record at once.
            let alone = if self.records.is_empty() {
                queued.content as u64
            } else {
                0
            };
            self.now = self.now.max(queued.start + alone);
            self.held -= queued.frame.len();
            if !queued.is_packets() || queued.since.elapsed() <= MAX_AGE {
                return (Some(queued), dropped);
            }
            FRAMES.give(queued.frame);
            dropped += 1;
        }
        (None, dropped)
    }

    /// The start of a packet of this flow, and its place in the queue behind all with the same
    /// start.
    fn place(&mut self, packet: &[u8]) -> (u64, usize) {
        self.finish.resize(FLOWS, 0);
        let finish = &mut self.finish[ip::flow(packet) % FLOWS];
        let start = (*finish).clamp(self.now, self.now.saturating_add(self.room as u64));
        *finish = start.saturating_add(packet.len() as u64);
        (
            start,
            self.records.partition_point(|queued| queued.start <= start),
        )
    }

    /// Puts a record in its place. If the queue is too full then, the last records are dropped.
    /// They belong to the flow that has most waiting.
    fn insert(&mut self, place: usize, record: QueuedRecord) -> u64 {
        self.held += record.frame.len();
        self.records.insert(place, record);
        let mut dropped = 0;
        while self.held > self.room
            && let Some(last) = self.records.pop_back()
        {
            self.held -= last.frame.len();
            FRAMES.give(last.frame);
            dropped += 1;
        }
        dropped
    }
}

/// A buffer that is just large enough for a record with the content in `frame`.
fn exact(frame: &[u8], content: usize) -> Vec<u8> {
    let mut own = frame[..HEADROOM + content].to_vec();
    own.resize(Suite::FERNET.frame_len(content), 0);
    own
}

impl QueuedRecord {
    fn is_packets(&self) -> bool {
        matches!(self.kind, RecordType::Packets | RecordType::SuperPacket)
    }

    fn append(&mut self, length: u16, packet: &[u8]) {
        let room = &mut self.frame[HEADROOM + self.content..][..2 + packet.len()];
        room[..2].copy_from_slice(&length.to_be_bytes());
        room[2..].copy_from_slice(packet);
        self.content += 2 + packet.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Large records that fill a queue.
    const FULL: usize = SHORT_ROOM / FRAME_ROOM;

    /// A UDP packet of a flow, with a number in it.
    fn packet(flow: u8, number: u16, length: usize) -> Vec<u8> {
        let mut packet = vec![0; length.max(30)];
        (packet[0], packet[9], packet[21]) = (0x45, 17, flow);
        packet[28..30].copy_from_slice(&number.to_be_bytes());
        packet
    }

    fn push_bulk(queue: &mut FairQueue, flow: u8, number: u16) -> u64 {
        let mut frame = FRAMES.take();
        let packet = packet(flow, number, 60_000);
        let at = HEADROOM + offload::LENGTH;
        frame[at..at + packet.len()].copy_from_slice(&packet);
        queue.push_super_packet(&mut frame, offload::LENGTH + packet.len())
    }

    /// All that waits, as (flow, number). Packets that share a record come one after the other.
    fn drain(queue: &mut FairQueue) -> Vec<(u8, u16)> {
        let mut all = Vec::new();
        while let (
            Some(QueuedRecord {
                kind,
                frame,
                content,
                ..
            }),
            0,
        ) = queue.pop()
        {
            let mut content = &frame[HEADROOM..HEADROOM + content];
            if kind == RecordType::SuperPacket {
                content = &content[offload::LENGTH - 2..];
            }
            while content.len() > 2 {
                let length = if kind == RecordType::Packets {
                    usize::from(content[0]) << 8 | usize::from(content[1])
                } else {
                    60_000
                };
                all.push((content[23], u16::from_be_bytes([content[30], content[31]])));
                content = &content[2 + length..];
            }
        }
        all
    }

    #[test]
    fn what_is_rare_passes_bulk_and_no_flow_is_out_of_order() {
        let mut queue = FairQueue::new(SHORT_ROOM);
        for number in 0..10 {
            push_bulk(&mut queue, 1, number);
        }
        queue.pop();
        for number in 0..3 {
            queue.push_packet(&packet(2, number, 100));
            queue.push_packet(&packet(1, 10 + number, 100));
        }
        let rare = [(2, 0), (2, 1), (2, 2)];
        assert_eq!(
            drain(&mut queue),
            [
                &rare[..],
                &(1..13).map(|number| (1, number)).collect::<Vec<_>>()
            ]
            .concat()
        );
    }

    #[test]
    fn flows_take_turns_however_much_they_have() {
        let mut queue = FairQueue::new(SHORT_ROOM);
        for number in 0..6 {
            push_bulk(&mut queue, 1, number);
        }
        for number in 0..3 {
            push_bulk(&mut queue, 2, number);
        }
        let flows: Vec<_> = drain(&mut queue)
            .into_iter()
            .map(|(flow, _)| flow)
            .collect();
        assert_eq!(flows, [1, 2, 1, 2, 1, 2, 1, 1, 1]);
    }

    #[test]
    fn who_has_most_waiting_loses_and_begins_again_with_the_others() {
        let mut queue = FairQueue::new(SHORT_ROOM);
        let dropped: u64 = (0..1000)
            .map(|number| push_bulk(&mut queue, 1, number))
            .sum();
        assert_eq!(dropped, 1000 - FULL as u64);
        assert_eq!(
            (push_bulk(&mut queue, 2, 0), push_bulk(&mut queue, 2, 1)),
            (1, 1)
        );
        let left = drain(&mut queue);
        let flood = FULL as u16 - 2;
        assert_eq!(
            left.iter().filter(|(flow, _)| *flow == 2).count(),
            2,
            "not its own packets were dropped"
        );
        assert_eq!(
            left.iter()
                .filter(|(flow, _)| *flow == 1)
                .map(|(_, n)| *n)
                .collect::<Vec<_>>(),
            (0..flood).collect::<Vec<_>>()
        );
        // Dropped packets delay their flow by no more than the length of the queue.
        for number in 0..4 * FULL as u16 {
            push_bulk(&mut queue, 2, number);
            queue.pop();
        }
        push_bulk(&mut queue, 2, 0);
        push_bulk(&mut queue, 2, 1);
        push_bulk(&mut queue, 1, 0);
        assert_eq!(drain(&mut queue), [(2, 0), (1, 0), (2, 1)]);
    }

    #[test]
    fn what_is_no_packet_goes_first_and_is_bounded_too() {
        let mut queue = FairQueue::new(SHORT_ROOM);
        push_bulk(&mut queue, 1, 0);
        let pongs = (0..1000u16).map(|number| queue.push(RecordType::Pong, &number.to_be_bytes()));
        assert_eq!(pongs.sum::<u64>() as usize, 1000 - MAX_OTHERS);
        let (first, _) = queue.pop();
        assert!(
            first.is_some_and(|first| first.kind == RecordType::Pong
                && first.frame[HEADROOM..HEADROOM + 2] == [0, 0])
        );
    }
}
