//! What do many clients cost? A real server process, and clients of the protocol alone, all
//! connected at once.
//!
//! `make scale` takes ten thousand of them, and adds floods of strangers while real clients work.
#![cfg(all(target_os = "linux", not(fernvpn_portable)))]
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod loopback;

use fernvpn::os::process::raise_open_files;
use fernvpn::packet::icmp;
use fernvpn::tunnel::wire::network_config::NetworkConfig;
use loopback::*;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[test]
fn two_hundred_clients_at_once_and_each_pings() {
    let clients: usize = std::env::var("FERNVPN_SCALE").map_or(200, |text| text.parse().unwrap());
    raise_open_files(clients as u64 + 1024).unwrap();
    let mut keys = String::new();
    for n in 0..clients {
        writeln!(keys, "{} # client{n}", key(n).to_text()).unwrap();
    }
    // Until a client's turn comes it answers nothing; nobody is given up for that.
    let networks = ["--address", "10.8.0.1/16", "--address", "fd08::1/64"];
    let server = Process::serve(
        &keys,
        &[
            &networks[..],
            &["--max-clients", "65000", "--keepalive", "3600"],
        ]
        .concat(),
    );
    let (empty, threads) = server.resident_kib_and_threads();
    println!("{empty} KiB and {threads} threads with nobody there");

    let begun = Instant::now();
    let mut connected: Vec<_> = (0..clients)
        .map(|n| {
            RawHello::new(n, PLAIN)
                .ask(server.address)
                .finish()
                .unwrap()
        })
        .collect();
    let each_second = clients as f64 / begun.elapsed().as_secs_f64();
    println!(
        "{clients} clients connected one after the other in {:?}, {each_second:.0} a second",
        begun.elapsed()
    );
    println!("the kernel's sockets: {}", socket_memory());
    let report = |when: &str| {
        let (resident, threads) = server.resident_kib_and_threads();
        let each = resident.saturating_sub(empty) as f64 / clients as f64;
        println!("{resident} KiB and {threads} threads {when}: {each:.1} KiB for each client");
        each
    };
    report("when all are connected");
    if let Some((descriptors, mappings)) = server.descriptors_and_mappings() {
        println!("{descriptors} descriptors and {mappings} memory mappings");
        assert!(
            descriptors < clients + 64 && mappings < 4 * clients + 256,
            "one and four for each client"
        );
    }

    for round in 1..=3 {
        let begun = Instant::now();
        for (config, raw) in &mut connected {
            raw.send_packet(&ping(config.addresses[0].address, config.server[0], round));
        }
        for (config, raw) in &mut connected {
            let replies = raw.receive_packets();
            let echo = icmp::echo_reply(&replies[0]).unwrap();
            assert_eq!(
                (echo.destination, echo.sequence),
                (config.addresses[0].address, round)
            );
        }
        println!(
            "round {round}: every ping was answered, in {:?}",
            begun.elapsed()
        );
    }
    let each = report("after the pings");
    // Of a few clients each bears more of what all share.
    let most = if clients < 1000 { 200.0 } else { 48.0 };
    assert!(each < most, "{each} KiB for each client");
    // A tenth of them comes back at once, as after a cut; the others notice nothing.
    let storm = clients / 10;
    let address = server.address;
    let (storming, others) = connected.split_at_mut(storm);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for (quarter, places) in storming.chunks_mut(storm.div_ceil(4)).enumerate() {
            scope.spawn(move || {
                for (n, place) in (quarter * storm.div_ceil(4)..).zip(places) {
                    *place = RawHello::new(n, PLAIN).ask(address).finish().unwrap();
                }
            });
        }
        let (config, raw) = &mut others[0];
        let slowest = slowest_ping(config, raw, 50);
        println!("meanwhile the slowest of 50 pings of another client took {slowest:?}");
    });
    println!(
        "{storm} clients connected again in {:?}, {:.0} handshakes a second",
        begun.elapsed(),
        storm as f64 / begun.elapsed().as_secs_f64()
    );

    // All of them leave, and the server is as good as new.
    drop(connected);
    eventually("all threads have ended", || {
        server.resident_kib_and_threads().1 <= threads
    });
    report("when all have gone");
    let begun = Instant::now();
    raw_client(server.address, 0, PLAIN).says_hello();
    assert!(begun.elapsed() < Duration::from_secs(1));
}

