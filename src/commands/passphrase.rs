//! Which key belongs to a passphrase? PBKDF2-HMAC-SHA256, RFC 8018 section 5.2.
//!
//! ```text
//!  U1 = HMAC(passphrase, salt | 00 00 00 01)      Un = HMAC(passphrase, Un-1)
//!  key = U1 xor U2 xor … xor Uc      32 bytes, which is one block of the RFC, so i is always 1
//! ```
//!
//! The key is that of the recipe in the documentation of Python's `cryptography`:
//! `urlsafe_b64encode(PBKDF2HMAC(SHA256(), length=32, salt, iterations).derive(passphrase))`.
//!
//! The iterations only make each guess expensive. An attacker with one token or one recorded hello
//! can guess without limit.

use crate::fernet::{Key, key};
use hmac::digest::zeroize::Zeroizing;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::num::NonZeroU32;

/// The number of iterations in the recipe.
pub const ITERATIONS: u32 = 1_200_000;

/// The key of a passphrase.
pub fn derive(passphrase: &[u8], salt: &[u8], iterations: NonZeroU32) -> Key {
    // The state is keyed once. A clone of it saves two of the four compressions of each iteration.
    let keyed = Hmac::<Sha256>::new_from_slice(passphrase).expect("HMAC takes a key of any length");
    let hmac = |text: &[u8]| -> [u8; key::LENGTH] {
        keyed
            .clone()
            .chain_update(text)
            .finalize()
            .into_bytes()
            .into()
    };
    let first = [salt, &1u32.to_be_bytes()].concat();
    let mut u = Zeroizing::new(hmac(&first));
    let mut all = u.clone();
    for _ in 1..iterations.get() {
        *u = hmac(&u[..]);
        all.iter_mut().zip(u.iter()).for_each(|(all, u)| *all ^= u);
    }
    Key::from_bytes(&all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derived(passphrase: &[u8], salt: &[u8], iterations: u32) -> String {
        derive(
            passphrase,
            salt,
            NonZeroU32::new(iterations).expect("not zero"),
        )
        .to_text()
    }

    /// Made with Python's `cryptography` 48.0.0.
    #[test]
    fn as_python_derives_it() {
        assert_eq!(
            derived(b"password", b"salt", 1),
            "Eg-2z_z4syxD5yJSVsT4N6hlSMkszDVICAWYfLcL4Xs="
        );
        assert_eq!(
            derived(b"password", b"salt", 2),
            "rk0Mla9rRtMtCt_5KPBt0CowP47zwlHf1uLYWpVHTEM="
        );
        assert_eq!(
            derived("pass\u{e9}".as_bytes(), "s\u{e4}lz".as_bytes(), 1000),
            "jeURyqensys39p5lClwYjRQA5Eg3riY3XXoHPrtfJ8E="
        );
        assert_eq!(
            derived(&[b'a'; 65], &[b's'; 70], 3),
            "JbmFR82wbj6yntvxRyM4lkpxOQwt6MIf6uXaeCd2WFA="
        );
        assert_eq!(
            derived(b"correct horse battery staple", b"fernvpn", ITERATIONS),
            "uM5YAC4VkUaLFflPhSOY1WhQD9uRsBk6hpxfDlrg1FQ="
        );
    }
}
