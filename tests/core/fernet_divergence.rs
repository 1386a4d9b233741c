//! Where do implementations of Fernet differ, and what happens here? One test for each row of the
//! table in `docs/FERNET.md`, and every edge that a hand-written implementation can fall over.

use aes_gcm::aes::Aes128;
use fernvpn::fernet::base64url::{self, Base64Error};
use fernvpn::fernet::key::KeyError;
use fernvpn::fernet::token::{self, Age, Fernet, HEADER, MAC, TokenError};
use fernvpn::fernet::{Key, cbc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const TIME: u64 = 1_700_000_000;
const IV: [u8; 16] = *b"never twice, now";

fn key() -> Key {
    Key::from_bytes(b"the signing key.the other key...")
}

fn encode(raw: &[u8]) -> Vec<u8> {
    let mut text = vec![0; base64url::encoded_len(raw.len())];
    let start = text.len() - raw.len();
    text[start..].copy_from_slice(raw);
    base64url::encode_in_place(&mut text, raw.len());
    text
}

/// What only a holder of the key can make: `signed`, whatever it is, with a good MAC.
fn forge(signed: &[u8]) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(&key().bytes()[..16]).expect("any length");
    let mac = mac.chain_update(signed).finalize().into_bytes();
    encode(&[signed, &mac].concat())
}

fn header(version: u8, time: u64) -> Vec<u8> {
    [&[version][..], &time.to_be_bytes(), &IV].concat()
}

/// A token whose padded message is `padded`.
fn forge_padded(padded: &[u8]) -> Vec<u8> {
    let aes = Aes128::new_from_slice(&key().bytes()[16..]).expect("16 bytes");
    let mut ciphertext = [padded, &[0; 16]].concat();
    // Encrypting adds a block of padding; without it, the padding is what the caller chose.
    cbc::encrypt(&aes, IV, &mut ciphertext, padded.len());
    forge(&[&header(0x80, TIME)[..], &ciphertext[..padded.len()]].concat())
}

fn seal(message: &[u8], time: u64) -> Vec<u8> {
    Fernet::new(&key()).seal(message, time, IV)
}

fn open_aged(text: &[u8], age: Option<Age>) -> Result<Vec<u8>, TokenError> {
    token::open(&[Fernet::new(&key())], &mut text.to_vec(), age)
        .map(|opened| opened.message.to_vec())
}

fn open(text: &[u8]) -> Result<Vec<u8>, TokenError> {
    open_aged(text, None)
}

fn at(time: u64, now: u64, ttl: u64) -> Result<Vec<u8>, TokenError> {
    open_aged(&seal(b"m", time), Some(Age { now, ttl }))
}

fn character(offset: usize) -> Result<Vec<u8>, TokenError> {
    Err(TokenError::Text(Base64Error::Character(offset)))
}

/// The message of every token that is only there to be good.
fn good() -> Result<Vec<u8>, TokenError> {
    Ok(b"m".to_vec())
}

// The text.

#[test]
fn absent_padding_is_accepted() {
    for n in 0..100 {
        let message = vec![b'm'; n];
        let text = seal(&message, TIME);
        let bare = String::from_utf8(text.clone()).expect("ASCII");
        assert_eq!(
            open(bare.trim_end_matches('=').as_bytes()),
            Ok(message.clone())
        );
        assert_eq!(open(&text), Ok(message));
    }
}

/// 73 bytes, hence 98 digits and two '='.
fn two_paddings() -> Vec<u8> {
    let text = seal(b"m", TIME);
    assert!(text.len() == 100 && text.ends_with(b"=="));
    text
}

#[test]
fn half_of_the_padding_is_refused() {
    assert_eq!(open(&two_paddings()[..99]), character(98));
}