/// The slowest of some pings, each awaited.
fn slowest_ping(config: &NetworkConfig, raw: &mut Raw, count: u16) -> Duration {
    let mut slowest = Duration::ZERO;
    for sequence in 0..count {
        let begun = Instant::now();
        raw.send_packet(&ping(
            config.addresses[0].address,
            config.server[0],
            sequence,
        ));
        let replies = raw.receive_packets();
        assert_eq!(icmp::echo_reply(&replies[0]).unwrap().sequence, sequence);
        slowest = slowest.max(begun.elapsed());
    }
    slowest
}

/// `TCP: inuse 410 orphan 0 tw 7 alloc 412 mem 31`: the last number is in pages.
fn socket_memory() -> String {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap();
    text.lines()
        .find(|line| line.starts_with("TCP:"))
        .unwrap()
        .to_owned()
}

/// Clients work while strangers do what they can, as fast as this machine lets them. No connection
/// is lost, a client with a key can connect meanwhile, and the test measures the clients' loss.
/// `FERNVPN_FLOOD` is the seconds for each flood, and then they may lose half of their throughput.
#[test]
fn floods_of_strangers_cost_clients_no_connection() {
    let seconds: Option<f64> = std::env::var("FERNVPN_FLOOD")
        .ok()
        .map(|text| text.parse().unwrap());
    let time = Duration::from_secs_f64(seconds.unwrap_or(0.3));
    raise_open_files(16_384).unwrap();
    let keys: String = (0..=CLIENTS)
        .map(|n| format!("{} # client{n}\n", key(n).to_text()))
        .collect();
    let server = Process::serve(&keys, &[]);
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|n| {
            RawHello::new(n, PLAIN)
                .ask(server.address)
                .finish()
                .unwrap()
        })
        .collect();
    let recorded = RawHello::new(CLIENTS, PLAIN);
    let recording = recorded.frame.clone();
    let _ = recorded.ask(server.address);
    let mut forged = recording.clone();
    *forged.last_mut().unwrap() ^= 1;
    let nobody = RawHello::new(99, PLAIN).frame;
    let floods: [(&str, &[u8], usize); 7] = [
        ("connections that say nothing and end", b"", 0),
        ("connections that say nothing and stay", b"", 300),
        ("slowloris, one byte each", b"\0", 300),
        ("garbage", &[0xff; 2000], 4),
        ("replays of a hello", &recording, 4),
        ("forged hellos of a known id", &forged, 4),
        ("hellos of an unknown key", &nobody, 4),
    ];
    for (name, bytes, held) in floods {
        let quiet = throughput(&mut clients, time, || true);
        let flood = Flood::begin(server.address.port(), bytes, held);
        let begun = Instant::now();
        // A client with a key can connect while the flood goes on. If the kernel's queue is full,
        // that takes some luck.
        let (came_in, address) = (OnceLock::new(), server.address);
        let rate = std::thread::scope(|scope| {
            scope.spawn(|| {
                raw_client(address, CLIENTS, PLAIN).says_hello();
                came_in.set(begun.elapsed()).unwrap();
            });
            throughput(&mut clients, time, || came_in.get().is_some())
        });
        let took = begun.elapsed();
        let (came_in, count) = (came_in.get().unwrap(), flood.end());
        let (each_second, kept) = (count as f64 / took.as_secs_f64(), rate / quiet);
        println!(
            "{name}: {each_second:.0} a second; clients go on with {rate:.0} of {quiet:.0} Mbit/s \
             ({:.0} %); \
             a newcomer took {came_in:?}",
            100.0 * kept
        );
        assert!(count > 100, "{name}: {count} is no flood");
        assert!(
            seconds.is_none() || kept > 0.5,
            "{name}: only {kept} of the throughput is left"
        );
    }
    for (_, raw) in &mut clients {
        raw.says_hello();
    }
}

/// Clients that work.
const CLIENTS: usize = 2;
/// Threads of the strangers.
const STRANGERS: usize = 16;

