//! `tokens seal|open|bound BYTES`: calls per second of fernvpn's own tokens, for tokens.py; `bound`
//! is AES-128-CBC and then HMAC-SHA256 over the message, which a token cannot do without.
#![allow(missing_docs, clippy::unwrap_used)]

use aes_gcm::aes::Aes128;
use fernvpn::fernet::token::{self, Fernet};
use fernvpn::fernet::{Key, cbc};
use fernvpn::os::{clock, entropy};
use hmac::{Hmac, KeyInit, Mac};
use std::hint::black_box;
use std::time::{Duration, Instant};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let keys = [Fernet::new(&Key::from_bytes(&entropy::array()))];
    let message = vec![3; arguments[2].parse().unwrap()];
    let seal = |message: &[u8]| keys[0].seal(message, clock::unix_seconds(), entropy::array());
    let token = seal(&message);
    let aes = Aes128::new(&[1; 16].into());
    let mac = Hmac::<sha2::Sha256>::new_from_slice(&[1; 16]).unwrap();
    let mut blocks = vec![0; cbc::encrypted_len(message.len())];
    let start = Instant::now();
    let mut calls = 0;
    while start.elapsed() < Duration::from_millis(200) {
        match arguments[1].as_str() {
            "seal" => drop(black_box(seal(black_box(&message)))),
            "open" => drop(black_box(
                token::open(&keys, &mut token.clone(), None)
                    .unwrap()
                    .message,
            )),
            _ => {
                cbc::encrypt(&aes, [7; 16], black_box(&mut blocks), message.len());
                black_box(mac.clone().chain_update(&blocks).finalize());
            }
        }
        calls += 1;
    }
    println!("{}", f64::from(calls) / start.elapsed().as_secs_f64());
}
