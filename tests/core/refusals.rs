//! Does every refusal of the core say what was wrong? For logs, `inspect` and `capture`: in words
//! of its own.

use fernvpn::fernet::TokenError;
use fernvpn::fernet::base64url::Base64Error;
use fernvpn::fernet::key::KeyError;
use fernvpn::protocol::fields::FieldError;
use fernvpn::protocol::frame::BadLength;
use fernvpn::protocol::handshake::HandshakeError;
use fernvpn::protocol::limits::MAX_BODY;
use fernvpn::protocol::record::{RecordError, RecordType, SealError, Suite};
use std::collections::HashSet;
use std::fmt::Display;

#[test]
fn every_reason_has_words_of_its_own() {
    let text = TokenError::Text(Base64Error::Length);
    let fernet: [&dyn Display; 13] = [
        &Base64Error::Character(7),
        &Base64Error::Length,
        &Base64Error::TrailingBits,
        &KeyError::Text(Base64Error::Length),
        &KeyError::Length(31),
        &TokenError::Version(Some(0x81)),
        &TokenError::Version(None),
        &TokenError::Length(56),
        &TokenError::Mac,
        &TokenError::Expired,
        &TokenError::Future,
        &TokenError::Padding,
        &TokenError::Text(Base64Error::Character(8)),
    ];
    let protocol: [&dyn Display; 20] = [
        &FieldError::Form,
        &FieldError::Twice("nonce".into()),
        &FieldError::Missing("nonce"),
        &FieldError::Value("nonce"),
        &BadLength {
            length: 0,
            limit: 1024,
        },
        &HandshakeError::Length(9),
        &HandshakeError::Id,
        &HandshakeError::Token(TokenError::Mac),
        &HandshakeError::Field(FieldError::Form),
        &HandshakeError::Role("server".into()),
        &HandshakeError::Version("9".into()),
        &HandshakeError::Echo,
        &HandshakeError::NotOffered("aes".into()),
        &HandshakeError::Ratchet,
        &HandshakeError::ByServer("it is full".into()),
        &RecordError::Tag,
        &RecordError::Token(text),
        &SealError::Limit,
        &SealError::Length(70_000),
        &SealError::Type(RecordType::Config),
    ];
    let record: [&dyn Display; 5] = [
        &HandshakeError::Record(RecordError::Limit),
        &RecordError::Counter { due: 4, found: 3 },
        &RecordError::Length(70_000),
        &RecordError::Type(99),
        &RecordError::Limit,
    ];
    let mut seen = HashSet::new();
    for reason in fernet.iter().chain(&protocol).chain(&record[1..]) {
        let words = reason.to_string();
        assert!(words.len() > 4 && !words.contains('\n'), "{words:?}");
        assert!(seen.insert(words.clone()), "{words:?} twice");
    }
    assert_eq!(
        record[0].to_string(),
        record[4].to_string(),
        "a record's refusal is what it is in a handshake too"
    );
}

/// PROTOCOL.md, section 3.
#[test]
fn the_longest_bodies_are_those_of_the_specification() {
    assert_eq!(MAX_BODY, 87_500);
    assert_eq!(
        (Suite::AES_256_GCM.max_body(), Suite::FERNET.max_body()),
        (65_569, 87_500)
    );
}

/// Each statement of PROTOCOL.md has a number: that of its section, and one of its own.
#[test]
fn every_number_in_the_specification_stands_once_in_its_section() {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/PROTOCOL.md"));
    let mut section = "";
    let mut numbers = HashSet::new();
    for line in text.lines().skip_while(|line| !line.starts_with("## ")) {
        if let Some(heading) = line.strip_prefix("## ").or(line.strip_prefix("### ")) {
            section = heading
                .split(' ')
                .next()
                .unwrap_or("")
                .trim_end_matches('.');
        }
        for (at, _) in line.match_indices('[') {
            let inside = line[at + 1..].split(']').next().unwrap_or("");
            let Some((of, number)) = inside.split_once('-') else {
                continue;
            };
            if number.parse::<u32>().is_ok() && !of.is_empty() {
                assert_eq!(of, section, "[{inside}] stands in another section");
                assert!(numbers.insert(inside), "[{inside}] stands twice");
            }
        }
    }
    assert!(numbers.len() > 150, "{} statements", numbers.len());
}
