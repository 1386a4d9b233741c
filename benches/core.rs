//! How fast is the trusted core? `make bench`.
//!
//! One thread, warm cache. Each figure is the median of five runs of about a tenth of a second,
//! with the spread between the slowest and the fastest. The bound is the cost of AES-128-CBC and
//! HMAC-SHA256, one after the other, on this machine in the same minute. Only code that does both
//! at once could make a token faster.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation
)]

use fernvpn::config::settings::{Peer, ServerSettings};
use fernvpn::fernet::token::{self, Fernet};
use fernvpn::fernet::{Key, cbc};
use fernvpn::protocol::handshake::{Capabilities, ClientHello, FreshHello, Offer, client_hello};
use fernvpn::protocol::key_schedule::Root;
use fernvpn::protocol::record::{Fresh, HEADROOM, Opener, RecordType, Sealer, Suite};
use fernvpn::tunnel::peers::registry::Clients;
use std::convert::Infallible;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

const RUN: Duration = Duration::from_millis(100);

/// Seconds for one call: the median, the fastest and the slowest of five runs.
fn time(mut call: impl FnMut()) -> [f64; 3] {
    let start = Instant::now();
    let mut calls = 0u32;
    while start.elapsed() < RUN / 2 {
        call();
        calls += 1;
    }
    let calls = calls * 2;
    let mut runs: Vec<f64> = (0..5)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..calls {
                call();
            }
            start.elapsed().as_secs_f64() / f64::from(calls)
        })
        .collect();
    runs.sort_by(f64::total_cmp);
    [runs[2], runs[0], runs[4]]
}

fn row(name: &str, bytes: usize, [median, fastest, slowest]: [f64; 3], note: &str) -> f64 {
    let spread = (slowest - fastest) / median * 100.0;
    let rate = if bytes > 0 {
        format!("{:9.0} MB/s", bytes as f64 / median / 1e6)
    } else {
        String::new()
    };
    println!(
        "{name:<28} {bytes:>8} {:>12.0} /s {rate:>14}  ±{spread:>3.0} %  {note}",
        1.0 / median
    );
    median
}

fn main() {
    println!(
        "{:<28} {:>8} {:>15} {:>14}",
        "what", "bytes", "times", "rate"
    );
    tokens();
    records();
    others();
}

fn fresh() -> Fresh {
    Fresh {
        time: 1_700_000_000,
        iv: [7; 16],
    }
}

fn tokens() {
    use aes_gcm::aes::Aes128;
    use hmac::{Hmac, KeyInit, Mac};
    let fernet = Fernet::new(&Key::from_bytes(&[1; 32]));
    let keys = [fernet.clone()];
    let aes = Aes128::new(&[1; 16].into());
    let mac = Hmac::<sha2::Sha256>::new_from_slice(&[1; 16]).unwrap();
    for n in [64, 1024, 16 << 10, 64 << 10, 1 << 20] {
        let message = vec![3; n];
        let mut blocks = vec![0; cbc::encrypted_len(n)];
        let bound_seal = row(
            "bound: CBC encrypt, HMAC",
            n,
            time(|| {
                cbc::encrypt(&aes, [7; 16], black_box(&mut blocks), n);
                black_box(mac.clone().chain_update(&blocks).finalize());
            }),
            "",
        );
        let mut text = vec![0; token::sealed_len(n)];
        let start = token::message_start(n);
        let seal = time(|| {
            text[start..start + n].copy_from_slice(black_box(&message));
            fernet.seal_in_place(&mut text, n, 1_700_000_000, [7; 16]);
        });
        let note = format!("{:.2} of the bound", bound_seal / seal[0]);
        row("Fernet seal", n, seal, &note);
        let token = text.clone();
        let open = time(|| {
            text.copy_from_slice(black_box(&token));
            black_box(token::open(&keys, &mut text, None).unwrap());
        });
        row("Fernet open", n, open, "");
    }
}

/// A session between two ends in this thread.
fn session(suite: Suite) -> (Sealer, Opener) {
    let root = Root::new(Key::from_bytes(&[1; 32]));
    let offer = || Offer {
        suites: vec![suite],
        capabilities: Capabilities::default(),
        software: "bench".into(),
    };
    let hello = FreshHello {
        nonce: [1; 32],
        token: fresh(),
    };
    let (frame, client) = client_hello(&root, None, offer(), hello);
    let received = ClientHello::receive(&root, &frame[4..], None).unwrap();
    let (frame, server) = received.answer(&offer(), None, hello);
    let (mut finished, client) = client
        .receive(&frame[4..])
        .unwrap()
        .finish(|_| Ok::<(), Infallible>(()), &mut fresh)
        .unwrap();
    let (mut config, _, opener) = server
        .unwrap()
        .receive(&mut finished[4..])
        .unwrap()
        .configure(b"", &mut fresh)
        .unwrap();
    let (_, sealer, _) = client.receive(&mut config[4..]).unwrap();
    (sealer, opener)
}

fn records() {
    for suite in Suite::ALL {
        for n in [64, 1400, 16 << 10, 65_000] {
            let (mut sealer, mut opener) = session(suite);
            let mut frame = vec![0; suite.frame_len(n)];
            let seal = time(|| {
                if sealer.rekey_is_due() {
                    sealer.rekey(&mut fresh).unwrap();
                }
                sealer
                    .seal(RecordType::Packets, black_box(&mut frame), n, &mut fresh)
                    .unwrap();
            });
            row(&format!("record seal, {suite}"), n, seal, "");
            // Opening needs a new record each time, so both are timed and the sealing is taken off.
            let (mut sealer, _) = session(suite);
            let both = time(|| {
                if sealer.rekey_is_due() {
                    opener
                        .open(&mut sealer.rekey(&mut fresh).unwrap()[4..])
                        .unwrap();
                }
                frame[HEADROOM] = 0;
                sealer
                    .seal(RecordType::Packets, &mut frame, n, &mut fresh)
                    .unwrap();
                black_box(opener.open(&mut frame[4..]).unwrap());
            });
            row(&format!("record seal and open, {suite}"), n, both, "");
        }
    }
}

fn others() {
    row(
        "handshake, both ends",
        0,
        time(|| drop(black_box(session(Suite::AES_256_GCM)))),
        "",
    );
    let peer = |i: u32| Peer {
        name: format!("client{i}"),
        keys: vec![Key::from_bytes(
            &[&i.to_be_bytes()[..], &[0; 28]]
                .concat()
                .try_into()
                .unwrap(),
        )],
        addresses: vec![IpAddr::V4(Ipv4Addr::from_bits(0x0a08_0100 + i))],
        routes: vec![],
        allow: None,
        ratchet: None,
    };
    let mut settings = ServerSettings {
        peers: (0..1000).map(peer).collect(),
        ..ServerSettings::default()
    };
    settings.addresses = vec!["10.8.0.1/16".parse().unwrap()];
    let clients = Clients::new(None, &settings).unwrap();
    let mut i = 0u32;
    let look = time(|| {
        i = (i + 1) % 1000;
        black_box(
            clients
                .owner(IpAddr::V4(Ipv4Addr::from_bits(0x0a08_0100 + i)))
                .unwrap(),
        );
    });
    row("router, 1000 clients", 0, look, "");
}
