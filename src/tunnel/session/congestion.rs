//! How fast may the TCP connection send? This file sets its socket options, and chooses a
//! congestion control for its path.
//!
//! ```text
//!  short path   cubic, small buffers          data waits where flows take turns
//!  long path    bbr ── many losses, queue full ──> cubic ── losses, no queue ──> bbr, for good
//! ```
//!
//! A long path begins with bbr. It keeps its rate where cubic takes each loss for a full queue. TCP
//! inside the tunnel does not see these losses. But TCP inside may never give bbr enough to send.
//! Then bbr never learns how much the path carries, and fills its queue again and again. In that
//! case cubic is better.

use crate::config::settings::Congestion;
use crate::os::log;
use crate::os::socket::{self, Tuning};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// A path with at least this round trip counts as long.
const LONG_PATH: Duration = Duration::from_millis(5);
/// How long sent data may stay unacknowledged before the kernel gives up the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes that a socket takes and has not sent. Other flows cannot overtake these bytes.
const UNSENT: u32 = 128 * 1024;
/// The same on a short path.
const SHORT_UNSENT: u32 = 64 * 1024;
/// Bytes that a short path's receiver takes before it has passed them on. It is enough for some
/// super-packets and for what 10 Gbit/s bring in a round trip.
const WINDOW: u128 = 192 * 1024;
/// On a short path, an acknowledgement within this time is not late. TCP's own minimum is 200 ms,
/// and all flows in the tunnel would wait for it.
const RETRANSMIT: Duration = Duration::from_millis(25);
/// A queue explains a round trip that exceeds the shortest one by half and by this.
const QUEUE_DELAY: Duration = Duration::from_millis(1);
/// How often the supervisor looks at a long path.
const CHECK_INTERVAL: Duration = Duration::from_millis(5);
/// How long after a queue was seen a loss may still come from it.
const QUEUE_GONE: Duration = Duration::from_millis(500);
/// The next congestion controls of a long path. Each has the number of losses before it is due, and
/// whether losses with a queue count.
const STEPS: [(&str, u32, bool); 2] = [("cubic", 64, true), ("bbr", 3, false)];
/// bbr has lost its model of the path when its rate falls to this part of its highest.
const COLLAPSE: u64 = 16;
/// How long that must last, while data waits and too little is sent.
const COLLAPSED: Duration = Duration::from_millis(100);

/// The socket options of a tunnel's connection, the same at both ends.
pub fn tuning() -> Tuning {
    Tuning {
        user_timeout: Some(USER_TIMEOUT),
        notsent_lowat_bytes: Some(UNSENT),
        ..Tuning::default()
    }
}

/// Whether the path of a connection is short, as far as the system can tell.
pub fn is_short(socket: &TcpStream) -> bool {
    socket::path(socket).is_ok_and(|path| path.shortest < LONG_PATH)
}

/// Adapts a connection to its path. `round_trip` is the handshake's, for systems that do not report
/// one. A long path gets a supervisor, unless the configuration chooses the congestion control.
pub fn tune_for_path(
    socket: &TcpStream,
    congestion: &Congestion,
    round_trip: Duration,
) -> Option<CongestionSupervisor> {
    let path = socket::path(socket);
    let round_trip = path.as_ref().map_or(round_trip, |path| path.shortest);
    let is_short = round_trip < LONG_PATH;
    if is_short {
        // Data that does not fit into a small window waits at the sender, where flows take turns.
        let tuning = Tuning {
            receive_buffer_bytes: u32::try_from(WINDOW + round_trip.as_nanos() * 5 / 4).ok(),
            notsent_lowat_bytes: Some(SHORT_UNSENT),
            retransmit: Some(RETRANSMIT),
            ..Tuning::default()
        };
        let _ = socket::prepare(socket, &tuning); // an older kernel does not have it
    }
    match congestion {
        Congestion::System => None,
        Congestion::Named(name) => {
            set_control(socket, name, true);
            None
        }
        Congestion::Auto if is_short => {
            set_control(socket, "cubic", false);
            None
        }
        Congestion::Auto => {
            set_control(socket, "bbr", false);
            path.ok().as_ref().map(CongestionSupervisor::new)
        }
    }
}

/// Sets the congestion control. If this system does not have or allow it, the default stays. If the
/// configuration asked for it, a warning follows.
fn set_control(socket: &TcpStream, name: &str, is_wish: bool) {
    let tuning = Tuning {
        congestion_control: Some(name.into()),
        ..Tuning::default()
    };
    if let Err(error) = socket::prepare(socket, &tuning)
        && is_wish
    {
        log::warning("tunnel", &error.to_string(), &[]);
    }
}

/// Observes a long path, and so decides which congestion control its connection should have.
pub struct CongestionSupervisor {
    checked: Instant,
    retransmitted: u32,
    /// When a queue last explained a long round trip.
    queued: Option<Instant>,
    /// The number of [`STEPS`] that are done.
    step: usize,
    /// Losses that count for the next step.
    losses: u32,
    /// The highest rate since bbr began.
    highest_rate: u64,
    /// When the rate was last not far below that.
    sound: Instant,
}

impl CongestionSupervisor {
    fn new(path: &socket::Path) -> CongestionSupervisor {
        let now = Instant::now();
        CongestionSupervisor {
            checked: now,
            retransmitted: path.retransmitted,
            queued: None,
            step: 0,
            losses: 0,
            highest_rate: 0,
            sound: now,
        }
    }

    /// Looks at the path if it is time, and changes the congestion control if that is due.
    pub fn check(&mut self, socket: &TcpStream) {
        if self.checked.elapsed() < CHECK_INTERVAL {
            return;
        }
        if let Ok(path) = socket::path(socket)
            && let Some(name) = self.next_control(&path)
        {
            // bbr only begins anew if another congestion control comes between.
            set_control(socket, "cubic", false);
            set_control(socket, name, false);
        }
    }

    /// The congestion control to change to now, if it is time.
    fn next_control(&mut self, path: &socket::Path) -> Option<&'static str> {
        self.checked = Instant::now();
        let lost = path.retransmitted.saturating_sub(self.retransmitted);
        self.retransmitted = path.retransmitted;
        let is_queued = path.round_trip > path.shortest * 3 / 2 + QUEUE_DELAY;
        if is_queued {
            self.queued = Some(self.checked);
        }
        if let Some((next, losses, with_queue)) = STEPS.get(self.step) {
            let counts = if *with_queue {
                is_queued
            } else {
                self.queued.is_none_or(|at| at.elapsed() > QUEUE_GONE)
            };
            self.losses += if counts { lost } else { 0 };
            if self.losses >= *losses {
                self.step += 1;
                self.losses = 0;
                self.highest_rate = 0;
                return Some(next);
            }
        }
        // TCP inside may pause, as its own bbr does every ten seconds. If something is lost
        // meanwhile, bbr takes the little that was sent for all that the path carries. It would
        // need seconds to correct that, so it begins anew.
        self.highest_rate = self.highest_rate.max(path.rate);
        let collapsed = path.rate < self.highest_rate / COLLAPSE;
        if self.step == 1 || path.unsent == 0 || !collapsed {
            self.sound = self.checked;
        }
        if self.sound.elapsed() < COLLAPSED {
            return None;
        }
        self.highest_rate = 0;
        self.sound = self.checked;
        Some("bbr")
    }
}
