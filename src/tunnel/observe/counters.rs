//! What is counted, for `status` and metrics?
//!
//! Packets and bytes are counted as the kernel counts them on the tunnel's device (`ip -s link`,
//! nft): a super-packet once, with the bytes of its IP packet.

use crate::tunnel::session::path_size::PathSize;
use std::sync::atomic::{AtomicU64, Ordering};

/// Adds one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What a peer's connections have carried since the start.
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
    /// Packets of the peer not passed on: malformed, or with an offload header that does not fit.
    pub dropped_malformed: AtomicU64,
    /// Packets of the peer not passed on: their source is not the peer's.
    pub dropped_source: AtomicU64,
    /// Packets of the peer not passed on: nobody, or nobody allowed, has their destination.
    pub dropped_destination: AtomicU64,
    /// Packets for the peer with an offload header of this machine's kernel that nobody can follow.
    pub dropped_offload: AtomicU64,
    /// Which packets the path to the peer takes.
    pub path_size: PathSize,
}

impl TrafficCounters {
    /// One more packet for the peer.
    pub fn packet_out(&self, length: usize) {
        count(&self.packets_out);
        self.bytes_out.fetch_add(length as u64, Ordering::Relaxed);
    }

    /// One more packet from the peer, which was passed on.
    pub fn packet_in(&self, length: usize) {
        count(&self.packets_in);
        self.bytes_in.fetch_add(length as u64, Ordering::Relaxed);
    }
}

/// Why a handshake did not become a session. The order is that of [`REASONS`].
#[derive(Clone, Copy, Debug)]
pub enum RejectReason {
    /// What came was no hello.
    NoHello,
    /// No client has this key.
    UnknownKey,
    /// A ratcheted key has left this step behind.
    EarlierStep,
    /// The hello's token or fields were refused.
    Hello,
    /// The hello was answered before.
    Replay,
    /// `max-clients` are connected.
    Full,
    /// The ratcheted key's step could not be made durable.
    State,
    /// No version or suite that both sides have.
    Agreement,
    /// Finished was refused.
    Finished,
    /// A newer handshake was quicker.
    Superseded,
    /// It did not come to an end in time, or was cut.
    Incomplete,
    /// There were too many; a random one was ended.
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

/// What has come of handshakes since the start.
#[derive(Debug, Default)]
pub struct HandshakeCounters {
    /// Those that became a session.
    pub accepted: AtomicU64,
    rejected: [AtomicU64; REASONS.len()],
}

impl HandshakeCounters {
    /// One more session.
    pub fn accept(&self) {
        count(&self.accepted);
    }

    /// One more that became none.
    pub fn reject(&self, reason: RejectReason) {
        count(&self.rejected[reason as usize]);
    }

    /// How many became none, by reason.
    pub fn rejected(&self) -> Vec<(&'static str, u64)> {
        let numbers = self.rejected.iter().map(|n| n.load(Ordering::Relaxed));
        REASONS.into_iter().zip(numbers).collect()
    }
}
