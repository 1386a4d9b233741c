//! What does a resolver say about a name? RFC 1035, the part that one lookup needs.
//!
//! ```text
//! message   id 2 | flags 2 | questions 2 | answers 2 | authorities 2 | additional 2 | sections
//! question  name | type 2 | class 2
//! record    name | type 2 | class 2 | time to live 4 | length 2 | data
//! name      labels, each after its length, then 0; or at the end a pointer: 11 and 14 bits
//! ```
//!
//! An answer is untrusted. Every length is checked, and a pointer may only lead backwards. A
//! message that does not repeat our question is no answer to it.

use std::net::IpAddr;

/// The longest name, in bytes on the wire.
const MAX_NAME: usize = 255;
const HEADER: usize = 12;
const INTERNET: u16 = 1;
const ALIAS: u16 = 5;

/// The kind of addresses that a question asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4.
    A = 1,
    /// IPv6.
    Aaaa = 28,
}

/// What a resolver answers.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// These addresses; none if the name has none of this kind.
    Addresses(Vec<IpAddr>),
    /// The name is an alias of this one, whose addresses the answer does not have.
    Alias(String),
    /// The answer did not fit into a datagram. It can be asked for over TCP.
    Truncated,
    /// There is no such name.
    NoSuchName,
    /// The resolver has failed or refuses, with this code.
    Failed(u8),
}

/// A question for a resolver, or `None` if `name` cannot be a domain name. It asks for recursion.
pub fn query(id: u16, name: &str, kind: Kind) -> Option<Vec<u8>> {
    // The flags ask for recursion; there is one question.
    let mut message = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.strip_suffix('.').unwrap_or(name).split('.') {
        let length = u8::try_from(label.len()).ok();
        message.push(length.filter(|length| (1..=63).contains(length))?);
        message.extend(label.bytes());
    }
    message.push(0);
    if message.len() - HEADER > MAX_NAME {
        return None;
    }
    message.extend((kind as u16).to_be_bytes());
    message.extend(INTERNET.to_be_bytes());
    Some(message)
}

/// What `message` answers to `query`, or `None` if it is not an answer to it.
pub fn answer(query: &[u8], message: &[u8]) -> Option<Answer> {
    let asked = query.get(HEADER..)?;
    let (header, body) = message.split_first_chunk::<HEADER>()?;
    let question = body.get(..asked.len())?;
    let is_answer = header[..2] == query[..2]
        && header[2] & 0x80 != 0
        && header[4..6] == [0, 1]
        && question.eq_ignore_ascii_case(asked);
    if !is_answer {
        return None;
    }
    match header[3] & 0x0f {
        0 => {}
        3 => return Some(Answer::NoSuchName),
        code => return Some(Answer::Failed(code)),
    }
    if header[2] & 0x02 != 0 {
        return Some(Answer::Truncated);
    }
    let count = u16::from_be_bytes([header[6], header[7]]);
    let kind = u16::from_be_bytes(*asked.last_chunk::<4>()?.first_chunk::<2>()?);
    records(message, HEADER + asked.len(), count, kind)
}

/// Follows the aliases among an answer's records, which come in order.
fn records(message: &[u8], mut at: usize, count: u16, kind: u16) -> Option<Answer> {
    let (mut wanted, _) = name(message, HEADER)?;
    let mut is_alias = false;
    let mut addresses = Vec::new();
    for _ in 0..count {
        let (owner, after) = name(message, at)?;
        let (fixed, data) = message.get(after..)?.split_first_chunk::<10>()?;
        let class = u16::from_be_bytes([fixed[2], fixed[3]]);
        let length = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        let data = data.get(..length)?;
        at = after + fixed.len() + length;
        if owner != wanted || class != INTERNET {
            continue;
        }
        match u16::from_be_bytes([fixed[0], fixed[1]]) {
            ALIAS => {
                (wanted, _) = name(message, at - length)?;
                is_alias = true;
            }
            found if found == kind => addresses.push(address(data)?),
            _ => {}
        }
    }
    match addresses.is_empty() && is_alias {
        true => Some(Answer::Alias(wanted)),
        false => Some(Answer::Addresses(addresses)),
    }
}

fn address(data: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(data).ok().map(IpAddr::from);
    four.or_else(|| <[u8; 16]>::try_from(data).ok().map(IpAddr::from))
}

