//! How fast may the TCP connection send? Its socket options, and the choice of a congestion
//! control for its path.
//!
//! ```text
//!  short path   cubic, small buffers                       what waits, waits where flows take turns
//!  long path    bbr ── many losses, queue full ──> cubic ── losses, no queue ──> bbr, for good
//! ```
//!
//! A long path begins with bbr, which keeps its rate where cubic takes each loss for a full queue.
//! TCP inside the tunnel does not see these losses. But for bbr, TCP inside is an application that
//! never has enough to send. Then bbr never finds out how much the path carries, and fills its
//! queue again and again. There cubic is better.

use crate::config::settings::Congestion;
use crate::os::log;
use crate::os::socket::{self, Tuning};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// From this round trip on, a path counts as long.
const LONG_PATH: Duration = Duration::from_millis(5);
/// How long sent data may stay unacknowledged before the kernel gives the connection up.
const USER_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that a socket has taken and not sent, beyond which it takes no more. What waits there
/// cannot be passed by others.
const UNSENT: u32 = 128 * 1024;
/// The same on a short path.
const SHORT_UNSENT: u32 = 64 * 1024;
/// Bytes that a short path's receiver takes before it has passed them on: some super-packets. What
/// 10 Gbit/s bring in a round trip comes on top.
const WINDOW: u128 = 192 * 1024;
/// On a short path nothing is late that comes within this time. TCP's own least is 200 ms, for
/// which everybody in the tunnel would wait.
const RETRANSMIT: Duration = Duration::from_millis(25);
/// A round trip that is longer by half and by this than the shortest is explained by a queue.
const QUEUE_DELAY: Duration = Duration::from_millis(1);
/// How often a long path is looked at.
const CHECK_INTERVAL: Duration = Duration::from_millis(5);
/// How long after a queue a loss may still come from it.
const QUEUE_GONE: Duration = Duration::from_millis(500);
/// The congestion controls of a long path after its first, after how many losses, and whether
/// those with a queue.
const STEPS: [(&str, u32, bool); 2] = [("cubic", 64, true), ("bbr", 3, false)];
/// bbr has lost its idea of a path when its rate is this part of what it was.
const COLLAPSE: u64 = 16;
/// That has to last for so long, with too little sent for what waits.
const COLLAPSED: Duration = Duration::from_millis(100);

/// How the socket of a tunnel's connection is set up, at both ends.
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

/// Suits a connection to its path. `round_trip` is the handshake's, for systems that do not tell.
/// A long path gets a supervisor, unless the configuration chooses the congestion control.
pub fn tune_for_path(
    socket: &TcpStream,
    congestion: &Congestion,
    round_trip: Duration,
) -> Option<CongestionSupervisor> {
    let path = socket::path(socket);
    let round_trip = path.as_ref().map_or(round_trip, |path| path.shortest);
    let is_short = round_trip < LONG_PATH;
    if is_short {
        // What does not fit into a small window waits at the sender, where flows take turns.
        let tuning = Tuning {
            receive_buffer_bytes: u32::try_from(WINDOW + round_trip.as_nanos() * 5 / 4).ok(),
            notsent_lowat_bytes: Some(SHORT_UNSENT),
            retransmit: Some(RETRANSMIT),
            ..Tuning::default()
        };
        let _ = socket::prepare(socket, &tuning); // an older kernel does without
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

/// Sets the congestion control. What this system does not have or allow leaves its default in
/// place, with a warning if somebody wished for it.
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

/// What a long path has shown, and so which congestion control its connection should have.
pub struct CongestionSupervisor {
    checked: Instant,
    retransmitted: u32,
    /// When the round trip was last so long that a queue explains it.
    queued: Option<Instant>,
    /// How many of the [`STEPS`] are done.
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

    /// Looks at the path, if it is time, and changes the congestion control if that is due.
    pub fn check(&mut self, socket: &TcpStream) {
        if self.checked.elapsed() < CHECK_INTERVAL {
            return;
        }
        if let Ok(path) = socket::path(socket)
            && let Some(name) = self.next_control(&path)
        {
            // bbr begins anew only if it comes after another one.
            set_control(socket, "cubic", false);
            set_control(socket, name, false);
        }
    }

    /// The congestion control to begin with now, if it is time for one.
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
        // When TCP inside pauses, as its own bbr does every ten seconds, and something is lost
        // meanwhile, bbr takes the little that was sent for all that the path carries. It would
        // need seconds to find out, so it begins anew.
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