/// Mbit/s of echo requests and their answers: each client sends some, and awaits all answers, for
/// so long and until something is so.
fn throughput(
    clients: &mut [(NetworkConfig, Raw)],
    time: Duration,
    is_so: impl Fn() -> bool + Sync,
) -> f64 {
    let begun = Instant::now();
    let bits: usize = std::thread::scope(|scope| {
        let echo = |(config, raw): &mut (NetworkConfig, Raw)| {
            let request = ping_with(config.addresses[0].address, config.server[0], 1, &[0; 1400]);
            let mut bits = 0;
            while begun.elapsed() < time || !is_so() {
                (0..32).for_each(|_| raw.send_packet(&request));
                let mut answers = 0;
                while answers < 32 {
                    let packets = raw.receive_packets();
                    answers += packets.len();
                    bits += 16 * packets.iter().map(Vec::len).sum::<usize>();
                }
            }
            bits
        };
        let threads: Vec<_> = clients
            .iter_mut()
            .map(|client| scope.spawn(move || echo(client)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    bits as f64 / 1e6 / begun.elapsed().as_secs_f64()
}

/// Strangers, in a process of their own, with the server's priority and on its processors: in life
/// they have their own.
struct Flood(Child);

impl Flood {
    fn begin(port: u16, bytes: &[u8], held: usize) -> Flood {
        let bytes: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let strangers = Command::new(std::env::current_exe().unwrap())
            .args(["strangers", "--exact", "--nocapture"])
            .env("FERNVPN_STRANGERS", format!("{port} {held} {bytes}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut strangers = strangers.unwrap();
        let said = strangers.stdout.as_mut().unwrap();
        let mut line = Vec::new();
        while !line.ends_with(b"the flood has begun\n") {
            let mut byte = [0];
            said.read_exact(&mut byte).unwrap();
            line.extend(byte);
        }
        Flood(strangers)
    }

    /// How many there were.
    fn end(self) -> usize {
        let ended = self.0.wait_with_output().unwrap(); // which closes its standard input
        assert!(ended.status.success(), "a stranger got an answer");
        let said = String::from_utf8(ended.stdout).unwrap();
        said.lines()
            .find_map(|line| line.strip_prefix("strangers: "))
            .unwrap()
            .parse()
            .unwrap()
    }
}

/// What that process does; elsewhere there is nothing to do.
#[test]
fn strangers() {
    let Ok(told) = std::env::var("FERNVPN_STRANGERS") else {
        return;
    };
    let [port, held, bytes] = told.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let (port, held): (u16, usize) = (port.parse().unwrap(), held.parse().unwrap());
    let bytes: Vec<u8> = (0..bytes.len() / 2)
        .map(|at| u8::from_str_radix(&bytes[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    raise_open_files(16_384).unwrap();
    let (stop, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..STRANGERS)
            .map(|_| scope.spawn(|| flood(port, &bytes, held, &stop, &made)))
            .collect();
        eventually("a flood", || made.load(Ordering::Relaxed) > 100);
        println!("the flood has begun");
        let _ = std::io::stdin().read(&mut [0]);
        stop.store(true, Ordering::Relaxed);
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
    println!("\nstrangers: {}", made.load(Ordering::Relaxed));
}

/// Connects and sends, again and again, holds so many connections, and waits for nothing. Not one
/// byte of answer. Each time to another address of the loopback, so that ports do not run out.
fn flood(port: u16, bytes: &[u8], held: usize, stop: &AtomicBool, made: &AtomicUsize) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mut waiting = VecDeque::new();
    while !stop.load(Ordering::Relaxed) {
        let [_, b, c, d] = (1 + COUNT.fetch_add(1, Ordering::Relaxed) % 0x00ff_fffd).to_be_bytes();
        let address = SocketAddr::from(([127, b, c, d], port));
        // Where a queue of the kernel is full it tries again after a second; a flood does not wait
        // for that.
        let Ok(mut socket) = TcpStream::connect_timeout(&address, Duration::from_millis(2)) else {
            continue;
        };
        let _ = socket.write_all(bytes);
        socket.set_nonblocking(true).unwrap();
        waiting.push_back(socket);
        made.fetch_add(1, Ordering::Relaxed);
        if waiting.len() > held {
            let answered = waiting.pop_front().unwrap().read(&mut [0; 1]);
            assert!(!matches!(answered, Ok(1)), "a stranger got an answer");
        }
    }
}
