//! How does a file of rules become what nft reads? One line, filled in as the head of the file
//! says.

use super::command;
use crate::packet::subnet::Subnet;
use std::collections::BTreeSet;
use std::{fs, io};

/// `file` with each of `words` replaced where it stands as a whole word, all at once, so that no
/// text is taken for a word. A line in which one of them is empty is left out. A line that ends with
/// the name of one of `lists` (`# NAME`) stands for one line per item: FAMILY is `ip` or `ip6`, NET
/// the item.
pub(super) fn filled(file: &str, words: &[(&str, &str)], lists: &[(&str, &[Subnet])]) -> String {
    let mut filled = Vec::new();
    for rule in file.lines() {
        let (rule, note) = rule.split_once('#').unwrap_or((rule, ""));
        let rule = rule.trim();
        match lists.iter().find(|(name, _)| *name == note.trim()) {
            _ if rule.is_empty() => {}
            Some((_, items)) => filled.extend(items.iter().filter_map(|item| {
                let family = if item.address.is_ipv4() { "ip" } else { "ip6" };
                let item = item.to_string();
                with_words(
                    rule,
                    &[words, &[("FAMILY", family), ("NET", &item)]].concat(),
                )
            })),
            None => filled.extend(with_words(rule, words)),
        }
    }
    filled.join(" ")
}

/// The rule with its words replaced, or nothing if one of them is empty.
fn with_words(rule: &str, words: &[(&str, &str)]) -> Option<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let (mut filled, mut rest) = (String::new(), rule);
    while let Some(begin) = rest.find(is_part) {
        let end = rest[begin..].find(|c| !is_part(c));
        let end = end.map_or(rest.len(), |length| begin + length);
        let word = &rest[begin..end];
        let text = words.iter().find(|(name, _)| *name == word);
        filled.push_str(&rest[..begin]);
        filled.push_str(match text {
            Some((_, "")) => return None,
            Some((_, text)) => text,
            None => word,
        });
        rest = &rest[end..];
    }
    Some(filled + rest)
}

/// The name of the table of a device, and of a `kind` of tables: nft does not know all characters
/// that a device's name may have. What it does not know is written as its number, after a `/`, which
/// no device's name has.
pub(super) fn table_name(device: &str, kind: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let written = device.chars().map(|c| match c {
        c if plain(c) => c.to_string(),
        c => format!("/{:02x}", u32::from(c)),
    });
    format!("fernvpn-{}{kind}", written.collect::<String>())
}

/// How a device's name is written between quotes: a `*` at its end would stand for any text.
pub(super) fn device_name(device: &str) -> String {
    device.replace('*', r"\*")
}

/// A table of nft's that was put in, and is to stay.
#[derive(Debug)]
pub(super) struct Table {
    pub name: String,
    text: String,
    /// What nft lists, as it was right after.
    listed: String,
    /// nft's rules as a whole when the table was last seen to be there.
    generation: Option<u32>,
}

impl Table {
    /// Puts the table in, in place of an older one of this name. `text` does both.
    pub(super) fn put_in(
        name: &str,
        text: String,
        run: impl FnOnce(&[&str]) -> io::Result<()>,
    ) -> io::Result<Table> {
        run(&["nft", &text])?;
        let listed = list(name).unwrap_or_default();
        Ok(Table {
            name: name.to_owned(),
            text,
            listed,
            generation: None,
        })
    }

    /// Whether it is there as it was put in. `generation` is the kernel's number for all rules.
    pub(super) fn is_there(&mut self, generation: Option<u32>) -> bool {
        if generation.is_some() && self.generation == generation {
            return true;
        }
        let is_there = !self.listed.is_empty() && list(&self.name).as_ref() == Some(&self.listed);
        self.generation = generation.filter(|_| is_there);
        is_there
    }

    /// Puts the same in again.
    pub(super) fn put_back(
        &mut self,
        run: impl FnOnce(&[&str]) -> io::Result<()>,
    ) -> io::Result<()> {
        *self = Table::put_in(&self.name, self.text.clone(), run)?;
        Ok(())
    }
}

/// Without what packets add to its maps.
fn list(name: &str) -> Option<String> {
    command::said(&["nft", "--terse", "list", "table", "inet", name])
}

/// The ports above `first` from which a UDP socket of this machine is connected to another one.
pub(super) fn connected_ports(first: u16) -> BTreeSet<u16> {
    let tables = ["/proc/net/udp", "/proc/net/udp6"].map(fs::read_to_string);
    let text = tables.map(Result::unwrap_or_default).concat();
    let port = |line: &str| {
        let mut ends = line.split_whitespace().skip(1);
        let (own, other) = (
            ends.next()?.rsplit_once(':')?,
            ends.next()?.rsplit_once(':')?,
        );
        let own = u16::from_str_radix(own.1, 16).ok()?;
        (own >= first && u16::from_str_radix(other.1, 16).ok()? != 0).then_some(own)
    };
    text.lines().filter_map(port).collect()
}

/// The first and the last of the ports that the kernel gives to programs that connect.
pub(super) fn local_ports() -> (u16, u16) {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = range
        .split_whitespace()
        .map_while(|end| end.parse::<u16>().ok());
    (ends.next().unwrap_or(32768), ends.next().unwrap_or(60999))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_filled_in_whole_and_at_once() {
        let words = [
            ("DEVICE", "MARKET"),
            ("MARK", "7"),
            ("PORTS", "DEVICE"),
            ("NONE", ""),
        ];
        let file =
            "a \"DEVICE\" MARK; # note\n  b MARKED:PORTS,x-MARK\n c NONE\n\nFAMILY NET # OWN";
        let own = [
            "10.8.0.1/32".parse().unwrap(),
            "fd00::1/128".parse().unwrap(),
        ];
        assert_eq!(
            filled(file, &words, &[("OWN", &own)]),
            "a \"MARKET\" 7; b MARKED:DEVICE,x-7 ip 10.8.0.1/32 ip6 fd00::1/128"
        );
    }

    #[test]
    fn each_device_has_its_own_table() {
        assert_eq!(table_name("fern0", "-lock"), "fernvpn-fern0-lock");
        assert_eq!(table_name("a$b.c_d", ""), "fernvpn-a/24b.c_d");
        assert_eq!(device_name("fern*"), r"fern\*");
    }
}
