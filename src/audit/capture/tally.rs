//! Which packets were of no use, and why? So that "0 sessions" is never the whole answer.
//!
//! ```text
//!  packets ─┬─ segments of TCP ─┬─ of sessions
//!           │                   └─ of other connections, by the server's port
//!           └─ passed over, by reason
//! ```

use super::link::NoSegment;
use std::collections::BTreeMap;
use std::fmt::Display;

/// Reasons, and ports, that are told one by one: those with most packets.
const TOLD: usize = 12;

/// How many packets there were.
#[derive(Default)]
pub struct Tally {
    packets: u64,
    /// Of which only the beginning was captured.
    cut: u64,
    /// Segments of TCP.
    pub segments: u64,
    passed_over: BTreeMap<NoSegment, u64>,
    /// Other connections, by the server's port.
    others: BTreeMap<u16, u64>,
}

impl Tally {
    /// Counts a packet of the capture.
    pub fn packet(&mut self, cut: bool) {
        self.packets += 1;
        self.cut += u64::from(cut);
    }

    /// Counts one that holds no segment.
    pub fn pass_over(&mut self, reason: NoSegment) {
        *self.passed_over.entry(reason).or_default() += 1;
    }

    /// Counts a connection that is no session, as far as can be seen.
    pub fn other_connection(&mut self, port: u16) {
        *self.others.entry(port).or_default() += 1;
    }

    /// What to tell, line by line.
    pub fn lines(&self, sessions: usize, with_keys: bool) -> Vec<String> {
        let mut lines = Vec::new();
        let others: u64 = self.others.values().sum();
        if others > 0 {
            lines.push(format!(
                "{others} other connections, or such as began before the capture and do not open"
            ));
            let ports = most(&self.others).map(|(port, count)| format!("{count} to port {port}"));
            let ports: Vec<String> = ports.take(TOLD).collect();
            let more = match self.others.len() - ports.len() {
                0 => String::new(),
                more => format!(", and others to {more} ports more"),
            };
            lines.push(format!("of these, {}{more}", ports.join(", ")));
        }
        for (reason, count) in most(&self.passed_over).take(TOLD) {
            lines.push(passed_over(*count, reason));
        }
        let rest: Vec<u64> = most(&self.passed_over)
            .skip(TOLD)
            .map(|(_, count)| *count)
            .collect();
        if !rest.is_empty() {
            let reason = format!("{} other reasons", rest.len());
            lines.push(passed_over(rest.iter().sum(), &reason));
        }
        if self.cut > 0 {
            lines.push(format!(
                "{} packets were cut short when they were captured. Try: tcpdump -s 0",
                self.cut
            ));
        }
        if sessions == 0 {
            lines.push(format!(
                "No session was found in {} packets, {} of them TCP. {}",
                self.packets,
                self.segments,
                self.advice(with_keys)
            ));
        }
        lines
    }

    /// What to try where no session was found.
    fn advice(&self, with_keys: bool) -> &'static str {
        match self.segments {
            0 => {
                "Capture where the client's TCP connection passes. \
                 Try: tcpdump -i any -s 0 -w FILE tcp port 12345"
            }
            _ if self.cut > 0 => {
                "Of some packets too little was captured to tell. \
                 Try: tcpdump -i any -s 0 -w FILE tcp port 12345"
            }
            _ if with_keys => {
                "No connection begins with a hello, or opens by the key log. \
                 Try: start tcpdump and the key log before the client connects"
            }
            _ => {
                "No connection begins with a hello. What began before the capture needs keys. \
                 Try: --keylog FILE"
            }
        }
    }
}

fn passed_over(count: u64, reason: &dyn Display) -> String {
    format!("{count} packets of the capture were passed over: {reason}")
}

/// Those that were counted most come first.
fn most<T>(counts: &BTreeMap<T, u64>) -> impl Iterator<Item = (&T, &u64)> {
    let mut counts: Vec<_> = counts.iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    counts.into_iter()
}
