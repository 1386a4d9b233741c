//! A path across the world in one process: holds packets back, loses some, and lets no more through
//! than it carries. For `make bench-tunnel`: `path DEVICE_A DEVICE_B ROUND_TRIP_MS LOSS_PERCENT
//! [MBIT_PER_S QUEUE_BYTES]`.
//!
//! ```text
//!  device A ─> lost? ─> fits into the queue? ─> due half a round trip after it left that ─> B
//! ```
//!
//! Both are TUN devices without offload; `ip link set DEVICE netns NAME` puts each where it
//! belongs. A fixed sequence of numbers decides which packets are lost.
#![allow(missing_docs, clippy::unwrap_used)]

use fernvpn::os::tun::Tun;
use fernvpn::os::wake::Wake;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::thread;
use std::time::{Duration, Instant};

/// How exactly a packet leaves when it is due.
const EXACT: Duration = Duration::from_micros(150);

#[derive(Clone, Copy)]
struct Path {
    delay: Duration,
    lost_of_10000: u64,
    /// Bytes a second, and bytes that wait for it.
    bottleneck: (f64, f64),
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).map(|text| text.parse::<f64>().unwrap());
    let path = Path {
        delay: Duration::from_secs_f64(number(2).unwrap() / 2e3),
        lost_of_10000: (0..10_000)
            .filter(|n| f64::from(*n) < number(3).unwrap() * 100.0)
            .count() as u64,
        bottleneck: (
            number(4).map_or(f64::MAX, |mbit| mbit * 1e6 / 8.0),
            number(5).unwrap_or(0.0),
        ),
    };
    let [a, b] = [0, 1].map(|at: usize| Tun::create(&arguments[at], false).unwrap());
    println!("ready");
    thread::scope(|scope| {
        scope.spawn(|| carry(&a, &b, path, 1));
        scope.spawn(|| carry(&b, &a, path, 2));
    });
}

fn carry(from: &Tun, to: &Tun, path: Path, seed: u64) {
    let (wake, mut random) = (Wake::new().unwrap(), seed);
    let mut on_the_way: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut spare: Vec<Vec<u8>> = Vec::new();
    let mut buffer = vec![0; 65_535];
    let mut free_at = Instant::now();
    loop {
        let read = from.read_now(&mut buffer);
        let now = Instant::now();
        if let Ok(length) = read {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let lost = (random >> 33) % 10_000 < path.lost_of_10000;
            let (rate, queue) = path.bottleneck;
            let begins = free_at.max(now);
            if !lost && (begins - now).as_secs_f64() * rate <= queue {
                free_at = begins + Duration::from_secs_f64(length as f64 / rate);
                let mut packet = spare.pop().unwrap_or_default();
                packet.clear();
                packet.extend_from_slice(&buffer[..length]);
                on_the_way.push_back((free_at + path.delay, packet));
            }
        }
        while on_the_way.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, packet)) = on_the_way.pop_front() else {
                break;
            };
            let _ = to.write(&[IoSlice::new(&packet)]);
            spare.push(packet);
        }
        if read.is_err() {
            match on_the_way.front() {
                Some((due, _)) => {
                    thread::sleep(due.saturating_duration_since(Instant::now()).min(EXACT))
                }
                None => drop(from.wait(&wake, None, None).unwrap()),
            }
        }
    }
}
