//! Can anybody change, drop, repeat, move or turn round a record? PROTOCOL.md sections 6 and 7.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::common;
use common::{Random, counting, open, seal, session};
use fernvpn::fernet::{Fernet, Key, TokenError};
use fernvpn::protocol::frame;
use fernvpn::protocol::limits::{MAX_BODY, MAX_CONTENT, REKEY_AFTER_BYTES};
use fernvpn::protocol::record::{
    Form, HEADROOM, Opener, RecordError, RecordType, SealError, Sealer, Suite,
};
use std::collections::VecDeque;

/// Client to server.
fn direction(suite: Suite) -> (Sealer, Opener) {
    let session = session(suite, None, 1);
    (session.client.0, session.server.1)
}

fn rekey(sealer: &mut Sealer) -> Vec<u8> {
    common::body(&sealer.rekey(&mut counting()).unwrap())
}

/// The refusal of an authentic record with counter `found` where `due` is due.
fn moved(suite: Suite, due: u64, found: u64) -> RecordError {
    match suite.form() {
        Form::Aead => RecordError::Tag,
        Form::Token => RecordError::Counter { due, found },
    }
}

/// The refusal of a record under another key.
fn foreign(suite: Suite) -> RecordError {
    match suite.form() {
        Form::Aead => RecordError::Tag,
        Form::Token => RecordError::Token(TokenError::Mac),
    }
}

#[test]
fn every_kind_and_the_sizes_at_the_edges_arrive() {
    for suite in Suite::ALL {
        let (mut sealer, mut opener) = direction(suite);
        for kind in RecordType::of_tunnel() {
            for n in [0, 1, 2, 15, 16, 17, 1500, MAX_CONTENT - 1, MAX_CONTENT] {
                let content: Vec<u8> = (0..=250).cycle().take(n).collect();
                let body = seal(&mut sealer, kind, &content);
                assert!(body.len() <= suite.max_body() && suite.max_body() <= MAX_BODY);
                assert_eq!(
                    open(&mut opener, &body),
                    Ok((kind, content)),
                    "{suite} {kind:?} {n}"
                );
            }
        }
        assert_eq!(
            seal(&mut sealer, RecordType::Ping, &vec![0; MAX_CONTENT]).len(),
            suite.max_body()
        );
    }
    assert_eq!(
        (Suite::AES_256_GCM.max_body(), Suite::FERNET.max_body()),
        (65_569, 87_500)
    );
    assert_eq!(MAX_BODY, 87_500);
}

#[test]
fn content_above_the_maximum_is_not_sealed_and_changes_nothing() {
    for suite in Suite::ALL {
        let (mut sealer, mut opener) = direction(suite);
        for n in [MAX_CONTENT + 1, MAX_CONTENT + 1000] {
            let mut frame = vec![0; suite.frame_len(n)];
            assert_eq!(
                sealer.seal(RecordType::Packets, &mut frame, n, &mut counting()),
                Err(SealError::Length(n))
            );
        }
        let body = seal(&mut sealer, RecordType::Ping, b"still in step");
        assert_eq!(
            open(&mut opener, &body),
            Ok((RecordType::Ping, b"still in step".to_vec()))
        );
    }
}

#[test]
fn the_buffer_may_be_longer_and_dirty_and_content_may_be_changed_in_place() {
    for suite in Suite::ALL {
        let (mut sealer, mut opener) = direction(suite);
        let mut buffer = vec![0xa5; 4096];
        buffer[HEADROOM..HEADROOM + 5].copy_from_slice(b"hello");
        let length = sealer
            .seal(RecordType::Ping, &mut buffer, 5, &mut counting())
            .unwrap();
        assert_eq!(frame::whole(&buffer, suite.max_body()), Ok(Some(length)));
        assert!(
            buffer[length..].iter().all(|byte| *byte == 0xa5),
            "nothing is written behind the frame"
        );
        let Ok((RecordType::Ping, content)) = opener.open(&mut buffer[frame::HEADER..length])
        else {
            panic!("{suite}")
        };
        content.make_ascii_uppercase();
        assert_eq!(content, b"HELLO");
    }
}

