//! What do many clients cost? A real server process, and clients of the protocol alone, all connected at once.
//!
//! `make scale` takes ten thousand of them, and adds floods of strangers while real clients work.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod loopback;

use fernvpn::os::process::raise_open_files;
use fernvpn::packet::icmp;
use fernvpn::tunnel::config_record::NetworkConfig;
use loopback::*;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[test]
fn two_hundred_clients_at_once_and_each_pings() {
    let clients: usize = std::env::var("FERNVPN_SCALE").map_or(200, |text| text.parse().unwrap());
    raise_open_files(clients as u64 + 1024).unwrap();
    let mut keys = String::new();
    for n in 0..clients {
        writeln!(keys, "{} # client{n}", key(n).to_text()).unwrap();
    }
    let arguments = ["--address", "10.8.0.1/16", "--address", "fd08::1/64", "--max-clients", "65000"];
    let server = Process::serve(&keys, &arguments);
    let (empty, threads) = server.resident_kib_and_threads();
    println!("{empty} KiB and {threads} threads with nobody there");

    let begun = Instant::now();
    let mut connected: Vec<_> =
        (0..clients).map(|n| RawHello::new(n, PLAIN).ask(server.address).finish().unwrap()).collect();
    let each_second = clients as f64 / begun.elapsed().as_secs_f64();
    println!("{clients} clients connected one after the other in {:?}, {each_second:.0} a second", begun.elapsed());
    println!("{} memory mappings; the kernel's sockets: {}", server.mappings(), socket_memory());
    let report = |when: &str| {
        let (resident, threads) = server.resident_kib_and_threads();
        let each = resident.saturating_sub(empty) as f64 / clients as f64;
        println!("{resident} KiB and {threads} threads {when}: {each:.1} KiB for each client");
        each
    };
    report("when all are connected");
    if let Some((descriptors, mappings)) = server.descriptors_and_mappings() {
        println!("{descriptors} descriptors and {mappings} memory mappings");
        assert!(descriptors < clients + 64 && mappings < 4 * clients + 256, "one and four for each client");
    }

    for round in 1..=3 {
        let begun = Instant::now();
        for (config, raw) in &mut connected {
            raw.send_packet(&ping(config.addresses[0].address, config.server[0], round));
        }
        for (config, raw) in &mut connected {
            let replies = raw.receive_packets();
            let echo = icmp::echo_reply(&replies[0]).unwrap();
            assert_eq!((echo.destination, echo.sequence), (config.addresses[0].address, round));
        }
        println!("round {round}: every ping was answered, in {:?}", begun.elapsed());
    }
    let each = report("after the pings");
    assert!(each < 200.0, "{each} KiB for each client");
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
    eventually("all threads have ended", || server.resident_kib_and_threads().1 <= threads);
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
        raw.send_packet(&ping(config.addresses[0].address, config.server[0], sequence));
        let replies = raw.receive_packets();
        assert_eq!(icmp::echo_reply(&replies[0]).unwrap().sequence, sequence);
        slowest = slowest.max(begun.elapsed());
    }
    slowest
}

/// `TCP: inuse 410 orphan 0 tw 7 alloc 412 mem 31`: the last number is in pages.
fn socket_memory() -> String {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap();
    text.lines().find(|line| line.starts_with("TCP:")).unwrap().to_owned()
}

/// A real client works while strangers do what they can, at full speed, from two threads. It loses no connection, and
/// its rate is measured; `FERNVPN_FLOOD` is the seconds for each flood.
#[test]
fn floods_of_strangers_cost_a_client_no_connection() {
    let seconds = std::env::var("FERNVPN_FLOOD").map_or(0.3, |text| text.parse().unwrap());
    let time = Duration::from_secs_f64(seconds);
    raise_open_files(16_384).unwrap();
    let keys = format!("{} # client0\n{} # client1\n", key(0).to_text(), key(1).to_text());
    let server = Process::serve(&keys, &[]);
    let (config, mut raw) = RawHello::new(0, PLAIN).ask(server.address).finish().unwrap();
    let recorded = RawHello::new(1, PLAIN);
    let recording = recorded.frame.clone();
    let _ = recorded.ask(server.address);
    let mut forged = recording.clone();
    *forged.last_mut().unwrap() ^= 1;
    let nobody = RawHello::new(99, PLAIN).frame;
    let quiet = pings_a_second(&config, &mut raw, time);
    println!("{quiet:.0} pings a second with no flood");
    let floods: [(&str, &[u8]); 6] = [
        ("connections that say nothing", b""),
        ("slowloris, one byte each", b"\0"),
        ("garbage", &[0xff; 2000]),
        ("replays of a hello", &recording),
        ("forged hellos of a known id", &forged),
        ("hellos of an unknown key", &nobody),
    ];
    for (name, bytes) in floods {
        let stop = AtomicBool::new(false);
        let rate = std::thread::scope(|scope| {
            let flood = || flood(server.address, bytes, name.starts_with("slowloris"), &stop);
            let floods = [scope.spawn(flood), scope.spawn(flood)];
            let rate = pings_a_second(&config, &mut raw, time);
            // Whoever has a key comes in while the flood goes on.
            let begun = Instant::now();
            raw_client(server.address, 1, PLAIN).says_hello();
            let came_in = begun.elapsed();
            stop.store(true, Ordering::Relaxed);
            let count: usize = floods.into_iter().map(|flood| flood.join().unwrap()).sum();
            assert!(count > 10, "{name}: {count} is no flood");
            println!(
                "{rate:.0} pings a second ({:.0} %) under {count} {name}; a newcomer took {came_in:?}",
                100.0 * rate / quiet
            );
            rate
        });
        assert!(rate > 0.0);
    }
    raw.says_hello();
}

fn pings_a_second(config: &NetworkConfig, raw: &mut Raw, time: Duration) -> f64 {
    let begun = Instant::now();
    let mut count = 0u16;
    while begun.elapsed() < time || count == 0 {
        slowest_ping(config, raw, 1);
        count = count.saturating_add(1);
    }
    f64::from(count) / begun.elapsed().as_secs_f64()
}

/// Connects and sends, again and again, and waits for nothing. Not one byte of answer.
fn flood(server: SocketAddr, bytes: &[u8], keep: bool, stop: &AtomicBool) -> usize {
    let (mut count, mut held) = (0, VecDeque::new());
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut socket) = TcpStream::connect(server) else { continue };
        let _ = socket.write_all(bytes);
        socket.set_nonblocking(true).unwrap();
        held.push_back(socket);
        count += 1;
        if held.len() > if keep { 4000 } else { 16 } {
            let answered = held.pop_front().unwrap().read(&mut [0; 1]);
            assert!(!matches!(answered, Ok(1)), "a stranger got an answer");
        }
    }
    count
}
