//! Which bytes does the text stand for? Base64url with padding, RFC 4648 section 5.
//!
//! ```text
//!  bytes   aaaaaaaa bbbbbbbb cccccccc
//!  digits  aaaaaa aabbbb bbbbcc cccccc     each 0..=63, written A-Z a-z 0-9 - _
//! ```
//!
//! Strict: one text for one value, so that a token cannot be respelled. This refuses every
//! character outside the alphabet, which includes blanks, line ends, `+` and `/`. It also refuses
//! unused bits that are not zero, and padding that is neither canonical nor wholly absent.
//!
//! Digits are computed, not looked up: a table indexed by a secret leaks it through the cache.

use std::fmt;

/// Why a text is not base64url.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base64Error {
    /// The character at this offset is outside the alphabet (or is padding where none belongs).
    Character(usize),
    /// No value has a text of this length: one digit holds less than a byte.
    Length,
    /// The last digit has bits set that belong to no byte.
    TrailingBits,
}

impl fmt::Display for Base64Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Base64Error::Character(at) => write!(f, "character {at} is not base64url"),
            Base64Error::Length => write!(f, "no base64url text has this length"),
            Base64Error::TrailingBits => {
                write!(f, "the unused bits of the last digit are not zero")
            }
        }
    }
}

/// Length in characters of the padded text of `bytes` bytes.
pub const fn encoded_len(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

/// Encodes in place: the last `bytes` bytes of `text` become the text that fills all of it.
///
/// Front to back, the text never overtakes the bytes. After `i` groups, `4i` characters are
/// written, and the next unread byte is at `text.len() - bytes + 3i`. That is no less, because
/// `text.len() - bytes` is at least the number of groups.
///
/// # Panics
/// If `text.len()` is not `encoded_len(bytes)`.
pub fn encode_in_place(text: &mut [u8], bytes: usize) {
    assert_eq!(
        text.len(),
        encoded_len(bytes),
        "the text must fill the buffer"
    );
    let mut from = text.len() - bytes;
    let mut to = 0;
    // Sixteen whole groups at a time.
    while let Some(group) = text[from..].first_chunk() {
        let digits = encode_groups(group);
        text[to..to + 64].copy_from_slice(&digits);
        from += 48;
        to += 64;
    }
    // The rest as if zeros followed; then the padding takes the place of the digits that hold no
    // byte.
    let rest = text.len() - from;
    let mut group = [0; 49];
    group[..rest].copy_from_slice(&text[from..]);
    let digits = encode_groups(&group);
    let end = text.len();
    text[to..].copy_from_slice(&digits[..end - to]);
    text[end - (3 - rest % 3) % 3..].fill(b'=');
}

/// Decodes in place: the bytes come to stand at the start of `text`. Returns their number.
///
/// # Errors
/// [`Base64Error`], with the contents of `text` then undefined.
pub fn decode_in_place(text: &mut [u8]) -> Result<usize, Base64Error> {
    // Padding is canonical (it completes the last group of four) or absent.
    let padding = match text {
        [.., b'=', b'='] if text.len().is_multiple_of(4) => 2,
        [.., b'='] if text.len().is_multiple_of(4) => 1,
        _ => 0,
    };
    let digits = text.len() - padding;
    if digits % 4 == 1 {
        return Err(Base64Error::Length);
    }
    let mut from = 0;
    let mut to = 0;
    while let Some(group) = text[from..digits].first_chunk().copied() {
        decode_groups(&group, &mut text[to..]).map_err(|at| Base64Error::Character(from + at))?;
        from += 64;
        to += 48;
    }
    // The rest as if zeros followed, which is what the bits behind the last byte must be.
    let rest = digits - from;
    let mut group = [b'A'; 64];
    group[..rest].copy_from_slice(&text[from..digits]);
    let mut bytes = [0; 50];
    decode_groups(&group, &mut bytes).map_err(|at| Base64Error::Character(from + at))?;
    let whole = rest * 3 / 4;
    if bytes[whole..].iter().any(|&byte| byte != 0) {
        return Err(Base64Error::TrailingBits);
    }
    text[to..to + whole].copy_from_slice(&bytes[..whole]);
    Ok(to + whole)
}

/// Sixteen groups: 48 bytes, and one more that is not looked at, to 64 characters. The three bytes
/// of a group are read as a little-endian word; its four digits are cut out as in the picture
/// above. No branches, and one plain step after the other for all of them, which a compiler turns
/// into vector instructions.
fn encode_groups(bytes: &[u8; 49]) -> [u8; 64] {
    let mut text = [0; 64];
    for (i, digits) in text.as_chunks_mut().0.iter_mut().enumerate() {
        let mut group = [0; 4];
        group.copy_from_slice(&bytes[3 * i..3 * i + 4]);
        let a = u32::from_le_bytes(group);
        let b = a >> 8;
        let c = a >> 16;
        let first = a >> 2 & 0x3f;
        let second = (a & 3) << 4 | b >> 4 & 15;
        let third = (b & 15) << 2 | c >> 6 & 3;
        let fourth = c & 0x3f;
        *digits = (first | second << 8 | third << 16 | fourth << 24).to_le_bytes();
    }
    for digit in &mut text {
        *digit = character(*digit);
    }
    text
}

/// Sixteen groups: 64 characters to 48 bytes, and two zeros behind them. Two groups at a time are
/// joined in one word of 64 bits: 8 digits of 6 bits to 4 × 12, to 2 × 24, to 48.
///
/// # Errors
/// The offset of a character outside the alphabet.
fn decode_groups(text: &[u8; 64], bytes: &mut [u8]) -> Result<(), usize> {
    let mut digits = *text;
    for character in &mut digits {
        *character = digit(*character);
    }
    let bytes = &mut bytes[..50];
    let mut all = 0;
    for (i, digits) in digits.as_chunks::<8>().0.iter().enumerate() {
        let word = u64::from_be_bytes(*digits);
        all |= word;
        let word = (word & 0x3f00_3f00_3f00_3f00) >> 2 | word & 0x003f_003f_003f_003f;
        let word = (word & 0x0fff_0000_0fff_0000) >> 4 | word & 0x0000_0fff_0000_0fff;
        let word = (word & 0x00ff_ffff_0000_0000) >> 8 | word & 0x0000_0000_00ff_ffff;
        bytes[6 * i..6 * i + 8].copy_from_slice(&(word << 16).to_be_bytes());
    }
    if all & 0xc0c0_c0c0_c0c0_c0c0 == 0 {
        return Ok(());
    }
    Err(text
        .iter()
        .position(|&character| digit(character) > 63)
        .unwrap_or(0))
}

/// The character of a digit 0..=63, without a branch or a look-up. Each comparison adds the step
/// from the end of one range of the alphabet to the start of the next.
#[inline]
fn character(digit: u8) -> u8 {
    // Signed, because that is the comparison of bytes that every processor has.
    let step = |above: i8, by: u8| if digit.cast_signed() > above { by } else { 0 };
    (digit + b'A')
        .wrapping_add(step(25, b'a'.wrapping_sub(b'Z' + 1)))
        .wrapping_add(step(51, b'0'.wrapping_sub(b'z' + 1)))
        .wrapping_add(step(61, b'-'.wrapping_sub(b'9' + 1)))
        .wrapping_add(step(62, b'_'.wrapping_sub(b'-' + 1)))
}

/// The digit of a character, or 255: the ranges exclude each other, so that their values may be
/// joined by `or`.
#[inline]
fn digit(character: u8) -> u8 {
    let range = |first: u8, last: u8, value: u8| {
        let offset = character.wrapping_sub(first);
        // Stored plus one, so that 0 can mean "not in this range".
        if offset <= last - first {
            offset + value + 1
        } else {
            0
        }
    };
    (range(b'A', b'Z', 0)
        | range(b'a', b'z', 26)
        | range(b'0', b'9', 52)
        | range(b'-', b'-', 62)
        | range(b'_', b'_', 63))
    .wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(bytes: &[u8]) -> String {
        let mut text = vec![0; encoded_len(bytes.len())];
        let start = text.len() - bytes.len();
        text[start..].copy_from_slice(bytes);
        encode_in_place(&mut text, bytes.len());
        String::from_utf8(text).expect("ASCII")
    }

    fn decode(text: &str) -> Result<Vec<u8>, Base64Error> {
        let mut text = text.as_bytes().to_vec();
        decode_in_place(&mut text).map(|n| text[..n].to_vec())
    }

    #[test]
    fn rfc_4648_vectors() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text).as_deref(), Ok(bytes.as_bytes()));
        }
    }

    #[test]
    fn the_whole_alphabet_in_order() {
        let text = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        assert_eq!(encode(&decode(text).expect("valid")), text);
        for (value, c) in text.bytes().enumerate() {
            assert_eq!(usize::from(digit(c)), value);
        }
        assert_eq!((0..=255u8).filter(|&c| digit(c) <= 63).count(), 64);
    }

    #[test]
    fn every_length_round_trips() {
        for n in 0..200 {
            let bytes: Vec<u8> = (0..n).map(|i| (i * 167 + 13) as u8).collect();
            let text = encode(&bytes);
            assert_eq!(decode(&text).as_deref(), Ok(&bytes[..]));
            assert_eq!(
                decode(text.trim_end_matches('=')).as_deref(),
                Ok(&bytes[..]),
                "absent padding"
            );
        }
    }

    #[test]
    fn every_text_of_one_group_has_one_value() {
        // Canonical: whatever decodes, encodes to the same text.
        let some = b"AZaz09-_=+/ \n\x00\x80Q";
        for &a in some {
            for &b in some {
                for &c in some {
                    for &d in some {
                        let mut text = [a, b, c, d];
                        let Ok(n) = decode_in_place(&mut text) else {
                            continue;
                        };
                        assert_eq!(encode(&text[..n]).as_bytes(), [a, b, c, d]);
                    }
                }
            }
        }
    }

    #[test]
    fn refusals() {
        assert_eq!(decode("A"), Err(Base64Error::Length));
        assert_eq!(
            decode("Zg="),
            Err(Base64Error::Character(2)),
            "half of the padding"
        );
        assert_eq!(decode("Zm9v="), Err(Base64Error::Length));
        assert_eq!(decode("Zm9v===="), Err(Base64Error::Character(4)));
        assert_eq!(decode("Zm9vYg==AAAA"), Err(Base64Error::Character(6)));
        assert_eq!(decode("Zh=="), Err(Base64Error::TrailingBits));
        assert_eq!(decode("Zm9="), Err(Base64Error::TrailingBits));
        assert_eq!(decode("Zm9"), Err(Base64Error::TrailingBits));
        let long = "A".repeat(100) + "+" + &"A".repeat(99);
        assert_eq!(decode(&long), Err(Base64Error::Character(100)));
    }
}