#[test]
fn extra_padding_is_refused() {
    let text = two_paddings();
    assert_eq!(
        open(&[&text[..], b"="].concat()),
        Err(TokenError::Text(Base64Error::Length))
    );
    assert_eq!(open(&[&text[..], b"=="].concat()), character(98));
    assert_eq!(open(&[&text[..], b"===="].concat()), character(98));
    // 105 bytes: a text that needs no padding.
    let even = seal(&[0; 32], TIME);
    assert!(even.len() == 140 && !even.ends_with(b"="));
    assert_eq!(
        open(&[&even[..], b"="].concat()),
        Err(TokenError::Text(Base64Error::Length))
    );
    assert_eq!(open(&[&even[..], b"=="].concat()), character(140));
    assert_eq!(open(&[&even[..], b"===="].concat()), character(140));
}

#[test]
fn nothing_may_follow_the_padding() {
    for garbage in ["-GARBAGE", "AAAA", "A===", "\0\0\0\0"] {
        assert_eq!(
            open(&[&two_paddings()[..], garbage.as_bytes()].concat()),
            character(98),
            "{garbage}"
        );
    }
}

#[test]
fn white_space_is_refused() {
    let text = two_paddings();
    for space in ["\n", "\r\n", " ", "\t", "\n\n\n\n"] {
        for place in [0, 1, 50, 98, 100] {
            let broken = [&text[..place], space.as_bytes(), &text[place..]].concat();
            assert!(
                matches!(open(&broken), Err(TokenError::Text(_))),
                "{space:?} at {place}"
            );
        }
    }
}

#[test]
fn every_character_outside_the_alphabet_is_refused_at_its_offset() {
    let text = two_paddings();
    for bad in (0..=255u8).filter(|c| !c.is_ascii_alphanumeric() && !b"-_".contains(c)) {
        for offset in 0..98 {
            let mut broken = text.clone();
            broken[offset] = bad;
            assert_eq!(open(&broken), character(offset), "byte {bad:#04x}");
        }
    }
}

#[test]
fn the_plain_base64_alphabet_is_refused() {
    // Find a token with both '-' and '_' in it: the IV is ours to choose.
    let text = Fernet::new(&key()).seal(
        b"m",
        TIME,
        [
            0xfb, 0xff, 0xbf, 0xfb, 0xff, 0xbf, 0xfb, 0xff, 0xbf, 0, 0, 0, 0, 0, 0, 0,
        ],
    );
    for (url, plain) in [(b'-', b'+'), (b'_', b'/')] {
        let first = text
            .iter()
            .position(|c| *c == url)
            .expect("the IV makes it appear");
        let replaced: Vec<u8> = text
            .iter()
            .map(|c| if *c == url { plain } else { *c })
            .collect();
        assert_eq!(
            open(&replaced),
            character(first),
            "all {}",
            char::from(plain)
        );
        let mut one = text.clone();
        one[first] = plain;
        assert_eq!(open(&one), character(first), "mixed");
    }
    assert_eq!(open(&text), good());
}

#[test]
fn padding_in_the_middle_is_refused() {
    let text = two_paddings();
    for offset in 0..98 {
        let mut broken = text.clone();
        broken[offset] = b'=';
        assert_eq!(open(&broken), character(offset));
    }
}

#[test]
fn trailing_bits_are_refused() {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // One byte in the last group leaves four bits over (15 false spellings), two leave two (3).
    for (n, false_spellings) in [(0, 15), (16, 3), (32, 0)] {
        let text = seal(&vec![b'm'; n], TIME);
        let digits = text.iter().position(|c| *c == b'=').unwrap_or(text.len());
        let value = alphabet
            .iter()
            .position(|c| *c == text[digits - 1])
            .expect("a digit");
        for extra in 1..=false_spellings {
            let mut respelled = text.clone();
            respelled[digits - 1] = alphabet[value + extra];
            for respelled in [&respelled[..], &respelled[..digits]] {
                assert_eq!(
                    open(respelled),
                    Err(TokenError::Text(Base64Error::TrailingBits)),
                    "{n} + {extra}"
                );
            }
        }
        // The next digit is another value, not another spelling.
        if false_spellings > 0 {
            let mut other = text.clone();
            other[digits - 1] = alphabet[(value + false_spellings + 1) % 64];
            assert_eq!(open(&other), Err(TokenError::Mac));
        }
    }
}

