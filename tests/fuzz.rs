//! What must hold for any bytes: the fuzzers' properties, over their seeds, over all that ever
//! failed, and over a few thousand variants of both. No coverage guides this; `make fuzz` does
//! that. It shows that every property runs, and that none is broken in a way that a few seconds
//! find.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "../fuzz/properties.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::cast_possible_truncation,
    reason = "shared with the fuzzers"
)]
mod properties;

#[cfg(all(target_os = "linux", not(fernvpn_portable)))]
#[path = "../fuzz/server.rs"]
#[allow(unreachable_pub, missing_docs, reason = "shared with the fuzzers")]
mod server;

use properties::PROPERTIES;
use std::fs;
use std::path::Path;

/// Variants of the inputs, for each property.
const VARIANTS: usize = 30_000;

/// Streams of events for the server: each takes some milliseconds.
#[cfg(all(target_os = "linux", not(fernvpn_portable)))]
const STREAMS: usize = 300;

#[test]
fn every_property_holds_for_seeds_regressions_and_their_variants() {
    for (name, property) in PROPERTIES {
        holds(name, property, VARIANTS);
    }
}

#[cfg(all(target_os = "linux", not(fernvpn_portable)))]
#[test]
fn a_server_keeps_to_the_model_whatever_the_events() {
    holds("server", server::server, STREAMS);
}

fn holds(name: &str, property: fn(&[u8]), variants: usize) {
    let inputs: Vec<Vec<u8>> = ["seeds", "regressions"]
        .iter()
        .flat_map(|kind| inputs(kind, name))
        .collect();
    assert!(!inputs.is_empty(), "fuzz/seeds/{name}: no seed");
    inputs.iter().for_each(|input| property(input));
    property(b"");
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for _ in 0..variants {
        let mut input = inputs[numbers.below(inputs.len())].clone();
        for _ in 0..=numbers.below(4) {
            vary(&mut input, &inputs, &mut numbers);
        }
        property(&input);
    }
}

fn inputs(kind: &str, name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz")
        .join(kind)
        .join(name);
    let mut files: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|file| fs::read(file).unwrap())
        .collect()
}

/// One of the changes that fuzzers make.
fn vary(input: &mut Vec<u8>, others: &[Vec<u8>], numbers: &mut Numbers) {
    let at = numbers.below(input.len() + 1);
    let end = (at + numbers.below(16)).min(input.len());
    match numbers.below(6) {
        0 if at < input.len() => input[at] ^= 1 << numbers.below(8),
        1 if at < input.len() => input[at] = [0, 1, 4, 16, 40, 127, 128, 255][numbers.below(8)],
        2 => drop(input.drain(at..end)),
        3 => input.extend_from_within(at..end),
        4 => {
            let other = &others[numbers.below(others.len())];
            let from = numbers.below(other.len() + 1);
            input.splice(at..end, other[from..].iter().copied().take(64));
        }
        _ => input.truncate(at),
    }
}

/// Numbers that look random and are the same in every run (xorshift64*, Vigna 2016).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % limit.max(1)
    }
}
