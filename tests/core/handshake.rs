//! Who can take part in a handshake, and what happens to everybody else? PROTOCOL.md section 4.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::common;
use common::{
    KEY, SECRET, STEP, TIME, begin, body, counting, fresh_hello, offer, root, seal, session, state,
    taken,
};
use fernvpn::fernet::{Age, Key, TokenError};
use fernvpn::protocol::fields::{FieldError, Fields};
use fernvpn::protocol::handshake::{
    Agreed, AwaitFinished, Capabilities, ClientHello, HandshakeError, client_id,
};
use fernvpn::protocol::key_schedule::Root;
use fernvpn::protocol::limits::MAX_HELLO;
use fernvpn::protocol::record::{Form, RecordError, RecordType, Suite};

const NONCE: &str = "0101010101010101010101010101010101010101010101010101010101010101";

/// A ClientHello's body around any text, sealed with the right key.
fn client_body(text: &str) -> Vec<u8> {
    [&root().id()[..], &server_body(text)].concat()
}

/// A ServerHello's body around any text, sealed with the right key.
fn server_body(text: &str) -> Vec<u8> {
    root().hello().seal(text.as_bytes(), TIME, [4; 16])
}

/// What the server says to a ClientHello with this text.
fn server_says(text: &str) -> HandshakeError {
    ClientHello::receive(&root(), &client_body(text), None)
        .map(|_| ())
        .expect_err(text)
}

/// What a client with this step says to a ServerHello with this text. Its nonce is 01…01.
fn client_says(step: Option<u64>, text: &str) -> Result<Agreed, HandshakeError> {
    begin(step, offer(&[Suite::FERNET]), 1)
        .1
        .receive(&server_body(text))
}

fn client_text() -> String {
    format!("versions=1\nrole=client\nnonce={NONCE}\nsuites=fernet\n")
}

fn server_text() -> String {
    format!("version=1\nrole=server\nclient-nonce={NONCE}\nnonce={NONCE}\nsuite=fernet\n")
}

/// `text` without the line that begins with `name`.
fn without(text: &str, name: &str) -> String {
    let start = format!("{name}=");
    text.split_inclusive('\n')
        .filter(|line| !line.starts_with(&start))
        .collect()
}

/// Both peers as they are when the ServerHello has been accepted.
fn agreed(suite: Suite, n: u8) -> (Agreed, AwaitFinished) {
    let (hello, client) = begin(None, offer(&Suite::ALL), n);
    let (answer, server) = taken(&hello).answer(&offer(&[suite]), None, fresh_hello(n + 1));
    (client.receive(&body(&answer)).unwrap(), server.unwrap())
}

/// The Finished of such a client.
fn finished(agreed: Agreed) -> Vec<u8> {
    body(
        &agreed
            .finish(|_| Ok::<(), ()>(()), &mut counting())
            .unwrap()
            .0,
    )
}