#[test]
fn lengths_that_no_text_has() {
    for n in 0..200 {
        let expected = match n {
            0 => TokenError::Version(None),
            _ if n % 4 == 1 => TokenError::Text(Base64Error::Length),
            _ => TokenError::Version(Some(0)),
        };
        assert_eq!(open(&vec![b'A'; n]), Err(expected), "{n} times 'A'");
    }
    assert_eq!(
        open(&vec![b'A'; 1 << 24]),
        Err(TokenError::Version(Some(0))),
        "very long"
    );
}

#[test]
fn one_text_for_one_token() {
    // Whatever is done to one character, the result is refused: no token has a second spelling.
    let text = two_paddings();
    for offset in 0..text.len() {
        for c in (0..=255).filter(|c| *c != text[offset]) {
            let mut other = text.clone();
            other[offset] = c;
            assert!(open(&other).is_err(), "character {offset} as {c:#04x}");
        }
    }
}

// The bytes.

#[test]
fn every_flipped_bit_is_refused() {
    for message in [&b""[..], b"m", &[7; 16], &[7; 31], &[7; 32]] {
        let mut raw = seal(message, TIME);
        let n = base64url::decode_in_place(&mut raw).expect("a token");
        raw.truncate(n);
        for bit in 0..8 * n {
            let mut flipped = raw.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < 8 {
                TokenError::Version(Some(flipped[0]))
            } else {
                TokenError::Mac
            };
            assert_eq!(
                open(&encode(&flipped)),
                Err(expected),
                "bit {bit} of {n} bytes"
            );
        }
        for byte in 1..n {
            let mut flipped = raw.clone();
            flipped[byte] ^= 0xff;
            assert_eq!(open(&encode(&flipped)), Err(TokenError::Mac), "byte {byte}");
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    let text = seal(&[7; 40], TIME);
    for n in 0..text.len() {
        let digits = text[..n].iter().position(|c| *c == b'=').unwrap_or(n);
        let whole = text.iter().position(|c| *c == b'=').unwrap_or(text.len());
        if digits == whole && n == whole {
            assert!(open(&text[..n]).is_ok(), "only the padding is gone");
        } else {
            assert!(open(&text[..n]).is_err(), "the first {n} characters");
        }
    }
    let mut raw = text;
    let n = base64url::decode_in_place(&mut raw).expect("a token");
    for n in 0..n {
        let expected = match n {
            0 => TokenError::Version(None),
            _ if n > 57 && (n - 57) % 16 == 0 => TokenError::Mac,
            _ => TokenError::Length(n),
        };
        assert_eq!(
            open(&encode(&raw[..n])),
            Err(expected),
            "the first {n} bytes"
        );
    }
}

#[test]
fn every_truncation_with_a_good_mac_is_refused() {
    // 0, 1, 8, 9, 24 and 25 signed bytes are the edges; all in between too.
    let signed = header(0x80, TIME);
    for n in 0..=HEADER {
        let refused = open(&forge(&signed[..n])).expect_err("no ciphertext");
        if n == 0 {
            assert!(
                matches!(refused, TokenError::Version(_) | TokenError::Length(32)),
                "a MAC alone"
            );
        } else {
            assert_eq!(refused, TokenError::Length(n + MAC));
        }
    }
}

#[test]
fn an_empty_ciphertext_is_refused() {
    assert_eq!(
        open(&forge(&header(0x80, TIME))),
        Err(TokenError::Length(57))
    );
}

#[test]
fn broken_blocks_with_a_good_mac_are_refused() {
    for n in (0..100).filter(|n| n % 16 != 0) {
        let signed = [&header(0x80, TIME)[..], &vec![7; n]].concat();
        assert_eq!(
            open(&forge(&signed)),
            Err(TokenError::Length(57 + n)),
            "{n} bytes of ciphertext"
        );
    }
}

#[test]
fn other_versions_with_a_good_mac_are_refused() {
    let mut raw = seal(b"m", TIME);
    let n = base64url::decode_in_place(&mut raw).expect("a token");
    for version in 0..=255u8 {
        raw[0] = version;
        let opened = open(&forge(&raw[..n - MAC]));
        match version {
            0x80 => assert_eq!(opened, good()),
            _ => assert_eq!(opened, Err(TokenError::Version(Some(version)))),
        }
    }
}

#[test]
fn wrong_paddings_with_a_good_mac() {
    for blocks in 1..=3 {
        for last in 0..=255u8 {
            // Consistent, that is, as many bytes of this value as it says.
            let mut padded = vec![b'm'; 16 * blocks];
            let n = padded.len();
            padded[n.saturating_sub(usize::from(last).max(1))..].fill(last);
            let opened = open(&forge_padded(&padded));
            if (1..=16).contains(&last) {
                assert_eq!(opened, Ok(vec![b'm'; n - usize::from(last)]));
            } else {
                assert_eq!(
                    opened,
                    Err(TokenError::Padding),
                    "{last} in {blocks} blocks"
                );
            }
            // Each byte of it wrong in turn; in front of it nothing matters.
            for wrong in 1..16 {
                let mut broken = padded.clone();
                broken[n - 1 - wrong] ^= 0x80;
                let inside = wrong < usize::from(last);
                let opened = open(&forge_padded(&broken));
                assert_eq!(
                    opened.is_ok(),
                    (1..=16).contains(&last) && !inside,
                    "{last}, byte {wrong} from the end"
                );
            }
        }
    }
}

#[test]
fn every_message_length_round_trips() {
    for n in (0..300).chain([1000, 4095, 4096, 65_535, 65_536, 70_000]) {
        let message: Vec<u8> = (0..n).map(|i: usize| i.to_le_bytes()[0]).collect();
        let text = seal(&message, TIME);
        assert_eq!(text.len(), token::sealed_len(n));
        assert_eq!(open(&text), Ok(message));
    }
}

// The MAC.

#[test]
fn a_mac_that_is_almost_right() {
    let mut raw = seal(b"m", TIME);
    let n = base64url::decode_in_place(&mut raw).expect("a token");
    let signed = &raw[..n - MAC];
    let sign = |key: &[u8], bytes: &[u8]| {
        Hmac::<Sha256>::new_from_slice(key)
            .expect("any length")
            .chain_update(bytes)
            .finalize()
            .into_bytes()
    };
    let (bytes, text) = (*key().bytes(), encode(signed));
    for (what, mac) in [
        ("over the text", sign(&bytes[..16], &text)),
        ("with the other key", sign(&bytes[16..], signed)),
        ("with the whole key", sign(&bytes, signed)),
        ("without the version", sign(&bytes[..16], &signed[1..])),
        (
            "over the ciphertext alone",
            sign(&bytes[..16], &signed[HEADER..]),
        ),
    ] {
        assert_eq!(
            open(&encode(&[signed, &mac].concat())),
            Err(TokenError::Mac),
            "{what}"
        );
    }
    let mac = sign(&bytes[..16], signed);
    assert_eq!(open(&encode(&[signed, &mac].concat())), good());
    for n in 0..MAC {
        assert!(
            open(&encode(&[signed, &mac[..n]].concat())).is_err(),
            "{n} bytes of it"
        );
        assert!(
            open(&encode(&[signed, &mac[..n], &[0; MAC][n..]].concat())).is_err()
                || mac[n..] == [0; MAC][n..]
        );
    }
}

#[test]
fn swapped_halves_are_another_key() {
    let mut swapped = *key().bytes();
    swapped.rotate_left(16);
    let text = Fernet::new(&Key::from_bytes(&swapped)).seal(b"m", TIME, IV);
    assert_eq!(open(&text), Err(TokenError::Mac));
}

#[test]
fn a_forged_token_is_forged_even_if_expired() {
    // The specification checks the time first; nobody's timestamp says nothing.
    let mut raw = seal(b"m", TIME);
    let n = base64url::decode_in_place(&mut raw).expect("a token");
    raw[n - 1] ^= 1;
    let age = Some(Age {
        now: TIME + 1000,
        ttl: 1,
    });
    assert_eq!(open_aged(&encode(&raw[..n]), age), Err(TokenError::Mac));
    assert_eq!(open_aged(&seal(b"m", TIME), age), Err(TokenError::Expired));
    // And an expired token is not decrypted: its padding is never looked at.
    assert_eq!(
        open_aged(&forge_padded(&[0; 16]), age),
        Err(TokenError::Expired)
    );
}

// The time.

#[test]
fn a_ttl_of_zero_is_the_same_second() {
    assert_eq!(at(TIME, TIME, 0), good());
    assert_eq!(at(TIME, TIME + 1, 0), Err(TokenError::Expired));
    assert_eq!(at(TIME, TIME - 1, 0), good(), "within the skew");
}

#[test]
fn without_a_ttl_the_timestamp_is_not_checked() {
    for time in [
        0,
        1,
        TIME,
        1 << 31,
        1 << 32,
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
    ] {
        assert_eq!(open(&seal(b"m", time)), good(), "{time}");
        let opened = token::open(&[Fernet::new(&key())], &mut seal(b"m", time), None)
            .map(|opened| opened.time);
        assert_eq!(opened, Ok(time));
    }
}

#[test]
fn sixty_seconds_ahead_is_the_limit() {
    for (ahead, expected) in [
        (0, true),
        (59, true),
        (60, true),
        (61, false),
        (62, false),
        (1 << 40, false),
    ] {
        let expected = if expected {
            Ok(b"m".to_vec())
        } else {
            Err(TokenError::Future)
        };
        for ttl in [0, 1, 60, u64::MAX] {
            assert_eq!(
                at(TIME + ahead, TIME, ttl),
                expected,
                "{ahead} s ahead, ttl {ttl}"
            );
        }
    }
}

#[test]
fn the_second_in_which_it_ends_is_good() {
    for ttl in [0, 1, 60, 86_400, 1 << 40] {
        assert_eq!(at(TIME, TIME + ttl, ttl), good());
        assert_eq!(at(TIME, TIME + ttl + 1, ttl), Err(TokenError::Expired));
        if ttl > 0 {
            assert_eq!(at(TIME, TIME + ttl - 1, ttl), good());
        }
    }
}

#[test]
fn extreme_times() {
    const MAX: u64 = u64::MAX;
    for (time, now, ttl, expected) in [
        (MAX, TIME, 60, Some(TokenError::Future)),
        (MAX, TIME, MAX, Some(TokenError::Future)),
        (MAX, MAX, 0, None),
        (MAX, MAX - 60, 0, None),
        (MAX, MAX - 61, 0, Some(TokenError::Future)),
        (MAX - 1, MAX, 0, Some(TokenError::Expired)),
        (MAX - 1, MAX, 1, None),
        (0, MAX, MAX, None),
        (0, MAX, MAX - 1, Some(TokenError::Expired)),
        (1, MAX, MAX - 1, None),
        (0, 0, 0, None),
        (60, 0, 0, None),
        (61, 0, 0, Some(TokenError::Future)),
        (1 << 63, TIME, 60, Some(TokenError::Future)),
        (1 << 32, 1 << 31, 1 << 63, Some(TokenError::Future)),
        (1 << 31, 1 << 32, 1 << 31, None),
        (1 << 31, 1 << 32, (1 << 31) - 1, Some(TokenError::Expired)),
    ] {
        assert_eq!(
            at(time, now, ttl).err(),
            expected,
            "time {time}, now {now}, ttl {ttl}"
        );
    }
}

// The keys.

#[test]
fn key_forms() {
    let text = "-__0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";
    assert!(Key::parse(text).is_ok());
    assert!(
        Key::parse(text.trim_end_matches('=')).is_ok(),
        "without its padding"
    );
    let refused = |text: &str| Key::parse(text).map(|_| ()).expect_err(text);
    assert_eq!(
        refused(&text.replace('-', "+")),
        KeyError::Text(Base64Error::Character(0))
    );
    assert_eq!(
        refused(&text.replace('_', "/")),
        KeyError::Text(Base64Error::Character(1))
    );
    assert_eq!(
        refused(&format!("{text}\n")),
        KeyError::Text(Base64Error::Length),
        "the key file takes the line off"
    );
    assert_eq!(
        refused(&format!("{text}=")),
        KeyError::Text(Base64Error::Length)
    );
    assert_eq!(
        refused(&format!(" {text}")),
        KeyError::Text(Base64Error::Length)
    );
    assert_eq!(
        refused(&text.replace("4e4=", "4e5=")),
        KeyError::Text(Base64Error::TrailingBits)
    );
    assert_eq!(refused(&"0".repeat(64)), KeyError::Length(48), "hex");
    assert_eq!(
        refused("passphrase"),
        KeyError::Text(Base64Error::TrailingBits)
    );
    for n in (0..100).filter(|n| *n != 32) {
        let text = String::from_utf8(encode(&vec![0xa5; n])).expect("ASCII");
        assert_eq!(refused(&text), KeyError::Length(n));
    }
}

#[test]
fn the_key_of_zeros_is_a_key() {
    let zeros = Fernet::new(&Key::parse(&format!("{}=", "A".repeat(43))).expect("32 bytes"));
    let mut text = zeros.seal(b"m", TIME, IV);
    assert_eq!(
        token::open(&[zeros], &mut text, None).map(|opened| opened.message),
        Ok(&mut b"m".to_vec()[..])
    );
}

fn keys(n: u8) -> Vec<Fernet> {
    (0..n)
        .map(|i| Fernet::new(&Key::from_bytes(&[i; 32])))
        .collect()
}

#[test]
fn keys_are_tried_in_order() {
    let all = keys(5);
    for key in &all {
        let text = key.seal(b"m", TIME, IV);
        assert_eq!(
            token::open(&all, &mut text.clone(), None).map(|opened| opened.message),
            Ok(&mut b"m".to_vec()[..])
        );
        let twice = [all.clone(), all.clone()].concat();
        assert_eq!(
            token::open(&twice, &mut text.clone(), None).map(|opened| opened.message),
            Ok(&mut b"m".to_vec()[..]),
            "duplicates"
        );
    }
    assert_eq!(
        token::open(&all, &mut seal(b"m", TIME), None),
        Err(TokenError::Mac)
    );
}

#[test]
fn no_key_opens_nothing() {
    assert_eq!(
        token::open(&[], &mut seal(b"m", TIME), None),
        Err(TokenError::Mac)
    );
    assert_eq!(
        token::rotate(&[], seal(b"m", TIME), IV),
        Err(TokenError::Mac)
    );
}

#[test]
fn rotation_keeps_the_timestamp_and_changes_the_iv() {
    let all = keys(3);
    for time in [0, TIME, u64::MAX] {
        for old in &all {
            let text = old.seal(b"m", time, IV);
            let mut new = token::rotate(&all, text.clone(), [9; 16]).expect("one of them made it");
            assert_ne!(new, text);
            assert_eq!(
                new,
                all[0].seal(b"m", time, [9; 16]),
                "the first key, the old time, the new IV"
            );
            let opened = token::open(&all[..1], &mut new, None).expect("the first key made it");
            assert_eq!(
                (opened.time, opened.message),
                (time, &mut b"m".to_vec()[..])
            );
        }
    }
    assert_eq!(
        token::rotate(&all, seal(b"m", TIME), IV),
        Err(TokenError::Mac),
        "no key shared"
    );
}
