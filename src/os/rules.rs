//! How does a file of rules become what nft reads? One line, filled in as the head of the file
//! says.

use crate::packet::subnet::Subnet;
use std::fs;

/// `file` with each of `words` replaced. A line that ends with the name of one of `lists` (`#
/// NAME`) stands for one line per item: FAMILY is `ip` or `ip6`, NET the item.
pub(super) fn filled(file: &str, words: &[(&str, &str)], lists: &[(&str, &[Subnet])]) -> String {
    let mut filled = Vec::new();
    for rule in file.lines() {
        let (rule, note) = rule.split_once('#').unwrap_or((rule, ""));
        let rule = words
            .iter()
            .fold(rule.trim().to_owned(), |rule, (word, text)| {
                rule.replace(word, text)
            });
        match lists.iter().find(|(name, _)| *name == note.trim()) {
            _ if rule.is_empty() => {}
            Some((_, items)) => filled.extend(items.iter().map(|item| {
                let family = if item.address.is_ipv4() { "ip" } else { "ip6" };
                rule.replace("FAMILY", family)
                    .replace("NET", &item.to_string())
            })),
            None => filled.push(rule),
        }
    }
    filled.join(" ")
}

/// The first and the last of the ports that the kernel gives to programs that connect.
pub(super) fn local_ports() -> (u16, u16) {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = range
        .split_whitespace()
        .map_while(|end| end.parse::<u16>().ok());
    (ends.next().unwrap_or(32768), ends.next().unwrap_or(60999))
}