fn record_refusal<T>(result: Result<T, HandshakeError>) -> RecordError {
    match result.map(|_| ()) {
        Err(HandshakeError::Record(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_handshake_succeeds_in_both_suites_static_and_ratcheted() {
    for suite in Suite::ALL {
        for step in [None, Some(0), Some(STEP)] {
            let mut session = session(suite, step, 1);
            let record = seal(&mut session.client.0, RecordType::Message, b"Hello, World!");
            let opened = common::open(&mut session.server.1, &record);
            assert_eq!(opened, Ok((RecordType::Message, b"Hello, World!".to_vec())));
            let record = seal(&mut session.server.0, RecordType::Message, b"Hello!");
            assert_eq!(
                common::open(&mut session.client.1, &record),
                Ok((RecordType::Message, b"Hello!".to_vec()))
            );
            let kept = session
                .kept
                .map(|kept| (kept.step, *kept.root.key().bytes()));
            let next = step.map(|step| (step + 1, *root().next(&SECRET).key().bytes()));
            assert_eq!(kept, next, "the client kept the next key, if there is one");
        }
    }
}

#[test]
fn the_fields_are_reported() {
    let (hello, client) = begin(Some(STEP), offer(&Suite::ALL), 1);
    assert_eq!(client_id(&hello), Some(root().id()));
    assert_eq!(client_id(&hello[..7]), None);
    let taken = taken(&hello);
    assert_eq!(
        (taken.time, taken.nonce, taken.step),
        (TIME, [1; 32], Some(STEP))
    );
    assert_eq!(taken.software, "fernvpn tests");
    let (answer, _) = taken.answer(&offer(&Suite::ALL), Some(&state(STEP)), fresh_hello(2));
    let agreed = client.receive(&body(&answer)).unwrap();
    assert_eq!(
        (agreed.time, agreed.suite, agreed.software.as_str()),
        (TIME, Suite::AES_256_GCM, "fernvpn tests")
    );
}

#[test]
fn the_servers_order_decides_and_capabilities_need_both() {
    let (a, f) = (Suite::AES_256_GCM, Suite::FERNET);
    for (client, server, suite) in [
        (&[a, f][..], &[a, f][..], a),
        (&[a, f], &[f, a], f),
        (&[f, a], &[a, f], a),
        (&[f], &[a, f], f),
        (&[a, f], &[f], f),
    ] {
        let (hello, next) = begin(None, offer(client), 1);
        let (answer, _) = taken(&hello).answer(&offer(server), None, fresh_hello(2));
        assert_eq!(next.receive(&body(&answer)).unwrap().suite, suite);
    }
    for (client, server) in [(true, true), (true, false), (false, true), (false, false)] {
        let with = |super_packets| {
            let mut offer = offer(&Suite::ALL);
            offer.capabilities = Capabilities { super_packets };
            offer
        };
        let (hello, next) = begin(None, with(client), 1);
        let (answer, server_next) = taken(&hello).answer(&with(server), None, fresh_hello(2));
        let both = Capabilities {
            super_packets: client && server,
        };
        assert_eq!(server_next.unwrap().capabilities, both);
        assert_eq!(next.receive(&body(&answer)).unwrap().capabilities, both);
    }
}

#[test]
fn every_changed_byte_of_a_client_hello_is_refused() {
    let (hello, _) = begin(Some(STEP), offer(&Suite::ALL), 1);
    for at in 0..hello.len() {
        for change in [0x01, 0x20, 0x80, 0xff] {
            let mut changed = hello.clone();
            changed[at] ^= change;
            let reason = ClientHello::receive(&root(), &changed, None)
                .map(|_| ())
                .unwrap_err();
            match at {
                0..8 => assert_eq!(reason, HandshakeError::Id),
                _ => assert!(
                    is_token_refusal(&reason),
                    "byte {at} xor {change:02x}: {reason:?}"
                ),
            }
        }
    }
}

#[test]
fn every_changed_byte_of_a_server_hello_is_refused() {
    let (hello, _) = begin(None, offer(&Suite::ALL), 1);
    let (answer, _) = taken(&hello).answer(&offer(&Suite::ALL), None, fresh_hello(2));
    let answer = body(&answer);
    for at in 0..answer.len() {
        for change in [0x01, 0x20, 0x80, 0xff] {
            let mut changed = answer.clone();
            changed[at] ^= change;
            let reason = begin(None, offer(&Suite::ALL), 1)
                .1
                .receive(&changed)
                .map(|_| ())
                .unwrap_err();
            assert!(
                is_token_refusal(&reason),
                "byte {at} xor {change:02x}: {reason:?}"
            );
        }
    }
}

/// Refused before anything inside was believed.
fn is_token_refusal(reason: &HandshakeError) -> bool {
    matches!(
        reason,
        HandshakeError::Token(
            TokenError::Text(_) | TokenError::Version(_) | TokenError::Length(_) | TokenError::Mac
        )
    )
}

#[test]
fn every_prefix_and_every_extension_of_a_hello_is_refused() {
    // Software names of three lengths, so that tokens with no, one and two characters of padding
    // occur.
    for software in ["", "0123456789abcdef", "0123456789abcdef0123456789abcdef"] {
        let offer = fernvpn::protocol::handshake::Offer {
            software: software.to_owned(),
            ..offer(&Suite::ALL)
        };
        let (hello, _) = begin(None, offer.clone(), 1);
        let (answer, _) = taken(&hello).answer(&offer, None, fresh_hello(2));
        let answer = body(&answer);
        for n in 0..hello.len() {
            let reason = ClientHello::receive(&root(), &hello[..n], None)
                .map(|_| ())
                .unwrap_err();
            let expected = if n < 8 {
                reason == HandshakeError::Length(n)
            } else {
                is_token_refusal(&reason)
            };
            assert!(expected, "ClientHello of {n}: {reason:?}");
        }
        for n in 0..answer.len() {
            let reason = begin(None, offer.clone(), 1)
                .1
                .receive(&answer[..n])
                .map(|_| ())
                .unwrap_err();
            assert!(is_token_refusal(&reason), "ServerHello of {n}: {reason:?}");
        }
        for more in [&b"="[..], b"A", b"====", b"AAAA", b"\n"] {
            let longer = ClientHello::receive(&root(), &[&hello, more].concat(), None)
                .map(|_| ())
                .unwrap_err();
            assert!(is_token_refusal(&longer), "{longer:?}");
            let longer = begin(None, offer.clone(), 1)
                .1
                .receive(&[&answer, more].concat())
                .map(|_| ())
                .unwrap_err();
            assert!(is_token_refusal(&longer), "{longer:?}");
        }
    }
}

#[test]
fn reflected_hellos_are_refused_by_their_role() {
    let (hello, client) = begin(None, offer(&Suite::ALL), 1);
    let reason = client.receive(&hello[8..]).map(|_| ()).unwrap_err();
    assert_eq!(
        reason,
        HandshakeError::Role("client".to_owned()),
        "the client's own token"
    );
    let (hello, client) = begin(None, offer(&Suite::ALL), 1);
    assert!(
        is_token_refusal(&client.receive(&hello).map(|_| ()).unwrap_err()),
        "the client's own frame"
    );
    let (answer, _) = taken(&hello).answer(&offer(&Suite::ALL), None, fresh_hello(2));
    let reflected = [&root().id()[..], &body(&answer)].concat();
    let reason = ClientHello::receive(&root(), &reflected, None)
        .map(|_| ())
        .unwrap_err();
    assert_eq!(
        reason,
        HandshakeError::Role("server".to_owned()),
        "the server's own token behind an id"
    );
    assert_eq!(
        ClientHello::receive(&root(), &body(&answer), None)
            .map(|_| ())
            .unwrap_err(),
        HandshakeError::Id
    );
}

#[test]
fn a_replayed_server_hello_answers_another_hello() {
    let (first, _) = begin(None, offer(&Suite::ALL), 1);
    let (answer, _) = taken(&first).answer(&offer(&Suite::ALL), None, fresh_hello(2));
    let (_, second) = begin(None, offer(&Suite::ALL), 3);
    assert_eq!(
        second.receive(&body(&answer)).map(|_| ()).unwrap_err(),
        HandshakeError::Echo
    );
    let refusal = taken(&first).refuse("recorded", fresh_hello(2).token);
    let (_, second) = begin(None, offer(&Suite::ALL), 3);
    assert_eq!(
        second.receive(&body(&refusal)).map(|_| ()).unwrap_err(),
        HandshakeError::Echo,
        "not even a refusal"
    );
}

#[test]
fn a_replayed_client_hello_never_finishes() {
    for suite in Suite::ALL {
        // The server answers the same hello twice, with another nonce; the recorded Finished is of
        // no use.
        let (hello, client) = begin(None, offer(&Suite::ALL), 1);
        let (answer, _) = taken(&hello).answer(&offer(&[suite]), None, fresh_hello(2));
        let recorded = finished(client.receive(&body(&answer)).unwrap());
        let (_, again) = taken(&hello).answer(&offer(&[suite]), None, fresh_hello(3));
        let reason = record_refusal(again.unwrap().receive(&mut recorded.clone()));
        assert_eq!(reason, not_this_session(suite));
    }
}

/// How a record of another session is refused.
fn not_this_session(suite: Suite) -> RecordError {
    match suite.form() {
        Form::Aead => RecordError::Tag,
        Form::Token => RecordError::Token(TokenError::Mac),
    }
}

#[test]
fn the_keys_depend_on_the_iv_and_the_time_of_both_hellos() {
    // Both sides must have seen the same bytes, not only the same fields.
    let (hello, _) = begin(None, offer(&Suite::ALL), 1);
    let text = {
        let mut token = hello[8..].to_vec();
        let keys = std::slice::from_ref(root().hello()).to_vec();
        let opened = fernvpn::fernet::token::open(&keys, &mut token, None).unwrap();
        opened.message.to_vec()
    };
    for (time, iv) in [(TIME + 1, [1; 16]), (TIME, [9; 16])] {
        let (_, client) = begin(None, offer(&Suite::ALL), 1);
        let other = [&root().id()[..], &root().hello().seal(&text, time, iv)].concat();
        let (answer, server) = taken(&other).answer(&offer(&Suite::ALL), None, fresh_hello(2));
        let mut finished = finished(client.receive(&body(&answer)).unwrap());
        assert_eq!(
            record_refusal(server.unwrap().receive(&mut finished)),
            RecordError::Tag
        );
    }
}

#[test]
fn another_key_is_refused() {
    let other = Root::new(Key::from_bytes(&[9; 32]));
    let (hello, client) = begin(None, offer(&Suite::ALL), 1);
    assert_eq!(
        ClientHello::receive(&other, &hello, None)
            .map(|_| ())
            .unwrap_err(),
        HandshakeError::Id
    );
    let renamed = [&other.id()[..], &hello[8..]].concat();
    let reason = ClientHello::receive(&other, &renamed, None)
        .map(|_| ())
        .unwrap_err();
    assert_eq!(reason, HandshakeError::Token(TokenError::Mac));
    let forged = other.hello().seal(server_text().as_bytes(), TIME, [4; 16]);
    assert_eq!(
        client.receive(&forged).map(|_| ()).unwrap_err(),
        HandshakeError::Token(TokenError::Mac)
    );
    // K itself is never used raw.
    let raw = fernvpn::fernet::Fernet::new(&Key::from_bytes(&KEY)).seal(
        client_text().as_bytes(),
        TIME,
        [4; 16],
    );
    let raw = [&root().id()[..], &raw].concat();
    assert_eq!(
        ClientHello::receive(&root(), &raw, None)
            .map(|_| ())
            .unwrap_err(),
        HandshakeError::Token(TokenError::Mac)
    );
}

#[test]
fn a_client_hello_needs_its_fields_once_and_in_form() {
    let text = client_text();
    assert!(
        ClientHello::receive(&root(), &client_body(&text), None).is_ok(),
        "the text to begin with is right"
    );
    for name in ["versions", "role", "nonce", "suites"] {
        assert_eq!(
            server_says(&without(&text, name)),
            HandshakeError::Field(FieldError::Missing(name))
        );
        let line = text
            .split_inclusive('\n')
            .find(|line| line.starts_with(&format!("{name}=")))
            .unwrap();
        let twice = HandshakeError::Field(FieldError::Twice(name.to_owned()));
        assert_eq!(server_says(&format!("{text}{line}")), twice);
        assert_eq!(server_says(&format!("{text}{name}=\n")), twice);
    }
    assert_eq!(
        server_says(&format!("{text}x=1\nx=1\n")),
        HandshakeError::Field(FieldError::Twice("x".to_owned()))
    );
    assert_eq!(
        server_says(""),
        HandshakeError::Field(FieldError::Missing("role"))
    );
    for role in ["", "server", "Client", "client ", "clients"] {
        let text = text.replace("role=client", &format!("role={role}"));
        assert_eq!(server_says(&text), HandshakeError::Role(role.to_owned()));
    }
    for nonce in [
        "",
        "01",
        &NONCE[1..],
        &NONCE.replace('1', "A"),
        &NONCE.replace('1', "g"),
        &format!("{NONCE}01"),
    ] {
        let text = text.replace(NONCE, nonce);
        assert_eq!(
            server_says(&text),
            HandshakeError::Field(FieldError::Value("nonce")),
            "{nonce}"
        );
    }
    for step in [
        "",
        "-1",
        "+1",
        "1.0",
        " 1",
        "0x1",
        "one",
        "18446744073709551616",
        "01",
        "00",
    ] {
        let text = format!("{text}step={step}\n");
        assert_eq!(
            server_says(&text),
            HandshakeError::Field(FieldError::Value("step")),
            "{step}"
        );
    }
    for form in [
        "x",
        "x=1",
        "=1\n",
        "X=1\n",
        "x y=1\n",
        "x=\t\n",
        "x=1\r\n",
        "x=\u{e9}\n",
        "\n",
        "x=\0\n",
    ] {
        assert_eq!(
            server_says(&format!("{text}{form}")),
            HandshakeError::Field(FieldError::Form),
            "{form:?}"
        );
    }
}

#[test]
fn what_is_unknown_is_left_alone() {
    let text = "future=a=b, c\n".to_owned()
        + &client_text()
        + "capabilities=wings,super-packets\nstep=18446744073709551614\nempty=\n";
    let text = text
        .replace("versions=1", "versions=9,1")
        .replace("suites=fernet", "suites=rot13,fernet,");
    let hello = taken(&client_body(&text));
    assert_eq!(
        (hello.step, hello.software.as_str()),
        (Some(u64::MAX - 1), "")
    );
    let (answer, next) = hello.answer(
        &offer(&Suite::ALL),
        Some(&state(u64::MAX - 1)),
        fresh_hello(2),
    );
    let next = next.unwrap();
    assert_eq!(
        (next.suite, next.capabilities),
        (
            Suite::FERNET,
            Capabilities {
                super_packets: true
            }
        )
    );
    let answer = fields_of(&body(&answer));
    assert!(
        answer.contains("capabilities=super-packets\n"),
        "only what both know is in force: {answer}"
    );

    let text =
        server_text() + "future=x\ncapabilities=\nratchet=none of a static client's business\n";
    assert_eq!(client_says(None, &text).unwrap().suite, Suite::FERNET);
}

fn fields_of(token: &[u8]) -> String {
    let mut token = token.to_vec();
    let opened =
        fernvpn::fernet::token::open(std::slice::from_ref(root().hello()), &mut token, None)
            .unwrap();
    String::from_utf8(opened.message.to_vec()).unwrap()
}

#[test]
fn a_server_hello_needs_its_fields_once_and_in_form() {
    let text = server_text();
    let says = |text: &str| client_says(None, text).map(|_| ()).expect_err(text);
    assert!(
        client_says(None, &text).is_ok(),
        "the text to begin with is right"
    );
    for name in ["version", "role", "client-nonce", "nonce", "suite"] {
        assert_eq!(
            says(&without(&text, name)),
            HandshakeError::Field(FieldError::Missing(name))
        );
        let twice = HandshakeError::Field(FieldError::Twice(name.to_owned()));
        assert_eq!(says(&format!("{text}{name}=\n")), twice);
    }
    assert_eq!(
        says(&text.replace("role=server", "role=proxy")),
        HandshakeError::Role("proxy".to_owned())
    );
    assert_eq!(
        says(&text.replace("version=1", "version=2")),
        HandshakeError::Version("2".to_owned())
    );
    assert_eq!(
        says(&text.replace("version=1", "version=01")),
        HandshakeError::Version("01".to_owned())
    );
    let short = text.replace("\nnonce=0101", "\nnonce=");
    assert_eq!(
        says(&short),
        HandshakeError::Field(FieldError::Value("nonce"))
    );
    let short = text.replace("client-nonce=0101", "client-nonce=");
    assert_eq!(
        says(&short),
        HandshakeError::Field(FieldError::Value("client-nonce"))
    );
    let other = text.replace("client-nonce=01", "client-nonce=02");
    assert_eq!(says(&other), HandshakeError::Echo);
}

#[test]
fn a_server_may_choose_only_what_was_offered() {
    let says = |text: &str| client_says(None, text).map(|_| ()).expect_err(text);
    for suite in ["aes-256-gcm", "rot13", "", "fernet,aes-256-gcm", "Fernet"] {
        let text = server_text().replace("suite=fernet", &format!("suite={suite}"));
        assert_eq!(says(&text), HandshakeError::NotOffered(suite.to_owned()));
    }
    assert_eq!(
        says(&(server_text() + "capabilities=wings\n")),
        HandshakeError::NotOffered("wings".to_owned())
    );
    let text = server_text() + "capabilities=super-packets\n";
    assert!(client_says(None, &text).unwrap().capabilities.super_packets);
    let mut modest = offer(&[Suite::FERNET]);
    modest.capabilities = Capabilities::default();
    let reason = begin(None, modest, 1)
        .1
        .receive(&server_body(&text))
        .map(|_| ())
        .unwrap_err();
    assert_eq!(
        reason,
        HandshakeError::NotOffered("super-packets".to_owned())
    );
}

#[test]
fn where_nothing_fits_the_client_hears_why() {
    let refusal = |text: &str, server: &[Suite]| {
        let (answer, reason) =
            taken(&client_body(text)).answer(&offer(server), None, fresh_hello(2));
        let heard = begin(None, offer(&Suite::ALL), 1)
            .1
            .receive(&body(&answer))
            .map(|_| ())
            .unwrap_err();
        let reason = reason.map(|_| ()).unwrap_err();
        assert_eq!(heard, HandshakeError::ByServer(reason.to_owned()));
        reason
    };
    let text = client_text();
    assert_eq!(refusal(&text, &[Suite::AES_256_GCM]), "no common suite");
    assert_eq!(refusal(&text, &[]), "no common suite");
    assert_eq!(
        refusal(&text.replace("suites=fernet", "suites="), &Suite::ALL),
        "no common suite"
    );
    let version = "no common version (this is version 1)";
    assert_eq!(
        refusal(&text.replace("versions=1", "versions=2,10,01"), &Suite::ALL),
        version
    );
    assert_eq!(
        refusal(&text.replace("versions=1", "versions="), &Suite::ALL),
        version
    );
    // A reason of the tunnel's, whatever is in it, stays one line.
    let frame = taken(&client_body(&text)).refuse("full\nrole=client", fresh_hello(2).token);
    let heard = begin(None, offer(&Suite::ALL), 1)
        .1
        .receive(&body(&frame))
        .map(|_| ())
        .unwrap_err();
    assert_eq!(
        heard,
        HandshakeError::ByServer("full?role=client".to_owned())
    );
}

#[test]
fn a_refusal_without_a_version_is_not_believed() {
    let text = server_text() + "refused=go away\n";
    let says = |text: &str| client_says(None, text).map(|_| ()).unwrap_err();
    assert_eq!(says(&text), HandshakeError::ByServer("go away".to_owned()));
    let missing = HandshakeError::Field(FieldError::Missing("version"));
    assert_eq!(says(&without(&text, "version")), missing);
    // The version of a refusal is one that the server speaks, whichever it is.
    let other = text.replace("version=1", "version=2");
    assert_eq!(says(&other), HandshakeError::ByServer("go away".to_owned()));
}

#[test]
fn a_key_at_its_last_step_makes_no_session() {
    let last = u64::MAX;
    let (hello, client) = begin(Some(last), offer(&Suite::ALL), 1);
    let state = state(last);
    let (answer, refusal) = taken(&hello).answer(&offer(&Suite::ALL), Some(&state), fresh_hello(2));
    let reason = "the ratcheted key is at its last step";
    assert_eq!(refusal.map(|_| ()).unwrap_err(), reason);
    assert!(!fields_of(&body(&answer)).contains("ratchet="));
    let heard = client.receive(&body(&answer)).map(|_| ()).unwrap_err();
    assert_eq!(heard, HandshakeError::ByServer(reason.to_owned()));
    // A server that answers all the same meets a client that has no next key.
    let text = format!("{}step={last}\nratchet={NONCE}\n", server_text());
    let heard = client_says(Some(last), &text).map(|_| ()).unwrap_err();
    assert_eq!(heard, HandshakeError::Ratchet);
}

#[test]
fn steps_that_differ_are_refused_by_the_server_and_by_the_client() {
    for (client, server) in [
        (None, Some(7)),
        (Some(7), None),
        (Some(7), Some(8)),
        (Some(8), Some(7)),
    ] {
        let (hello, next) = begin(client, offer(&Suite::ALL), 1);
        let ratchet = server.map(state);
        let (answer, reason) =
            taken(&hello).answer(&offer(&Suite::ALL), ratchet.as_ref(), fresh_hello(2));
        let reason = reason.map(|_| ()).unwrap_err();
        assert_eq!(
            reason, "not the same step of the ratcheted key",
            "{client:?} {server:?}"
        );
        assert!(
            !fields_of(&body(&answer)).contains("ratchet="),
            "the secret stays where it is"
        );
        let heard = next.receive(&body(&answer)).map(|_| ()).unwrap_err();
        assert_eq!(heard, HandshakeError::ByServer(reason.to_owned()));
        // A server that does not care meets a client that does.
        let text = match server {
            Some(step) => format!("{}step={step}\nratchet={NONCE}\n", server_text()),
            None => server_text(),
        };
        assert_eq!(
            client_says(client, &text).map(|_| ()).unwrap_err(),
            HandshakeError::Ratchet
        );
    }
    let text = server_text() + "step=7\n";
    let missing = HandshakeError::Field(FieldError::Missing("ratchet"));
    assert_eq!(
        client_says(Some(7), &text).map(|_| ()).unwrap_err(),
        missing
    );
    let bad = HandshakeError::Field(FieldError::Value("ratchet"));
    assert_eq!(
        client_says(Some(7), &(text + "ratchet=00\n"))
            .map(|_| ())
            .unwrap_err(),
        bad
    );
}

#[test]
fn a_state_of_another_key_answers_nothing() {
    // The state moved on between the receipt of the hello and the answer: the new secret must not
    // go out under K.
    let (hello, _) = begin(Some(STEP), offer(&Suite::ALL), 1);
    let mut moved = state(STEP - 1).advance([3; 32]).unwrap();
    assert_eq!(moved.step, STEP);
    let (_, reason) = taken(&hello).answer(&offer(&Suite::ALL), Some(&moved), fresh_hello(2));
    assert!(reason.is_err());
    moved.root = root();
    assert!(
        taken(&hello)
            .answer(&offer(&Suite::ALL), Some(&moved), fresh_hello(2))
            .1
            .is_ok()
    );
}

#[test]
fn without_a_durable_key_there_is_no_finished() {
    let (hello, client) = begin(Some(STEP), offer(&Suite::ALL), 1);
    let (answer, _) = taken(&hello).answer(&offer(&Suite::ALL), Some(&state(STEP)), fresh_hello(2));
    let agreed = client.receive(&body(&answer)).unwrap();
    let result = agreed.finish(|_| Err("disk full"), &mut counting());
    assert_eq!(result.map(|_| ()).unwrap_err(), "disk full");
    let (agreed, _) = agreed_static();
    assert!(
        agreed
            .finish(|_| Err("a static key is kept by nobody"), &mut counting())
            .is_ok()
    );
}

fn agreed_static() -> (Agreed, AwaitFinished) {
    agreed(Suite::FERNET, 1)
}

#[test]
fn no_clock_is_needed_unless_an_age_is_asked_for() {
    for time in [0, 1, TIME - 31, TIME + 61, u64::MAX - 1, u64::MAX] {
        let mut fresh = fresh_hello(1);
        fresh.token.time = time;
        let (frame, client) =
            fernvpn::protocol::handshake::client_hello(&root(), None, offer(&Suite::ALL), fresh);
        let hello = taken(&body(&frame));
        assert_eq!(hello.time, time, "reported");
        let age = Some(Age { now: TIME, ttl: 30 });
        let reason = ClientHello::receive(&root(), &body(&frame), age)
            .map(|_| ())
            .unwrap_err();
        let expected = if time < TIME {
            TokenError::Expired
        } else {
            TokenError::Future
        };
        assert_eq!(reason, HandshakeError::Token(expected), "{time}");
        // The server's clock may be anywhere too.
        let mut fresh = fresh_hello(2);
        fresh.token.time = !time;
        let (answer, server) = hello.answer(&offer(&Suite::ALL), None, fresh);
        let agreed = client.receive(&body(&answer)).unwrap();
        assert_eq!(agreed.time, !time);
        assert!(server.unwrap().receive(&mut finished(agreed)).is_ok());
    }
    for time in [TIME - 30, TIME, TIME + 60] {
        let mut fresh = fresh_hello(1);
        fresh.token.time = time;
        let (frame, _) =
            fernvpn::protocol::handshake::client_hello(&root(), None, offer(&Suite::ALL), fresh);
        let age = Some(Age { now: TIME, ttl: 30 });
        assert!(
            ClientHello::receive(&root(), &body(&frame), age).is_ok(),
            "{time}"
        );
    }
}

#[test]
fn a_hello_of_1024_bytes_is_taken_and_one_more_is_not() {
    // 703 bytes of fields are the most that fit.
    let client = client_text() + "software=";
    let server = server_text() + "software=";
    let filled = |text: &str, n: usize| format!("{text}{}\n", "x".repeat(n - text.len() - 1));
    let longest = client_body(&filled(&client, 703));
    assert!(longest.len() <= MAX_HELLO && client_body(&filled(&client, 704)).len() > MAX_HELLO);
    assert_eq!(taken(&longest).software.len(), 703 - client.len() - 1);
    let refused = client_body(&filled(&client, 704));
    let reason = ClientHello::receive(&root(), &refused, None)
        .map(|_| ())
        .unwrap_err();
    assert_eq!(reason, HandshakeError::Length(refused.len()));
    assert!(client_says(None, &filled(&server, 703)).is_ok());
    let length = server_body(&filled(&server, 720)).len();
    assert_eq!(
        client_says(None, &filled(&server, 720))
            .map(|_| ())
            .unwrap_err(),
        HandshakeError::Length(length)
    );
    // The exact edge, with bodies that are no tokens: at the limit it is read, above it is not.
    let body = |n: usize| [&root().id()[..], &vec![b'A'; n - 8]].concat();
    let says = |n| {
        ClientHello::receive(&root(), &body(n), None)
            .map(|_| ())
            .unwrap_err()
    };
    assert_eq!(
        says(MAX_HELLO),
        HandshakeError::Token(TokenError::Version(Some(0)))
    );
    assert_eq!(says(MAX_HELLO + 1), HandshakeError::Length(MAX_HELLO + 1));
    let says = |n| {
        begin(None, offer(&Suite::ALL), 1)
            .1
            .receive(&vec![b'A'; n])
            .map(|_| ())
            .unwrap_err()
    };
    assert_eq!(
        says(MAX_HELLO),
        HandshakeError::Token(TokenError::Version(Some(0)))
    );
    assert_eq!(says(MAX_HELLO + 1), HandshakeError::Length(MAX_HELLO + 1));
}

#[test]
fn only_finished_finishes() {
    for suite in Suite::ALL {
        // A Finished of another session.
        let (client, _) = agreed(suite, 1);
        let (_, server) = agreed(suite, 5);
        assert_eq!(
            record_refusal(server.receive(&mut finished(client))),
            not_this_session(suite)
        );
        // Every byte of the right one changed, and every prefix.
        let right = finished(agreed(suite, 1).0);
        for at in 0..right.len() {
            let mut changed = right.clone();
            changed[at] ^= 1;
            assert!(
                agreed(suite, 1).1.receive(&mut changed).is_err(),
                "byte {at}"
            );
            assert!(
                agreed(suite, 1)
                    .1
                    .receive(&mut right[..at].to_vec())
                    .is_err(),
                "prefix {at}"
            );
        }
        assert!(agreed(suite, 1).1.receive(&mut right.clone()).is_ok());
        // The same record where the server's Config is due: another direction, another key.
        let (client, _) = agreed(suite, 1);
        let (_, client) = client
            .finish(|_| Ok::<(), ()>(()), &mut counting())
            .unwrap();
        assert_eq!(
            record_refusal(client.receive(&mut right.clone())),
            not_this_session(suite)
        );
    }
}

/// The traffic secrets and first records of a session whose hellos are known: what only the holder
/// of K can make.
mod crafted {
    use super::*;
    use aes_gcm::aead::AeadInOut;
    use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
    use fernvpn::fernet::Fernet;
    use fernvpn::protocol::key_schedule::TrafficSecret;
    use sha2::{Digest, Sha256};

    /// Any record with any counter under a traffic secret.
    pub(super) fn record(
        suite: Suite,
        secret: &TrafficSecret,
        counter: u64,
        message: &[u8],
    ) -> Vec<u8> {
        match suite.form() {
            Form::Aead => {
                let mut nonce = **secret.iv();
                for (byte, count) in nonce[4..].iter_mut().zip(counter.to_be_bytes()) {
                    *byte ^= count;
                }
                let length = u32::try_from(message.len() + 16).unwrap().to_be_bytes();
                let aead = Aes256Gcm::new((&**secret.key()).into());
                let mut body = message.to_vec();
                let tag = aead
                    .encrypt_inout_detached(&Nonce::from(nonce), &length, (&mut body[..]).into())
                    .unwrap();
                [&body[..], &tag].concat()
            }
            Form::Token => {
                let key = Fernet::new(&Key::from_bytes(&secret.key()));
                key.seal(
                    &[&counter.to_be_bytes(), message].concat(),
                    u64::MAX,
                    [8; 16],
                )
            }
        }
    }

    /// The traffic secrets of a static handshake with nonces 1 and 2, and its two waiting peers.
    pub(super) fn waiting(
        suite: Suite,
    ) -> (
        [TrafficSecret; 2],
        AwaitFinished,
        fernvpn::protocol::handshake::AwaitConfig,
    ) {
        let (hello, client) = fernvpn::protocol::handshake::client_hello(
            &root(),
            None,
            offer(&Suite::ALL),
            fresh_hello(1),
        );
        let (answer, server) = taken(&body(&hello)).answer(&offer(&[suite]), None, fresh_hello(2));
        let transcript: [u8; 32] = Sha256::digest([&hello[..], &answer].concat()).into();
        let agreed = client.receive(&body(&answer)).unwrap();
        let (_, client) = agreed
            .finish(|_| Ok::<(), ()>(()), &mut counting())
            .unwrap();
        (root().traffic_secrets(&transcript), server.unwrap(), client)
    }
}

#[test]
fn no_other_record_where_finished_or_config_is_due() {
    use RecordError::{Counter, Length, Tag, Type};
    // Those that `crafted` can seal without the core.
    for suite in Suite::DEFAULT {
        let server_says = |counter, message: &[u8]| {
            let ([client, _], server, _) = crafted::waiting(suite);
            server
                .receive(&mut crafted::record(suite, &client, counter, message))
                .map(|_| ())
        };
        let client_says = |counter, message: &[u8]| {
            let ([_, server], _, client) = crafted::waiting(suite);
            client
                .receive(&mut crafted::record(suite, &server, counter, message))
                .map(|(config, ..)| config)
        };
        assert_eq!(
            server_says(0, &[1]),
            Ok(()),
            "the crafted Finished is right"
        );
        assert_eq!(
            client_says(0, &[2]),
            Ok(vec![]),
            "a Config may be empty for the core"
        );
        assert_eq!(
            client_says(0, b"\x02mtu=1500\n"),
            Ok(b"mtu=1500\n".to_vec())
        );
        assert_eq!(
            server_says(0, &[1, 0]),
            Err(HandshakeError::Record(Length(1))),
            "Finished with content"
        );
        assert_eq!(
            server_says(0, &[]),
            Err(HandshakeError::Record(Length(0))),
            "no type"
        );
        assert_eq!(
            client_says(0, &[]),
            Err(HandshakeError::Record(Length(0))),
            "no type"
        );
        for kind in (0..=255).filter(|kind| *kind != 1) {
            assert_eq!(
                server_says(0, &[kind]),
                Err(HandshakeError::Record(Type(kind)))
            );
        }
        for kind in (0..=255).filter(|kind| *kind != 2) {
            assert_eq!(
                client_says(0, &[kind]),
                Err(HandshakeError::Record(Type(kind)))
            );
        }
        let skipped = match suite.form() {
            Form::Aead => Tag,
            Form::Token => Counter { due: 0, found: 1 },
        };
        assert_eq!(
            server_says(1, &[1]),
            Err(HandshakeError::Record(skipped)),
            "a record was skipped"
        );
        assert_eq!(
            client_says(1, &[2]),
            Err(HandshakeError::Record(skipped)),
            "a record was skipped"
        );
    }
}

#[test]
fn a_config_too_long_is_an_error_and_no_panic() {
    for suite in Suite::ALL {
        let ready = || {
            let (client, server) = agreed(suite, 1);
            server.receive(&mut finished(client)).unwrap()
        };
        assert!(
            ready()
                .configure(&vec![b'x'; 65_553], &mut counting())
                .is_err()
        );
        let (frame, ..) = ready()
            .configure(&vec![b'x'; 65_552], &mut counting())
            .unwrap();
        assert_eq!(frame.len(), 4 + suite.max_body());
    }
}

#[test]
fn hellos_hold_what_the_specification_says() {
    let (hello, _) = begin(Some(STEP), offer(&Suite::DEFAULT), 1);
    let text = fields_of(&hello[8..]);
    let expected = format!(
        "versions=1\nrole=client\nnonce={NONCE}\nsuites=aes-256-gcm,fernet\n\
         capabilities=super-packets\nstep=7\n\
         software=fernvpn tests\n"
    );
    assert_eq!(text, expected);
    let (answer, _) = taken(&hello).answer(&offer(&Suite::ALL), Some(&state(STEP)), fresh_hello(2));
    let text = fields_of(&body(&answer));
    let fields = Fields::parse(text.as_bytes()).unwrap();
    for (name, value) in [
        ("version", "1"),
        ("role", "server"),
        ("client-nonce", NONCE),
        ("nonce", &NONCE.replace('1', "2")),
        ("suite", "aes-256-gcm"),
        ("capabilities", "super-packets"),
        ("step", "7"),
        ("ratchet", &"52".repeat(32)),
        ("software", "fernvpn tests"),
    ] {
        assert_eq!(fields.value(name), Some(value), "{name}");
    }
}

#[test]
fn random_bytes_panic_nobody() {
    let mut random = common::Random(1);
    for n in 0..3000 {
        let noise: Vec<u8> = (0..random.below(300))
            .map(|_| random.next().to_be_bytes()[0])
            .collect();
        let _ = Fields::parse(&noise);
        let named = [&root().id()[..], &noise].concat();
        assert!(ClientHello::receive(&root(), &named, None).is_err(), "{n}");
        assert!(
            begin(None, offer(&Suite::ALL), 1)
                .1
                .receive(&noise)
                .is_err(),
            "{n}"
        );
        // And behind the right key, where it meets the parser of fields.
        let sealed = root().hello().seal(&noise, TIME, [4; 16]);
        let named = [&root().id()[..], &sealed].concat();
        assert!(ClientHello::receive(&root(), &named, None).is_err(), "{n}");
        assert!(
            begin(None, offer(&Suite::ALL), 1)
                .1
                .receive(&sealed)
                .is_err(),
            "{n}"
        );
    }
}