/// The name at `start`, in lower case, and the offset after it.
fn name(message: &[u8], start: usize) -> Option<(String, usize)> {
    let mut at = start;
    let mut end = None;
    let mut lowest = start;
    let mut name = Vec::new();
    loop {
        let length = usize::from(*message.get(at)?);
        match length {
            0 => break,
            1..=63 => {
                name.extend(message.get(at + 1..at + 1 + length)?);
                name.push(b'.');
                at += 1 + length;
            }
            0xc0.. => {
                let low = usize::from(*message.get(at + 1)?);
                end = end.or(Some(at + 2));
                at = (length & 0x3f) << 8 | low;
                if at >= lowest {
                    return None;
                }
                lowest = at;
            }
            _ => return None,
        }
        if name.len() > MAX_NAME {
            return None;
        }
    }
    name.pop();
    let name = String::from_utf8(name).ok()?.to_ascii_lowercase();
    Some((name, end.unwrap_or(at + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer to `query` with these records: name, type and data.
    fn reply(query: &[u8], flags: [u8; 2], records: &[(&[u8], u16, &[u8])]) -> Vec<u8> {
        let count = u8::try_from(records.len()).unwrap();
        let header = [&query[..2], &flags, &[0, 1, 0, count, 0, 0, 0, 0]].concat();
        let mut message = [&header, &query[HEADER..]].concat();
        for (name, kind, data) in records {
            message.extend(*name);
            message.extend(kind.to_be_bytes());
            message.extend([0, 1, 0, 0, 0, 5]);
            message.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            message.extend(*data);
        }
        message
    }

    const ASKED: &[u8] = b"\xc0\x0c";
    const FINE: [u8; 2] = [0x81, 0x80];

    #[test]
    fn a_question_has_the_names_labels() {
        let message = query(0x0102, "vpn.example.", Kind::Aaaa).unwrap();
        let header = b"\x01\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00";
        assert_eq!(message[..12], header[..]);
        assert_eq!(message[12..], b"\x03vpn\x07example\x00\x00\x1c\x00\x01"[..]);
        let long = "a".repeat(64);
        for bad in ["", "a..b", &long, &["abc"; 64].join(".")] {
            assert_eq!(query(1, bad, Kind::A), None, "{bad}");
        }
    }

    #[test]
    fn addresses_are_those_of_the_name_and_of_its_aliases() {
        let asked = query(7, "VPN.example", Kind::A).unwrap();
        let four = |last| IpAddr::from([192, 0, 2, last]);
        let one = reply(&asked, FINE, &[(ASKED, 1, &[192, 0, 2, 1])]);
        assert_eq!(answer(&asked, &one), Some(Answer::Addresses(vec![four(1)])));
        let records: [(&[u8], u16, &[u8]); 4] = [
            (ASKED, 5, b"\x01b\xc0\x10"),
            (b"\x05other\x00", 1, &[192, 0, 2, 9]),
            (b"\x01B\x07example\x00", 1, &[192, 0, 2, 2]),
            (b"\x01b\x07example\x00", 1, &[192, 0, 2, 3]),
        ];
        let found = answer(&asked, &reply(&asked, FINE, &records));
        assert_eq!(found, Some(Answer::Addresses(vec![four(2), four(3)])));
        let found = answer(&asked, &reply(&asked, FINE, &records[..2]));
        assert_eq!(found, Some(Answer::Alias("b.example".into())));
        let found = answer(&asked, &reply(&asked, FINE, &[]));
        assert_eq!(found, Some(Answer::Addresses(vec![])));
        let asked = query(7, "vpn.example", Kind::Aaaa).unwrap();
        let found = answer(&asked, &reply(&asked, FINE, &[(ASKED, 28, &[1; 16])]));
        assert_eq!(found, Some(Answer::Addresses(vec![[1; 16].into()])));
    }

    #[test]
    fn a_resolver_may_fail() {
        let asked = query(7, "vpn.example", Kind::A).unwrap();
        for (flags, right) in [
            ([0x81, 0x83], Answer::NoSuchName),
            ([0x81, 0x82], Answer::Failed(2)),
            ([0x83, 0x80], Answer::Truncated),
        ] {
            assert_eq!(answer(&asked, &reply(&asked, flags, &[])), Some(right));
        }
    }

    #[test]
    fn what_answers_another_question_is_none() {
        let asked = query(7, "vpn.example", Kind::A).unwrap();
        let right = reply(&asked, FINE, &[(ASKED, 1, &[192, 0, 2, 1])]);
        for (at, wrong) in [(1, 8), (2, 1), (5, 0), (13, b'w'), (26, 28)] {
            let mut other = right.clone();
            other[at] = wrong;
            assert_eq!(answer(&asked, &other), None, "{at}");
        }
    }

    #[test]
    fn no_message_leads_astray() {
        let asked = query(7, "vpn.example", Kind::A).unwrap();
        let right = reply(
            &asked,
            FINE,
            &[(ASKED, 5, b"\x01b\xc0\x10"), (ASKED, 1, b"1234")],
        );
        for length in 0..right.len() {
            assert_eq!(answer(&asked, &right[..length]), None, "{length}");
        }
        for at in 0..right.len() {
            for byte in 0..=255 {
                let mut other = right.clone();
                other[at] = byte;
                let _ = answer(&asked, &other);
            }
        }
        for wrong in [
            reply(&asked, FINE, &[(b"\xc0\x1d", 1, b"1234")]), // points at itself
            reply(&asked, FINE, &[(b"\x01a\xc0\x1d", 1, b"1234")]),
            reply(&asked, FINE, &[(ASKED, 1, b"12345")]),
            reply(&asked, FINE, &[(b"\x40", 1, b"1234")]),
        ] {
            assert_eq!(answer(&asked, &wrong), None, "{wrong:x?}");
        }
    }
}
