//! Does fernvpn agree with the public specification? Its three files of vectors, each refusal with
//! its reason.

use fernvpn::fernet::Key;
use fernvpn::fernet::base64url::Base64Error;
use fernvpn::fernet::token::{self, Age, Fernet, TokenError};
use serde_json::Value;

fn vectors(json: &str) -> Vec<Value> {
    serde_json::from_str(json).expect("the vectors are a list")
}

fn text<'a>(vector: &'a Value, name: &str) -> &'a str {
    vector[name].as_str().expect("a text")
}

fn fernet(vector: &Value) -> Fernet {
    Fernet::new(&Key::parse(text(vector, "secret")).expect("a key"))
}

/// The vectors' times are all on one morning: `1985-10-26T01:2m:ss-07:00`, and 01:20:00 there is
/// 499162800.
fn now(vector: &Value) -> u64 {
    let clock = text(vector, "now")
        .strip_prefix("1985-10-26T01:")
        .and_then(|rest| rest.strip_suffix("-07:00"));
    let (minute, second) = clock
        .and_then(|c| c.split_once(':'))
        .expect("minute:second");
    let number = |digits: &str| digits.parse::<u64>().expect("a number");
    499_162_800 + (number(minute) - 20) * 60 + number(second)
}

fn age(vector: &Value) -> Option<Age> {
    Some(Age {
        now: now(vector),
        ttl: vector["ttl_sec"].as_u64().expect("seconds"),
    })
}

#[test]
fn generate() {
    let vectors = vectors(include_str!("../vectors/fernet/generate.json"));
    assert_eq!(vectors.len(), 1);
    for vector in &vectors {
        let iv: Vec<u8> = serde_json::from_value(vector["iv"].clone()).expect("bytes");
        let iv = iv.try_into().expect("16 bytes");
        let token = fernet(vector).seal(text(vector, "src").as_bytes(), now(vector), iv);
        assert_eq!(String::from_utf8_lossy(&token), text(vector, "token"));
    }
}

#[test]
fn verify() {
    let vectors = vectors(include_str!("../vectors/fernet/verify.json"));
    assert_eq!(vectors.len(), 1);
    for vector in &vectors {
        let mut token = text(vector, "token").as_bytes().to_vec();
        let opened = token::open(&[fernet(vector)], &mut token, age(vector)).expect("a good token");
        assert_eq!(opened.message, text(vector, "src").as_bytes());
        assert_eq!(opened.time, 499_162_800);
    }
}

#[test]
fn invalid() {
    let vectors = vectors(include_str!("../vectors/fernet/invalid.json"));
    let expected = [
        ("incorrect mac", TokenError::Mac),
        ("too short", TokenError::Length(40)),
        (
            "invalid base64",
            TokenError::Text(Base64Error::Character(0)),
        ),
        (
            "payload size not multiple of block size",
            TokenError::Length(72),
        ),
        ("payload padding error", TokenError::Padding),
        (
            "far-future TS (unacceptable clock skew)",
            TokenError::Future,
        ),
        ("expired TTL", TokenError::Expired),
        ("incorrect IV (causes padding error)", TokenError::Padding),
    ];
    assert_eq!(vectors.len(), expected.len());
    for (vector, (name, refusal)) in vectors.iter().zip(expected) {
        assert_eq!(text(vector, "desc"), name);
        let mut token = text(vector, "token").as_bytes().to_vec();
        assert_eq!(
            token::open(&[fernet(vector)], &mut token, age(vector)),
            Err(refusal),
            "{name}"
        );
    }
}
