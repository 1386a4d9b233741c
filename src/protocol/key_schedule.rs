//! Which key is used for what? PROTOCOL.md sections 2 and 5.
//!
//! ```text
//!  K ─┬─ "id"      8 bytes, finds the client's key
//!     ├─ "hello"   a Fernet key, seals both hellos
//!     ├─ "client" + SHA-256(both hello frames) ─> traffic secret ─┬─ "key"    32 bytes
//!     ├─ "server" + SHA-256(both hello frames) ─> traffic secret  ├─ "iv"     12 bytes
//!     │                                                           └─ "rekey"  the next secret
//!     └─ "next"   + the server's ratchet secret ─> K of the next step
//! ```
//!
//! Every arrow is one HKDF-SHA256 (RFC 5869) with a label of its own. HKDF's outputs under
//! different labels or salts are independent, so no use of one branch weakens another, and `K`
//! itself encrypts nothing.

use crate::fernet::{Fernet, Key};
use hmac::digest::zeroize::Zeroizing;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;

/// Eight bytes by which the server finds a client's key. Tells a stranger nothing but that it is
/// the same key again.
pub type Id = [u8; 8];

/// A client's key `K`, with the two branches that do not depend on the session.
#[derive(Clone)]
pub struct Root {
    key: Key,
    id: Id,
    hello: Fernet,
}

impl Root {
    /// Derives the branches of `key`.
    pub fn new(key: Key) -> Root {
        let id = **derive(key.bytes(), &[], "id");
        let hello = Fernet::new(&Key::from_bytes(&derive(key.bytes(), &[], "hello")));
        Root { key, id, hello }
    }

    /// The branch "id".
    pub fn id(&self) -> Id {
        self.id
    }

    /// The branch "hello", ready for use.
    pub fn hello(&self) -> &Fernet {
        &self.hello
    }

    /// The branches "client" and "server": the first traffic secrets of the session with this
    /// transcript.
    pub fn traffic_secrets(&self, transcript: &[u8; 32]) -> [TrafficSecret; 2] {
        ["client", "server"]
            .map(|sender| TrafficSecret(derive(self.key.bytes(), transcript, sender)))
    }

    /// The branch "next": `K` of the next step of a ratcheted key.
    pub fn next(&self, secret: &[u8; 32]) -> Root {
        Root::new(Key::from_bytes(&derive(self.key.bytes(), secret, "next")))
    }

    /// `K` itself, for the file that keeps it.
    pub fn key(&self) -> &Key {
        &self.key
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Root(id {:016x})", u64::from_be_bytes(self.id))
    }
}

/// What the keys of one direction are made from, until the next rekey. In a box, as [`Key`] is: it
/// moves with its session.
#[derive(Clone)]
pub struct TrafficSecret(Boxed<32>);

/// Derived bytes, which leave no copy where they were before they moved.
pub type Boxed<const N: usize> = Box<Zeroizing<[u8; N]>>;

impl TrafficSecret {
    /// The record key: of AES-256-GCM, or a Fernet key.
    pub fn key(&self) -> Boxed<32> {
        derive(&self.0[..], &[], "key")
    }

    /// The IV that AES-256-GCM's nonces are made from.
    pub fn iv(&self) -> Boxed<12> {
        derive(&self.0[..], &[], "iv")
    }

    /// The secret after a rekey. There is no way back.
    pub fn rekey(&self) -> TrafficSecret {
        TrafficSecret(derive(&self.0[..], &[], "rekey"))
    }

    /// The secret itself, for a key log.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The secret with these bytes, from a key log.
    pub fn from_bytes(bytes: &[u8; 32]) -> TrafficSecret {
        TrafficSecret(Box::new(Zeroizing::new(*bytes)))
    }
}

/// `derive(key, salt, label, N)` of the specification: HKDF with the info `"fernvpn 1 " + label`.
fn derive<const N: usize>(key: &[u8], salt: &[u8], label: &str) -> Boxed<N> {
    let mut out = Box::new(Zeroizing::new([0; N]));
    hkdf(
        key,
        salt,
        format!("fernvpn 1 {label}").as_bytes(),
        &mut out[..],
    );
    out
}

/// HKDF-SHA256, RFC 5869.
///
/// # Panics
/// If `out` is longer than 255 blocks of 32 bytes.
pub fn hkdf(key: &[u8], salt: &[u8], info: &[u8], out: &mut [u8]) {
    // Extract. An absent salt is a block of zeros, which HMAC makes of an empty key by itself.
    let extracted =
        Zeroizing::<[u8; 32]>::new(hmac(salt).chain_update(key).finalize().into_bytes().into());
    // Expand: T(i) = HMAC(extracted, T(i-1) ‖ info ‖ i).
    let mut previous = Zeroizing::new([0; 32]);
    for (i, block) in out.chunks_mut(32).enumerate() {
        let number = u8::try_from(i + 1).expect("at most 255 blocks");
        let mut mac = hmac(&extracted[..]);
        if i > 0 {
            mac.update(&previous[..]);
        }
        *previous = mac
            .chain_update(info)
            .chain_update([number])
            .finalize()
            .into_bytes()
            .into();
        block.copy_from_slice(&previous[..block.len()]);
    }
}

fn hmac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        text.as_bytes()
            .chunks(2)
            .map(|d| u8::from_str_radix(str::from_utf8(d).unwrap(), 16).unwrap())
            .collect()
    }

    #[test]
    fn rfc_5869_test_cases_1_and_3() {
        let mut out = [0; 42];
        hkdf(
            &[0x0b; 22],
            &hex("000102030405060708090a0b0c"),
            &hex("f0f1f2f3f4f5f6f7f8f9"),
            &mut out,
        );
        let expected =
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
        assert_eq!(out[..], hex(expected));
        hkdf(&[0x0b; 22], &[], &[], &mut out);
        let expected =
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8";
        assert_eq!(out[..], hex(expected));
    }

    #[test]
    fn every_branch_is_another_key() {
        let root = Root::new(Key::from_bytes(&[1; 32]));
        let [client, server] = root.traffic_secrets(&[2; 32]);
        let [other, _] = root.traffic_secrets(&[3; 32]);
        let all = [
            *client.bytes(),
            *server.bytes(),
            *other.bytes(),
            **client.key(),
            **server.key(),
            *client.rekey().bytes(),
            **client.rekey().key(),
            *root.next(&[2; 32]).key().bytes(),
            *root.key().bytes(),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(
                all[..i].iter().all(|b| a != b),
                "branch {i} repeats another"
            );
        }
        assert_ne!(root.id(), Root::new(Key::from_bytes(&[2; 32])).id());
    }
}