#[test]
fn a_changed_byte_or_length_is_refused_and_leaves_no_trace() {
    for suite in Suite::ALL {
        for n in [0, 1, 6, 7, 8, 20, 38] {
            let (mut sealer, mut opener) = direction(suite);
            let content = vec![b'c'; n];
            let body = seal(&mut sealer, RecordType::Packets, &content);
            for at in 0..body.len() {
                for bit in 0..8 {
                    let mut changed = body.clone();
                    changed[at] ^= 1 << bit;
                    let refused = open(&mut opener, &changed).expect_err("a forgery");
                    assert!(
                        is_forgery(&refused),
                        "{suite} {n}: byte {at} bit {bit}: {refused:?}"
                    );
                }
            }
            for length in 0..body.len() {
                let refused = open(&mut opener, &body[..length]).expect_err("cut at the end");
                assert!(
                    is_forgery(&refused),
                    "{suite} {n}: prefix {length}: {refused:?}"
                );
                let refused = open(&mut opener, &body[length + 1..]).expect_err("cut at the start");
                assert!(
                    is_forgery(&refused),
                    "{suite} {n}: suffix from {length}: {refused:?}"
                );
            }
            for more in [&b"\0"[..], b"=", b"A", b"AAAA", b"====", b"\n"] {
                assert!(is_forgery(
                    &open(&mut opener, &[&body, more].concat()).expect_err("longer")
                ));
                assert!(is_forgery(
                    &open(&mut opener, &[more, &body].concat()).expect_err("longer")
                ));
            }
            assert_eq!(
                open(&mut opener, &body),
                Ok((RecordType::Packets, content)),
                "the right one still opens"
            );
        }
    }
}

/// Refused for want of authenticity, before anything inside was believed.
fn is_forgery(refused: &RecordError) -> bool {
    matches!(
        refused,
        RecordError::Tag
            | RecordError::Token(
                TokenError::Text(_)
                    | TokenError::Version(_)
                    | TokenError::Length(_)
                    | TokenError::Mac
            )
    )
}

#[test]
fn a_record_opens_once_and_in_its_place() {
    for suite in Suite::ALL {
        let (mut sealer, mut opener) = direction(suite);
        // Finished was record 0.
        let bodies: Vec<_> = (1..=4u8)
            .map(|i| seal(&mut sealer, RecordType::Ping, &[i]))
            .collect();
        assert_eq!(
            open(&mut opener, &bodies[1]),
            Err(moved(suite, 1, 2)),
            "the first was dropped"
        );
        assert_eq!(
            open(&mut opener, &bodies[0]),
            Ok((RecordType::Ping, vec![1]))
        );
        assert_eq!(
            open(&mut opener, &bodies[0]),
            Err(moved(suite, 2, 1)),
            "repeated"
        );
        assert_eq!(
            open(&mut opener, &bodies[2]),
            Err(moved(suite, 2, 3)),
            "swapped"
        );
        assert_eq!(
            open(&mut opener, &bodies[3]),
            Err(moved(suite, 2, 4)),
            "two dropped"
        );
        for (body, i) in bodies[1..].iter().zip(2..) {
            assert_eq!(
                open(&mut opener, body),
                Ok((RecordType::Ping, vec![i])),
                "in order all open"
            );
        }
        assert_eq!(open(&mut opener, &bodies[3]), Err(moved(suite, 5, 4)));
    }
}

#[test]
fn another_direction_session_or_suite_is_another_key() {
    for suite in Suite::ALL {
        let mut one = session(suite, None, 1);
        let body = seal(&mut one.client.0, RecordType::Ping, b"x");
        assert_eq!(
            open(&mut one.client.1, &body),
            Err(foreign(suite)),
            "reflected"
        );
        let mut other = session(suite, None, 3);
        assert_eq!(
            open(&mut other.server.1, &body),
            Err(foreign(suite)),
            "another session"
        );
        let mut ratcheted = session(suite, Some(7), 1);
        assert_eq!(
            open(&mut ratcheted.server.1, &body),
            Err(foreign(suite)),
            "another hello"
        );
        let other = Suite::ALL[usize::from(suite == Suite::AES_256_GCM)];
        let refused = open(&mut session(other, None, 1).server.1, &body).unwrap_err();
        assert!(is_forgery(&refused), "another suite: {refused:?}");
        // The peers that made it are still in step.
        assert_eq!(
            open(&mut one.server.1, &body),
            Ok((RecordType::Ping, b"x".to_vec()))
        );
        let body = seal(&mut one.server.0, RecordType::Pong, b"x");
        assert_eq!(
            open(&mut one.server.1, &body),
            Err(foreign(suite)),
            "reflected"
        );
        assert_eq!(
            open(&mut one.client.1, &body),
            Ok((RecordType::Pong, b"x".to_vec()))
        );
    }
}

