//! Does every refusal of the core say what was wrong? For logs, `inspect` and `capture`: in words
//! of its own.

use fernvpn::fernet::Refusal;
use fernvpn::fernet::base64url::Malformed;
use fernvpn::fernet::key::KeyError;
use fernvpn::protocol::fields::FieldError;
use fernvpn::protocol::frame::BadLength;
use fernvpn::protocol::handshake::Refused;
use fernvpn::protocol::limits::MAX_BODY;
use fernvpn::protocol::record::{self, CannotSeal, Suite};
use std::collections::HashSet;
use std::fmt::Display;

#[test]
fn every_reason_has_words_of_its_own() {
    let text = Refusal::Text(Malformed::Length);
    let fernet: [&dyn Display; 13] = [
        &Malformed::Character(7),
        &Malformed::Length,
        &Malformed::TrailingBits,
        &KeyError::Text(Malformed::Length),
        &KeyError::Length(31),
        &Refusal::Version(Some(0x81)),
        &Refusal::Version(None),
        &Refusal::Length(56),
        &Refusal::Mac,
        &Refusal::Expired,
        &Refusal::Future,
        &Refusal::Padding,
        &Refusal::Text(Malformed::Character(8)),
    ];
    let protocol: [&dyn Display; 18] = [
        &FieldError::Form,
        &FieldError::Twice("nonce".into()),
        &FieldError::Missing("nonce"),
        &FieldError::Value("nonce"),
        &BadLength {
            length: 0,
            limit: 1024,
        },
        &Refused::Length(9),
        &Refused::Id,
        &Refused::Token(Refusal::Mac),
        &Refused::Field(FieldError::Form),
        &Refused::Role("server".into()),
        &Refused::Version("9".into()),
        &Refused::Echo,
        &Refused::NotOffered("aes".into()),
        &Refused::Ratchet,
        &Refused::ByServer("it is full".into()),
        &record::Refused::Tag,
        &record::Refused::Token(text),
        &CannotSeal,
    ];
    let record: [&dyn Display; 5] = [
        &Refused::Record(record::Refused::Limit),
        &record::Refused::Counter { due: 4, found: 3 },
        &record::Refused::Length(70_000),
        &record::Refused::Type(99),
        &record::Refused::Limit,
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
        (Suite::Aes256Gcm.max_body(), Suite::Fernet.max_body()),
        (65_569, 87_500)
    );
}
