//! How is the message encrypted and padded? AES-128-CBC (NIST SP 800-38A section 6.2) with PKCS#7
//! padding (RFC 5652 section 6.3).
//!
//! ```text
//!  message              | padding: n bytes of value n, 1 <= n <= 16
//!  block 1 | block 2 | … | block k
//!  IV -> xor, AES -> xor, AES -> …            each block is mixed with the ciphertext before it
//! ```
//!
//! Authenticates nothing: [`super::token`] verifies the MAC before it calls [`decrypt`].

use aes_gcm::aes::cipher::consts::U16;
use aes_gcm::aes::cipher::{
    BlockCipherDecrypt, BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt,
    BlockSizeUser,
};
use aes_gcm::aes::{Aes128, Block};
use std::hint::black_box;

/// Bytes in an AES block, and in an IV.
pub const BLOCK: usize = 16;

/// Blocks decrypted at once: enough for every backend of the cipher, few enough for the nearest
/// cache.
const CHUNK: usize = 64;

/// Length in bytes of the ciphertext of a message of `n` bytes: there is always padding, at least
/// one byte.
pub const fn encrypted_len(n: usize) -> usize {
    (n / BLOCK + 1) * BLOCK
}

/// Pads and encrypts in place. `buffer` holds the message and then room for its padding.
///
/// # Panics
/// If `buffer.len()` is not `encrypted_len(message)`.
pub fn encrypt(aes: &Aes128, iv: [u8; BLOCK], buffer: &mut [u8], message: usize) {
    assert_eq!(
        buffer.len(),
        encrypted_len(message),
        "the buffer must be the padded message"
    );
    let padding = buffer.len() - message;
    buffer[message..].fill(u8::try_from(padding).expect("padding is 1 to 16 bytes"));
    aes.encrypt_with_backend(Chain {
        blocks: Block::slice_as_chunks_mut(buffer).0,
        previous: iv,
    });
}

/// Decrypts in place. Returns the message without its padding, or `None` if the padding is wrong or
/// `buffer` is not whole blocks, at least one.
pub fn decrypt<'a>(aes: &Aes128, iv: [u8; BLOCK], buffer: &'a mut [u8]) -> Option<&'a mut [u8]> {
    let (blocks, []) = Block::slice_as_chunks_mut(buffer) else {
        return None;
    };
    // Blocks decrypt independently, so the cipher takes many at once. Their ciphertext is kept for
    // the xor, behind the block before them: the IV, or the last block of the chunk before.
    let mut kept = [Block::from(iv); 1 + CHUNK];
    for chunk in blocks.chunks_mut(CHUNK) {
        let n = chunk.len();
        kept[1..=n].copy_from_slice(chunk);
        aes.decrypt_blocks(chunk);
        let before = Block::slice_as_flattened(&kept[..n]);
        for (byte, ciphertext) in Block::slice_as_flattened_mut(chunk).iter_mut().zip(before) {
            *byte ^= ciphertext;
        }
        kept[0] = kept[n];
    }
    let message = unpadded_len(buffer)?;
    Some(&mut buffer[..message])
}

/// Length in bytes without the padding. Looks at every byte of the last block whatever it holds.
/// Only the holder of a key gets this far, so the even time is a second fence. `black_box` is a
/// strong request to the compiler. Without it, the loop is compiled to a chain of early exits.
fn unpadded_len(padded: &[u8]) -> Option<usize> {
    let (_, last) = padded.split_last_chunk::<BLOCK>()?;
    let padding = last[BLOCK - 1];
    let mut wrong = u8::from(padding == 0) | u8::from(usize::from(padding) > BLOCK);
    for (distance, &byte) in (1u8..).zip(last.iter().rev()) {
        wrong = black_box(wrong | u8::from(distance <= padding) & u8::from(byte != padding));
    }
    // `wrong` is 0 only if `padding` is 1 to 16, hence no more than `padded` holds.
    if wrong == 0 {
        Some(padded.len() - usize::from(padding))
    } else {
        None
    }
}

/// The CBC chain as one call into the cipher's backend. So the processor instructions are chosen
/// once for the message instead of once a block.
struct Chain<'a> {
    blocks: &'a mut [Block],
    previous: [u8; BLOCK],
}

impl BlockSizeUser for Chain<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for Chain<'_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        let mut previous = self.previous;
        for block in self.blocks {
            *block = xor(previous, (*block).into()).into();
            backend.encrypt_block(block.into());
            previous = (*block).into();
        }
    }
}

#[inline]
fn xor(a: [u8; BLOCK], b: [u8; BLOCK]) -> [u8; BLOCK] {
    (u128::from_ne_bytes(a) ^ u128::from_ne_bytes(b)).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aes_gcm::KeyInit;

    fn aes() -> Aes128 {
        Aes128::new(&[7; 16].into())
    }

    #[test]
    fn nist_sp_800_38a_f_2_1() {
        let hex = |s: &str| -> Vec<u8> {
            (0..s.len())
                .step_by(2)
                .map(|i| u8::from_str_radix(&s[i..i + 2], 16).expect("hex"))
                .collect()
        };
        let key: [u8; 16] = hex("2b7e151628aed2a6abf7158809cf4f3c")
            .try_into()
            .expect("16 bytes");
        let iv: [u8; 16] = hex("000102030405060708090a0b0c0d0e0f")
            .try_into()
            .expect("16 bytes");
        let mut buffer = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
        buffer.extend([0; 16]);
        encrypt(&Aes128::new(&key.into()), iv, &mut buffer, 32);
        assert_eq!(
            buffer[..32],
            hex("7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2")
        );
    }

    #[test]
    fn every_length_round_trips() {
        for n in 0..1200 {
            let mut message: Vec<u8> = (0..n).map(|i| (i * 31) as u8).collect();
            let mut buffer = message.clone();
            buffer.resize(encrypted_len(n), 0);
            encrypt(&aes(), [9; 16], &mut buffer, n);
            assert_eq!(
                decrypt(&aes(), [9; 16], &mut buffer),
                Some(&mut message[..])
            );
        }
    }

    #[test]
    fn padding_is_one_to_sixteen_bytes_of_its_own_number() {
        for last in 0..=255u8 {
            let mut block = [last; 16];
            let expected = if (1..=16).contains(&last) {
                Some(16 - usize::from(last))
            } else {
                None
            };
            assert_eq!(unpadded_len(&block), expected, "all bytes {last}");
            for wrong in 0..15 {
                block = [last; 16];
                block[wrong] ^= 1;
                let inside = wrong + usize::from(last) >= 16;
                let expected = if inside { None } else { expected };
                assert_eq!(
                    unpadded_len(&block),
                    expected,
                    "{last} with byte {wrong} changed"
                );
            }
        }
    }

    #[test]
    fn no_block_and_broken_blocks_are_refused() {
        for n in [0, 1, 15, 17, 31] {
            assert_eq!(decrypt(&aes(), [0; 16], &mut vec![0; n]), None);
        }
    }
}
