//! How does a file of rules become nft's input? It becomes one line, filled in as the head of the
//! file says.

use super::command;
use crate::packet::subnet::Subnet;
use std::collections::BTreeSet;
use std::{fs, io};

/// Replaces each of `words` in `file` where it stands as a whole word, all at once, so that no
/// inserted text is replaced. A line in which one of them is empty is left out. A line that ends
/// with the name of one of `lists` (`# NAME`) becomes one line for each item. FAMILY becomes `ip`
/// or `ip6`, and NET the item.
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

/// The rule with its words replaced, or `None` if one of them is empty.
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

/// The name of the table of a device and a `kind`. nft does not allow all characters of a device's
/// name. Such a character becomes a `/`, which no device's name has, and its number.
pub(super) fn table_name(device: &str, kind: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let written = device.chars().map(|c| match c {
        c if plain(c) => c.to_string(),
        c => format!("/{:02x}", u32::from(c)),
    });
    format!("fernvpn-{}{kind}", written.collect::<String>())
}

/// A device's name as it is written between quotes. A `*` at its end would stand for any text.
pub(super) fn device_name(device: &str) -> String {
    device.replace('*', r"\*")
}

/// A table in nft that was installed and must stay.
#[derive(Debug)]
pub(super) struct Table {
    pub name: String,
    text: String,
    /// nft's listing right after the table was installed.
    listed: String,
    /// The number of nft's rules as a whole when the table was last found.
    generation: Option<u32>,
}

impl Table {
    /// Installs the table, in place of an older one of this name. `text` does both.
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

    /// Whether it is there as it was installed. `generation` is the kernel's number for all rules.
    pub(super) fn is_there(&mut self, generation: Option<u32>) -> bool {
        if generation.is_some() && self.generation == generation {
            return true;
        }
        let is_there = !self.listed.is_empty() && list(&self.name).as_ref() == Some(&self.listed);
        self.generation = generation.filter(|_| is_there);
        is_there
    }

    /// Installs the same again.
    pub(super) fn put_back(
        &mut self,
        run: impl FnOnce(&[&str]) -> io::Result<()>,
    ) -> io::Result<()> {
        *self = Table::put_in(&self.name, self.text.clone(), run)?;
        Ok(())
    }
}

/// The listing without the entries that packets add to its maps.
fn list(name: &str) -> Option<String> {
    command::said(&["nft", "--terse", "list", "table", "inet", name])
}

/// The local ports above `first` of connected UDP sockets of this machine.
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
