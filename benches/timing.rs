//! Does the time to refuse a forgery depend on where it is wrong? This uses dudect's method
//! (Reparaz, Balasch and Verbauwhede, "Dude, is my code constant time?", 2017). Two classes of
//! input come in random order, and Welch's t-test compares their times.
//!
//! |t| above 4.5 is a reason to look, above 10 a leak. A comparison that stops at the first
//! difference is measured in the same way, and must be found. Otherwise this machine is too noisy
//! for any result.
//!
//! `TIMING_SAMPLES` is the number of measurements for each question.

use fernvpn::fernet::{Fernet, Key, token};
use fernvpn::protocol::frame;
use fernvpn::protocol::handshake::{
    AwaitFinished, Capabilities, ClientHello, FreshHello, Offer, client_hello,
};
use fernvpn::protocol::key_schedule::Root;
use fernvpn::protocol::record::{Fresh, HEADROOM, Opener, RecordType, Sealer, Suite};
use std::convert::Infallible;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

/// A leak, beyond doubt.
const LEAK: f64 = 10.0;

fn main() -> ExitCode {
    let samples =
        std::env::var("TIMING_SAMPLES").map_or(400_000, |text| text.parse().expect("a number"));
    println!("{samples} measurements each; |t| < 4.5: nothing found, > {LEAK}: a leak\n");
    let mut sound = true;
    let mut ask = |what: &str, leaks: bool, t: f64| {
        let right = (t.abs() > LEAK) == leaks;
        sound &= right;
        println!(
            "{:6} t = {t:+9.2}  {what}",
            if right { "ok" } else { "WRONG" }
        );
    };

    let key = Fernet::new(&Key::from_bytes(&[1; 32]));
    let text = key.seal(&[7; 200], 9, [3; 16]);
    let of = |raw: &[u8]| {
        let mut text = vec![0; text.len()];
        let start = text.len() - raw.len();
        text[start..].copy_from_slice(raw);
        fernvpn::fernet::base64url::encode_in_place(&mut text, raw.len());
        text
    };
    let mut raw = text.clone();
    let length = fernvpn::fernet::base64url::decode_in_place(&mut raw).expect("a token");
    let start = raw
        .windows(9)
        .position(|part| part == [0x80, 0, 0, 0, 0, 0, 0, 0, 9])
        .expect("its first bytes");
    let raw = raw[start..start + length].to_vec();
    let with = |at: usize| {
        let mut raw = raw.clone();
        raw[at] ^= 1;
        of(&raw)
    };
    let keys = std::slice::from_ref(&key);
    let open = |text: &mut Vec<u8>| token::open(keys, text, None).is_err();
    let (first, last) = (length - 32, length - 1);
    ask(
        "token: first or last byte of the HMAC wrong",
        false,
        welch(samples, [with(first), with(last)], open),
    );
    ask(
        "token: first or last block wrong, one of which is the padding",
        false,
        welch(samples, [with(25), with(first - 1)], open),
    );

    for suite in Suite::ALL {
        let (mut sealer, opener) = session(suite);
        let mut frame = vec![0; suite.frame_len(200)];
        frame[HEADROOM..HEADROOM + 200].fill(7);
        sealer
            .seal(RecordType::Message, &mut frame, 200, &mut fresh)
            .expect("room");
        let body = frame[frame::HEADER..].to_vec();
        let with = |back: usize| {
            let mut body = body.clone();
            let at = body.len() - back;
            // A letter stays a letter, so that in text the HMAC is what is wrong.
            body[at] = if suite == Suite::AES_256_GCM {
                body[at] ^ 1
            } else if body[at] == b'A' {
                b'B'
            } else {
                b'A'
            };
            body
        };
        let (early, late) = if suite == Suite::AES_256_GCM {
            (16, 1)
        } else {
            (40, 6)
        };
        let mut opener = opener;
        let open = |body: &mut Vec<u8>| opener.open(body).is_err();
        ask(
            &format!("record, {suite}: tag wrong early or late"),
            false,
            welch(samples, [with(early), with(late)], open),
        );
    }

    let secret = [5u8; 32];
    let with = |at: usize| {
        let mut tag = secret.to_vec();
        tag[at] ^= 1;
        tag
    };
    let planted = |tag: &mut Vec<u8>| {
        // Sixteen times, so that one measurement is longer than the clock's step.
        (0..16).all(|_| {
            black_box(&secret)
                .iter()
                .zip(black_box(&*tag))
                .any(|(one, other)| black_box(one) != other)
        })
    };
    ask(
        "planted: a comparison that stops at the first difference",
        true,
        welch(samples, [with(0), with(31)], planted),
    );
    if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Welch's t of the times of two classes, the slowest tenth of all left out: interrupts, and
/// nothing of the classes.
fn welch(samples: usize, classes: [Vec<u8>; 2], mut act: impl FnMut(&mut Vec<u8>) -> bool) -> f64 {
    let mut times: [Vec<f64>; 2] = [Vec::with_capacity(samples), Vec::with_capacity(samples)];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut input = classes[0].clone();
    for round in 0..samples + 1000 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let class = usize::from(random & 1 << 20 != 0);
        input.copy_from_slice(&classes[class]); // the same buffer for both
        let begun = Instant::now();
        let refused = act(black_box(&mut input));
        let took = begun.elapsed();
        assert!(black_box(refused), "a forgery was accepted");
        if round >= 1000 {
            times[class].push(took.as_secs_f64() * 1e9);
        }
    }
    let mut all = times.concat();
    all.sort_by(f64::total_cmp);
    let limit = all[all.len() * 9 / 10];
    let [(n0, mean0, var0), (n1, mean1, var1)] = times.map(|mut times| {
        times.retain(|time| *time <= limit);
        let n = times.len() as f64;
        let mean = times.iter().sum::<f64>() / n;
        (
            n,
            mean,
            times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (n - 1.0),
        )
    });
    (mean0 - mean1) / (var0 / n0 + var1 / n1).sqrt()
}

fn fresh() -> Fresh {
    Fresh {
        time: 9,
        iv: [9; 16],
    }
}

/// The client's sending half of a session, and the server's receiving half.
fn session(suite: Suite) -> (Sealer, Opener) {
    let root = Root::new(Key::from_bytes(&[7; 32]));
    let offer = Offer {
        suites: vec![suite],
        capabilities: Capabilities::default(),
        software: String::new(),
    };
    let hello = FreshHello {
        nonce: [1; 32],
        token: fresh(),
    };
    let (hello_frame, next) = client_hello(&root, None, offer.clone(), hello);
    let received =
        ClientHello::receive(&root, &hello_frame[frame::HEADER..], None).expect("a hello");
    let (answer, await_finished) = received.answer(&offer, None, hello);
    let await_finished: AwaitFinished = await_finished.expect("an answer");
    let agreed = next.receive(&answer[frame::HEADER..]).expect("an answer");
    let Ok((mut finished, next)) = agreed.finish(|_| Ok::<(), Infallible>(()), &mut fresh);
    let ready = await_finished
        .receive(&mut finished[frame::HEADER..])
        .expect("Finished");
    let (mut config, _, opener) = ready.configure(b"", &mut fresh).expect("Config");
    let (_, sealer, _) = next.receive(&mut config[frame::HEADER..]).expect("Config");
    (sealer, opener)
}
