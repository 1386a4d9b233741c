//! What do many clients cost? A real server process, and clients of the protocol alone, all connected at once.
//!
//! `FERNVPN_SCALE=2000 cargo test --release --test scale -- --nocapture` takes another number.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod loopback;

use fernvpn::os::process::raise_open_files;
use fernvpn::packet::icmp;
use loopback::*;
use std::fmt::Write as _;
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
    println!("{clients} clients connected in {:?}", begun.elapsed());
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
    // All of them leave, and the server is as good as new.
    drop(connected);
    eventually("all threads have ended", || server.resident_kib_and_threads().1 <= threads);
    report("when all have gone");
    let begun = Instant::now();
    raw_client(server.address, 0, PLAIN).says_hello();
    assert!(begun.elapsed() < Duration::from_secs(1));
}
