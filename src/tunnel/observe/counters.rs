//! What does the program count for `status` and metrics?
//!
//! It counts packets and bytes as the kernel does on the tunnel's device (`ip -s link`, nft). A
//! super-packet counts once, with the bytes of its IP packet.

use crate::tunnel::session::path_size::PathSize;
use std::sync::atomic::{AtomicU64, Ordering};

/// Adds one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The traffic of a peer's connections since the start.
#[derive(Debug, Default)]
pub struct TrafficCounters {
    /// Packets sent to the peer.
    pub packets_out: AtomicU64,
    /// Their bytes.
    pub bytes_out: AtomicU64,
    /// Packets received from the peer and passed on.
    pub packets_in: AtomicU64,
    /// Their bytes.
    pub bytes_in: AtomicU64,
    /// Records not sent because the queue was full or too old.
    pub dropped_queue: AtomicU64,
    /// Packets of the peer that were not passed on because they or their offload headers are
    /// malformed.
    pub dropped_malformed: AtomicU64,
    /// Packets of the peer that were not passed on because their source is not the peer's.
    pub dropped_source: AtomicU64,
    /// Packets of the peer that were not passed on because nobody, or nobody allowed, has their
    /// destination.
    pub dropped_destination: AtomicU64,
    /// Packets for the peer that were dropped because of an unusable offload header of this
    /// machine's kernel.
    pub dropped_offload: AtomicU64,
    /// The size of segments that the path to the peer takes.
    pub path_size: PathSize,
}

impl TrafficCounters {
    /// Counts a packet for the peer.
    pub fn packet_out(&self, length: usize) {
        count(&self.packets_out);
        self.bytes_out.fetch_add(length as u64, Ordering::Relaxed);
    }

    /// Counts a packet from the peer that was passed on.
    pub fn packet_in(&self, length: usize) {
        count(&self.packets_in);
        self.bytes_in.fetch_add(length as u64, Ordering::Relaxed);
    }
}

/// Why a handshake did not become a session. The order is that of `REASONS`.
#[derive(Clone, Copy, Debug)]
pub enum RejectReason {
    /// The bytes were no hello.
    NoHello,
    /// No client has this key.
    UnknownKey,
    /// The hello names an earlier step of a ratcheted key.
    EarlierStep,
    /// The hello's token or fields were refused.
    Hello,
    /// The hello was answered before.
    Replay,
    /// As many clients as `max-clients` allows are connected.
    Full,
    /// The ratcheted key's step could not be stored.
    State,
    /// The two sides have no version or suite in common.
    Agreement,
    /// Finished was refused.
    Finished,
    /// A newer handshake finished first.
    Superseded,
    /// It did not end in time, or the connection ended.
    Incomplete,
    /// There were too many, and this one was chosen at random to end.
    Crowded,
}

/// The names of [`RejectReason`]s in reports.
const REASONS: [&str; 12] = [
    "no_hello",
    "unknown_key",
    "earlier_step",
    "hello",
    "replay",
    "full",
    "state",
    "agreement",
    "finished",
    "superseded",
    "incomplete",
    "crowded",
];

/// The results of handshakes since the start.
#[derive(Debug, Default)]
pub struct HandshakeCounters {
    /// The number that became a session.
    pub accepted: AtomicU64,
    rejected: [AtomicU64; REASONS.len()],
}

impl HandshakeCounters {
    /// Counts a session.
    pub fn accept(&self) {
        count(&self.accepted);
    }

    /// Counts a handshake that did not become a session.
    pub fn reject(&self, reason: RejectReason) {
        count(&self.rejected[reason as usize]);
    }

    /// The number that did not become a session, by reason.
    pub fn rejected(&self) -> Vec<(&'static str, u64)> {
        let numbers = self.rejected.iter().map(|n| n.load(Ordering::Relaxed));
        REASONS.into_iter().zip(numbers).collect()
    }
}