#[test]
fn the_first_records_do_not_open_again() {
    for suite in Suite::ALL {
        let mut session = session(suite, None, 1);
        let (finished, config) = (session.finished.clone(), session.config.clone());
        assert_eq!(
            open(&mut session.server.1, &finished),
            Err(moved(suite, 1, 0))
        );
        assert_eq!(
            open(&mut session.client.1, &config),
            Err(moved(suite, 1, 0))
        );
    }
}

#[test]
fn a_rekey_steps_one_direction_and_starts_to_count_again() {
    for suite in Suite::ALL {
        let mut session = session(suite, None, 1);
        let secret = session.client.0.secret().clone();
        let (sealer, opener) = (&mut session.client.0, &mut session.server.1);
        let late = seal(sealer, RecordType::Ping, b"before");
        assert_eq!(
            open(opener, &late),
            Ok((RecordType::Ping, b"before".to_vec()))
        );
        let step = rekey(sealer);
        assert_eq!(
            sealer.secret().bytes(),
            secret.rekey().bytes(),
            "the sender has stepped"
        );
        assert_eq!(
            opener.secret().bytes(),
            secret.bytes(),
            "the receiver has not"
        );
        let after = seal(sealer, RecordType::Ping, b"after");
        assert_eq!(
            open(opener, &after),
            Err(foreign(suite)),
            "the Rekey was dropped"
        );
        assert_eq!(open(opener, &step), Ok((RecordType::Rekey, vec![])));
        assert_eq!(opener.secret().bytes(), secret.rekey().bytes());
        assert_eq!(
            open(opener, &step),
            Err(foreign(suite)),
            "the Rekey repeated"
        );
        assert_eq!(
            open(opener, &late),
            Err(foreign(suite)),
            "a record under the old key"
        );
        assert_eq!(
            open(opener, &after),
            Ok((RecordType::Ping, b"after".to_vec()))
        );
        // Counters began again at zero: the second record under the new key is number 1.
        let skipped = seal(sealer, RecordType::Ping, b"");
        let next = seal(sealer, RecordType::Ping, b"");
        assert_eq!(open(opener, &next), Err(moved(suite, 1, 2)));
        assert_eq!(open(opener, &skipped), Ok((RecordType::Ping, vec![])));
        // The other direction has not moved.
        let body = seal(&mut session.server.0, RecordType::Pong, b"before");
        assert_eq!(
            open(&mut session.client.1, &body),
            Ok((RecordType::Pong, b"before".to_vec()))
        );
    }
}

#[test]
fn both_directions_may_rekey_at_once() {
    for suite in Suite::ALL {
        let mut session = session(suite, None, 1);
        for round in 0..5u8 {
            let (there, back) = (rekey(&mut session.client.0), rekey(&mut session.server.0));
            let ping = seal(&mut session.client.0, RecordType::Ping, &[round]);
            let pong = seal(&mut session.server.0, RecordType::Pong, &[round]);
            assert_eq!(
                open(&mut session.client.1, &back),
                Ok((RecordType::Rekey, vec![]))
            );
            assert_eq!(
                open(&mut session.server.1, &there),
                Ok((RecordType::Rekey, vec![]))
            );
            assert_eq!(
                open(&mut session.server.1, &ping),
                Ok((RecordType::Ping, vec![round]))
            );
            assert_eq!(
                open(&mut session.client.1, &pong),
                Ok((RecordType::Pong, vec![round]))
            );
        }
        assert_ne!(
            session.client.0.secret().bytes(),
            session.server.0.secret().bytes()
        );
    }
}

#[test]
fn a_rekey_is_due_after_a_gibibyte() {
    let (mut sealer, _) = direction(Suite::AES_256_GCM);
    let mut frame = vec![0; Suite::AES_256_GCM.frame_len(MAX_CONTENT)];
    let records = REKEY_AFTER_BYTES.div_ceil(MAX_CONTENT as u64);
    for _ in 0..records {
        assert!(!sealer.rekey_is_due());
        sealer
            .seal(
                RecordType::Packets,
                &mut frame,
                MAX_CONTENT,
                &mut counting(),
            )
            .unwrap();
    }
    assert!(sealer.rekey_is_due());
    rekey(&mut sealer);
    assert!(!sealer.rekey_is_due());
}

