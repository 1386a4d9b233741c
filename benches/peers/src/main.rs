//! `peers seal|open BYTES`: calls per second of the `fernet` crate, for tokens.py.

use std::hint::black_box;
use std::time::{Duration, Instant};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let fernet = fernet::Fernet::new(&fernet::Fernet::generate_key()).unwrap();
    let message = vec![3; arguments[2].parse().unwrap()];
    let token = fernet.encrypt(&message);
    let start = Instant::now();
    let mut calls = 0;
    while start.elapsed() < Duration::from_millis(200) {
        match arguments[1].as_str() {
            "seal" => drop(black_box(fernet.encrypt(black_box(&message)))),
            _ => drop(black_box(fernet.decrypt(black_box(&token)).unwrap())),
        }
        calls += 1;
    }
    println!("{}", f64::from(calls) / start.elapsed().as_secs_f64());
}
