//! Which packets does the path take? Some paths drop large ones in silence (RFC 2923).
//!
//! TCP then sends its first full segment again and again, while small ones arrive. Linux has a
//! remedy (net.ipv4.tcp_mtu_probing), but it is off by default, and it is a setting of the machine.
//! So each end watches its own direction. It needs no setting, and tells its peer nothing:
//!
//! ```text
//!  a large segment was sent five times, and small ones arrive, or no large one ever has ─> reset
//!  the peer is back within 5 s ─> small segments for ten minutes, the next time twice as long
//!  it is not                   ─> the path was down: as before
//! ```
//!
//! The pieces that are handed to the socket limit the size: Linux never joins pieces that were sent
//! with `MSG_EOR`.

use crate::os::lock::{Lock, Rank};
use crate::os::socket::Path;
use std::time::{Duration, Instant};

/// The bytes of a segment: the first and the last resort. With headers and options they stay below
/// what every IPv6 and IPv4 path carries, 1280 and 576 bytes.
const SEGMENTS: [usize; 2] = [1200, 500];
/// The times that TCP has sent a segment again when it counts as lost to its size. If 10 % are lost
/// at random, this happens to one segment in a hundred thousand.
const BACKOFF: u8 = 4;
/// After one more time, the next attempt would come after the connection's end. Then a reset loses
/// nothing.
const LAST_BACKOFF: u8 = 5;
const CONFIRMED_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection sends small segments the first time, and at most.
const REMEMBERED: Duration = Duration::from_secs(600);
const MOST_DOUBLED: u32 = 7;

/// Whether large segments vanish on the way to the peer, as far as TCP can tell.
pub fn loses_large_segments(path: &Path) -> bool {
    let half = u64::from(path.segment / 2);
    let are_large = |bytes: u64, segments: u32| bytes > u64::from(segments).saturating_mul(half);
    let is_stuck = path.backoff >= BACKOFF
        && are_large(path.in_flight, path.unacked)
        && path.sacked.saturating_mul(2) <= path.unacked;
    // A path that is down loses everything. Then nothing comes from the peer, and large segments
    // have usually passed before.
    let peer_is_there = path.sacked > 0 || path.silence < path.retransmit_after / 2;
    let is_new = !are_large(path.acked, path.delivered);
    is_stuck && (peer_is_there || is_new || path.backoff >= LAST_BACKOFF)
}

/// What earlier connections to a peer have learned.
#[derive(Debug)]
pub struct PathSize(Lock<Found>);

impl Default for PathSize {
    fn default() -> PathSize {
        PathSize(Lock::new(Rank::PathSize, Found::default()))
    }
}

#[derive(Debug, Default)]
struct Found {
    /// The number of [`SEGMENTS`] that have been tried.
    steps: usize,
    /// When large segments are tried again.
    until: Option<Instant>,
    /// How often large segments were found to vanish.
    times: u32,
    suspected: Option<Instant>,
}

/// The limit of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The most bytes of a segment.
    pub segment: usize,
    /// When it ends.
    pub until: Instant,
}

impl PathSize {
    /// The limit of a connection that begins now, if any.
    pub fn limit(&self) -> Option<Limit> {
        let mut found = self.0.lock();
        let now = Instant::now();
        let suspected = found.suspected.take();
        if suspected.is_some_and(|at| at.elapsed() < CONFIRMED_WITHIN) {
            let life = REMEMBERED * 2_u32.pow(found.times.min(MOST_DOUBLED));
            found.steps += 1;
            found.times = found.times.saturating_add(1);
            found.until = Some(now + life);
        }
        let until = found.until.filter(|until| now < *until);
        if until.is_none() {
            found.steps = 0;
        }
        let segment = *SEGMENTS.get(found.steps.checked_sub(1)?)?;
        until.map(|until| Limit { segment, until })
    }

    /// Notes that large segments seem to vanish. Returns false if there are no smaller ones to try.
    pub fn suspect(&self) -> bool {
        let mut found = self.0.lock();
        let has_smaller = found.steps < SEGMENTS.len();
        found.suspected = has_smaller.then(Instant::now);
        has_smaller
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUCK: Path = Path {
        round_trip: Duration::from_millis(30),
        silence: Duration::from_secs(3),
        shortest: Duration::from_millis(20),
        retransmitted: 9,
        rate: 100_000,
        unsent: 7000,
        backoff: 4,
        retransmit_after: Duration::from_secs(4),
        unacked: 9,
        sacked: 2,
        segment: 1448,
        in_flight: 11_000,
        acked: 1_000_000,
        delivered: 800,
    };

    #[test]
    fn a_path_is_suspected_only_while_the_peer_is_there() {
        assert!(loses_large_segments(&STUCK));
        let heard = Path {
            sacked: 0,
            silence: Duration::from_millis(500),
            ..STUCK
        };
        assert!(loses_large_segments(&heard));
        let fresh = Path {
            sacked: 0,
            acked: 1000,
            delivered: 8,
            ..STUCK
        };
        assert!(loses_large_segments(&fresh));
        for other in [
            Path {
                backoff: 3,
                ..STUCK
            }, // ordinary losses
            Path {
                in_flight: 0,
                unacked: 0,
                ..heard
            }, // nothing waits
            Path {
                unacked: 3,
                ..STUCK
            }, // most of it arrives
            Path {
                in_flight: 5000,
                ..STUCK
            }, // small ones do not arrive either
            Path { sacked: 0, ..STUCK }, // nobody is there
        ] {
            assert!(!loses_large_segments(&other), "{other:?}");
        }
    }

    #[test]
    fn a_suspicion_is_confirmed_by_a_peer_who_comes_back() {
        let size = PathSize::default();
        let segment = || size.limit().map(|limit| limit.segment);
        assert_eq!(segment(), None);
        for small in SEGMENTS {
            assert!(size.suspect());
            assert_eq!(segment(), Some(small));
            assert_eq!(segment(), Some(small));
        }
        assert!(!size.suspect());
        assert_eq!(segment(), Some(SEGMENTS[1]));
        size.0.lock().until = Some(Instant::now());
        assert_eq!(segment(), None);
        assert!(size.suspect());
        let limit = size.limit().unwrap();
        assert!(limit.until > Instant::now() + REMEMBERED, "it lasts longer");
        size.0.lock().until = None;
        assert!(size.suspect());
        size.0.lock().suspected = Instant::now().checked_sub(CONFIRMED_WITHIN);
        assert_eq!(segment(), None);
    }
}