#[test]
fn the_timestamp_of_a_fernet_record_is_nobodys_business() {
    let mut session = session(Suite::FERNET, None, 1);
    for (counter, time) in (1u64..).zip([0, 1, common::TIME, u64::MAX - 60, u64::MAX]) {
        // Written here with a plain Fernet, as any library would.
        let fernet = Fernet::new(&Key::from_bytes(&session.client.0.secret().key()));
        let message = [&counter.to_be_bytes()[..], &[8], b"Hello, World!"].concat();
        let body = fernet.seal(&message, time, [6; 16]);
        let opened = open(&mut session.server.1, &body);
        assert_eq!(
            opened,
            Ok((RecordType::Message, b"Hello, World!".to_vec())),
            "{time}"
        );
    }
}

#[test]
fn random_bodies_are_refused_without_panic() {
    let mut random = Random(2);
    for suite in Suite::ALL {
        let (mut sealer, mut opener) = direction(suite);
        for _ in 0..3000 {
            let noise: Vec<u8> = (0..random.below(200))
                .map(|_| random.next().to_be_bytes()[0])
                .collect();
            assert!(is_forgery(&open(&mut opener, &noise).unwrap_err()));
        }
        let body = seal(&mut sealer, RecordType::Ping, b"x");
        assert_eq!(
            open(&mut opener, &body),
            Ok((RecordType::Ping, b"x".to_vec()))
        );
    }
}

/// An attacker on the path owns both wires. They see all records, keep them for ever, and deliver
/// any of them. The records that come out went in, in this order, once, with nothing missing
/// before.
#[test]
fn nothing_is_delivered_but_what_was_sent_in_order() {
    let kinds: Vec<_> = RecordType::of_tunnel().collect();
    for seed in 1..=200 {
        let mut random = Random(seed);
        let suite = Suite::ALL[random.below(Suite::ALL.len())];
        let mut session = session(suite, None, 1);
        let mut strangers = session_of_somebody_else(suite);
        let ends = [
            (&mut session.client.0, &mut session.server.1),
            (&mut session.server.0, &mut session.client.1),
        ];
        let mut lanes = ends.map(|(sealer, opener)| Lane {
            sealer,
            opener,
            sent: VecDeque::new(),
        });
        let mut seen: Vec<Vec<u8>> = vec![session.finished, session.config];
        let mut delivered = 0;
        for _ in 0..150 {
            let to = random.below(2);
            match random.below(12) {
                0..4 => {
                    let kind = kinds[random.below(kinds.len())];
                    let content: Vec<u8> = (0..random.below(60))
                        .map(|_| random.next().to_be_bytes()[0])
                        .collect();
                    let body = seal(lanes[to].sealer, kind, &content);
                    seen.push(body.clone());
                    lanes[to].sent.push_back((body, (kind, content)));
                }
                4 => {
                    let body = rekey(lanes[to].sealer);
                    seen.push(body.clone());
                    lanes[to]
                        .sent
                        .push_back((body, (RecordType::Rekey, vec![])));
                }
                5..9 => {
                    let Some((body, expected)) = lanes[to].sent.pop_front() else {
                        continue;
                    };
                    assert_eq!(
                        open(lanes[to].opener, &body),
                        Ok(expected),
                        "seed {seed}: the record that is due"
                    );
                    delivered += 1;
                }
                attack => {
                    let mut body = seen[random.below(seen.len())].clone();
                    match attack {
                        9 => {} // repeat, reorder or reflect it as it is
                        10 => {
                            let at = random.below(body.len());
                            body[at] ^= 1 << random.below(8);
                            body.truncate(body.len() - random.below(2) * random.below(body.len()));
                        }
                        _ => body = seal(&mut strangers, RecordType::Ping, b"x"),
                    }
                    if lanes[to].sent.front().is_some_and(|(due, _)| *due == body) {
                        continue; // that would be a delivery
                    }
                    assert!(
                        open(lanes[to].opener, &body).is_err(),
                        "seed {seed}: an attack succeeded"
                    );
                }
            }
        }
        // After all that, the rest arrives.
        for lane in &mut lanes {
            for (body, expected) in lane.sent.drain(..) {
                assert_eq!(
                    open(lane.opener, &body),
                    Ok(expected),
                    "seed {seed}: the rest"
                );
                delivered += 1;
            }
        }
        assert!(delivered > 10, "seed {seed} tested something");
    }
}

/// What a record is and holds.
type Inside = (RecordType, Vec<u8>);

struct Lane<'a> {
    sealer: &'a mut Sealer,
    opener: &'a mut Opener,
    /// What is under way: the body, and what it is to become.
    sent: VecDeque<(Vec<u8>, Inside)>,
}

fn session_of_somebody_else(suite: Suite) -> Sealer {
    session(suite, None, 100).client.0
}
