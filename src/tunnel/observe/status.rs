//! What is a server or a client doing? This file reports one moment for people, for scripts (JSON)
//! and for Prometheus.
//!
//! `sent` counts packets that were queued for the peer. It includes those that were dropped later,
//! as on a device with a full queue. `received` counts packets from the peer that were passed on.
//! It leaves out those that were refused.
//!
//! Names and texts of peers may hold any characters, so each format escapes them in its own way. A
//! report has no key in it.

use crate::os::clock::Moment;
use crate::os::{log, socket};
use crate::packet::subnet::Subnet;
use crate::protocol::record::Suite;
use crate::tunnel::observe::counters::{HandshakeCounters, TrafficCounters};
use crate::tunnel::peers::registry::Connected;
use crate::tunnel::wire::network_config::listed;
use std::fmt::{Display, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The columns of a terminal.
const TERMINAL: usize = 80;
/// The gap between two columns of a table.
const GAP: &str = "  ";
/// The indent of a line that continues the one above.
const INDENT: &str = "  ";

/// A running server or client.
pub struct Report<'a> {
    /// Its name.
    pub name: &'a str,
    /// `server` or `client`.
    pub role: &'static str,
    /// When it started.
    pub started: Moment,
    /// Its device, if it has one.
    pub device: Option<&'a str>,
    /// Where a server listens.
    pub listen: Vec<SocketAddr>,
    /// Its tunnel addresses.
    pub addresses: &'a [Subnet],
    /// Why a client has no session, if so.
    pub trouble: Option<String>,
    /// Problems of this machine, each with a remedy.
    pub warnings: Vec<String>,
    /// Its handshakes.
    pub handshakes: &'a HandshakeCounters,
    /// Packets from the device for which there was no peer, or none connected.
    pub unrouted: u64,
    /// A server's clients, or a client's server.
    pub peers: Vec<Peer>,
}

/// The other end.
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its tunnel addresses.
    pub addresses: Vec<Subnet>,
    /// The traffic since the start.
    pub traffic: Arc<TrafficCounters>,
    /// The step of its ratcheted key.
    pub step: Option<u64>,
    /// The connection, if there is one.
    pub link: Option<Link>,
}

/// A connection at this moment.
pub struct Link {
    from: SocketAddr,
    suite: Suite,
    since: Moment,
    path: Option<socket::Path>,
}

impl Link {
    /// The traffic of this connection.
    pub fn of(connected: &Connected) -> Link {
        Link {
            from: connected.from,
            suite: connected.sender.suite,
            since: connected.since,
            path: socket::path(&connected.sender.socket).ok(),
        }
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// One value in all formats. A missing value is `null` in JSON, has no sample in Prometheus, and is
/// a dash in text.
enum Value {
    Text(Option<String>),
    List(Vec<String>),
    Yes(bool),
    Number(Option<u64>),
    Bytes(u64),
    Moment(Option<Moment>),
    Time(Option<Duration>),
    ByReason(Vec<(&'static str, u64)>),
}

/// It has a name in JSON, a label if the text shows it, a metric with its help if Prometheus gets
/// it, and the value.
type Field = (
    &'static str,
    &'static str,
    Option<(&'static str, &'static str)>,
    Value,
);

impl Value {
    fn json(&self) -> String {
        match self {
            Value::Text(text) => text.as_ref().map_or("null".into(), |text| quoted(text)),
            Value::List(items) => format!("[{}]", joined(items.iter().map(|item| quoted(item)))),
            Value::Yes(yes) => yes.to_string(),
            Value::ByReason(list) => format!(
                "{{{}}}",
                joined(list.iter().map(|(name, n)| format!("\"{name}\":{n}")))
            ),
            _ => self
                .samples()
                .first()
                .map_or("null".into(), |(_, number)| number.to_string()),
        }
    }

    /// Samples with their labels.
    fn samples(&self) -> Vec<(String, f64)> {
        let number = match self {
            Value::Text(_) | Value::List(_) => None,
            Value::Yes(yes) => Some(f64::from(u8::from(*yes))),
            Value::Number(number) => number.map(|number| number as f64),
            Value::Bytes(bytes) => Some(*bytes as f64),
            Value::Moment(since) => since.map(|since| since.unix_seconds() as f64),
            Value::Time(time) => time.map(|time| time.as_secs_f64()),
            Value::ByReason(list) => {
                return list
                    .iter()
                    .map(|(name, n)| (format!(",reason={}", label(name)), *n as f64))
                    .collect();
            }
        };
        number
            .into_iter()
            .map(|number| (String::new(), number))
            .collect()
    }

    /// The report for people.
    fn text(&self) -> String {
        let text = match self {
            Value::Text(text) => text.as_ref().map(|text| log::printable(text)),
            Value::List(items) => Some(listed(items)),
            Value::Yes(yes) => Some(yes.to_string()),
            Value::Number(number) => number.map(|number| number.to_string()),
            Value::Bytes(bytes) => Some(size(*bytes)),
            Value::Moment(since) => since.map(|since| span(since.elapsed())),
            Value::Time(time) => time.map(|time| format!("{:.2} ms", time.as_secs_f64() * 1e3)),
            Value::ByReason(list) => {
                let some = list.iter().filter(|(_, n)| *n > 0);
                Some(listed(
                    &some
                        .map(|(why, n)| format!("{n} {why}"))
                        .collect::<Vec<_>>(),
                ))
            }
        };
        text.filter(|text| !text.is_empty())
            .unwrap_or_else(|| "-".into())
    }
}

fn number(counter: &AtomicU64) -> Value {
    Value::Number(Some(load(counter)))
}

fn shown(items: &[impl Display]) -> Value {
    Value::List(items.iter().map(ToString::to_string).collect())
}

fn joined(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(",")
}

/// The handler of a JSON object.
fn members(fields: &[Field]) -> String {
    joined(
        fields
            .iter()
            .map(|(name, .., value)| format!("\"{name}\":{}", value.json())),
    )
}

impl Peer {
    #[rustfmt::skip]
    fn fields(&self) -> Vec<Field> {
        let link = self.link.as_ref();
        let traffic = &self.traffic;
        let path = link.and_then(|link| link.path);
        let dropped = vec![
            ("queue", load(&traffic.dropped_queue)),
            ("malformed", load(&traffic.dropped_malformed)),
            ("source", load(&traffic.dropped_source)),
            ("destination", load(&traffic.dropped_destination)),
            ("offload", load(&traffic.dropped_offload)),
        ];
        vec![
            ("name", "NAME", None, Value::Text(Some(self.name.clone()))),
            ("addresses", "ADDRESSES", None, shown(&self.addresses)),
            ("from", "FROM", None, Value::Text(link.map(|link| link.from.to_string()))),
            ("suite", "SUITE", None, Value::Text(link.map(|link| link.suite.name().into()))),
            ("connected", "", Some(("connected", "Whether the peer is connected.")),
                Value::Yes(link.is_some())),
            ("connected_since", "SINCE",
                Some(("connected_since_timestamp_seconds", "When it connected, in Unix time.")),
                Value::Moment(link.map(|link| link.since))),
            ("last_heard", "HEARD",
                Some(("last_heard_timestamp_seconds", "When data last came, in Unix time.")),
                Value::Moment(path.map(|path| Moment::ago(path.silence)))),
            ("round_trip_seconds", "RTT",
                Some(("round_trip_seconds", "Round trip time of its connection, smoothed.")),
                Value::Time(path.map(|path| path.round_trip))),
            ("ratchet_step", "STEP",
                Some(("ratchet_step", "Steps that its ratcheted key has made.")),
                Value::Number(self.step)),
            ("received_packets", "",
                Some(("received_packets_total", "Packets from the peer (super-packets once).")),
                number(&traffic.packets_in)),
            ("received_bytes", "RECEIVED", Some(("received_bytes_total", "Bytes from the peer.")),
                Value::Bytes(load(&traffic.bytes_in))),
            ("sent_packets", "",
                Some(("sent_packets_total", "Packets for the peer (super-packets once).")),
                number(&traffic.packets_out)),
            ("sent_bytes", "SENT", Some(("sent_bytes_total", "Bytes for the peer.")),
                Value::Bytes(load(&traffic.bytes_out))),
            ("dropped_packets", "DROPPED",
                Some(("dropped_packets_total", "Packets dropped, by reason.")),
                Value::ByReason(dropped)),
        ]
    }
}

impl Report<'_> {
    /// The report as `text`, `json` or `prometheus`; nothing if it is another format.
    pub fn render(&self, format: &str) -> Option<String> {
        match format {
            "text" => Some(self.text()),
            "json" => Some(self.json()),
            "prometheus" => Some(self.prometheus()),
            _ => None,
        }
    }

    #[rustfmt::skip]
    fn fields(&self) -> Vec<Field> {
        vec![
            ("name", "", None, Value::Text(Some(self.name.into()))),
            ("role", "", None, Value::Text(Some(self.role.into()))),
            ("version", "", None, Value::Text(Some(crate::tunnel::SOFTWARE.into()))),
            ("started", "up", Some(("start_time_seconds", "When it started, in Unix time.")),
                Value::Moment(Some(self.started))),
            ("uptime_seconds", "", None, Value::Number(Some(self.started.elapsed().as_secs()))),
            ("device", "device", None, Value::Text(self.device.map(str::to_owned))),
            ("listen", "listening on", None, shown(&self.listen)),
            ("addresses", "addresses", None, shown(self.addresses)),
            ("warnings", "", None, shown(&self.warnings)),
            ("handshakes_accepted", "handshakes",
                Some(("handshakes_accepted_total", "Handshakes that became a session.")),
                number(&self.handshakes.accepted)),
            ("handshakes_refused", "refused",
                Some(("handshakes_refused_total", "Handshakes that did not, by reason.")),
                Value::ByReason(self.handshakes.rejected())),
            ("unrouted_packets", "unrouted",
                Some(("unrouted_packets_total", "Packets from the device without a peer.")),
                Value::Number(Some(self.unrouted))),
            ("not_connected", "", None, Value::Text(self.trouble.clone())),
        ]
    }

    fn json(&self) -> String {
        let peers = joined(
            self.peers
                .iter()
                .map(|peer| format!("{{{}}}", members(&peer.fields()))),
        );
        format!("{{{},\"peers\":[{peers}]}}\n", members(&self.fields()))
    }

    fn prometheus(&self) -> String {
        let mut text = String::new();
        let mut family = |name: &str, help: &str, samples: Vec<(String, f64)>| {
            let kind = if name.ends_with("_total") {
                "counter"
            } else {
                "gauge"
            };
            let _ = write!(
                text,
                "# HELP fernvpn_{name} {help}\n# TYPE fernvpn_{name} {kind}\n"
            );
            for (labels, value) in samples {
                let _ = writeln!(
                    text,
                    "fernvpn_{name}{{instance_name={}{labels}}} {value}",
                    label(self.name)
                );
            }
        };
        let info = format!(
            ",role={},version={}",
            label(self.role),
            label(crate::tunnel::SOFTWARE)
        );
        family("info", "What runs here.", vec![(info, 1.0)]);
        for (.., metric, value) in self.fields() {
            if let Some((name, help)) = metric {
                family(name, help, value.samples());
            }
        }
        let peers: Vec<Vec<Field>> = self.peers.iter().map(Peer::fields).collect();
        for (at, (.., metric, _)) in peers.first().into_iter().flatten().enumerate() {
            let of = |(peer, fields): (&Peer, &Vec<Field>)| {
                let name = format!(",peer={}", label(&peer.name));
                fields[at]
                    .3
                    .samples()
                    .into_iter()
                    .map(move |(labels, value)| (name.clone() + &labels, value))
            };
            if let Some((name, help)) = metric {
                family(
                    &format!("peer_{name}"),
                    help,
                    self.peers.iter().zip(&peers).flat_map(of).collect(),
                );
            }
        }
        text
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{} ({}, {})\n",
            self.name,
            self.role,
            crate::tunnel::SOFTWARE
        );
        for (_, what, _, value) in self
            .fields()
            .iter()
            .filter(|(_, what, ..)| !what.is_empty())
        {
            let _ = writeln!(text, "  {what:<13} {}", value.text());
        }
        let connected = self.peers.iter().filter(|peer| peer.link.is_some()).count();
        let _ = writeln!(
            text,
            "  {:<13} {connected} of {}",
            "connected",
            self.peers.len()
        );
        if let Some(trouble) = &self.trouble {
            let _ = writeln!(text, "  {:<13} {}", "because", log::printable(trouble));
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "  {:<13} {}", "warning", log::printable(warning));
        }
        text.push('\n');
        text + &self.table()
    }

    /// The table of peers, with a column for each field, as wide as its widest cell. If a row is
    /// too long for a terminal, its columns continue in the next line.
    fn table(&self) -> String {
        let rows: Vec<Vec<Field>> = self.peers.iter().map(Peer::fields).collect();
        let mut blocks = vec![vec![String::new()]; rows.len() + 1];
        let mut used = 0;
        for (at, (_, title, ..)) in rows.first().into_iter().flatten().enumerate() {
            if title.is_empty() {
                continue;
            }
            let mut cells = vec![(*title).to_owned()];
            cells.extend(rows.iter().map(|row| row[at].3.text()));
            let widths = cells.iter().map(|cell| cell.chars().count());
            let width = widths.max().unwrap_or(0);
            let begins_line = used > 0 && used + width > TERMINAL;
            if begins_line {
                used = INDENT.len();
            }
            used += width + GAP.len();
            for (lines, cell) in blocks.iter_mut().zip(cells) {
                if begins_line {
                    lines.push(INDENT.to_owned());
                }
                if let Some(line) = lines.last_mut() {
                    *line += &format!("{cell:<width$}{GAP}");
                }
            }
        }
        let lines = blocks.iter().flatten();
        lines.map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

/// A duration in its two largest units.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let minutes = seconds / 60;
    let hours = seconds / 3600;
    let days = seconds / 86_400;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

fn size(bytes: u64) -> String {
    let mut number = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if number < 999.5 {
            return if unit == "B" {
                format!("{bytes} B")
            } else {
                format!("{number:.1} {unit}")
            };
        }
        number /= 1000.0;
    }
    format!("{number:.1} TB")
}

/// A JSON string, RFC 8259 section 7.
fn quoted(text: &str) -> String {
    let escaped = text.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        '\0'..='\x1f' => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

/// The value of a label in Prometheus' text format 0.0.4.
fn label(text: impl Display) -> String {
    format!(
        "\"{}\"",
        text.to_string()
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n")
    )
}

/// Joins the reports of several instances. In Prometheus' format, all samples of a metric must
/// stand together.
pub fn merged(reports: &[String]) -> String {
    let mut families: Vec<(&str, String)> = Vec::new();
    for report in reports {
        for part in report
            .split_inclusive('\n')
            .collect::<Vec<_>>()
            .chunk_by(|_, next| !next.starts_with("# HELP"))
        {
            let (head, samples) = part.split_at(2.min(part.len()));
            match families
                .iter_mut()
                .find(|(name, _)| Some(name) == head.first())
            {
                Some((_, text)) => text.extend(samples.iter().copied()),
                None => families.push((head.first().unwrap_or(&""), part.concat())),
            }
        }
    }
    families.into_iter().map(|(_, text)| text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::observe::counters::RejectReason;

    /// A client with the worst name that a key file's comment allows.
    const EVIL: &str = "a\"b\\c\u{1b}[2J\u{202e}é";

    fn report(handshakes: &HandshakeCounters) -> Report<'_> {
        let peer = |name: &str| Peer {
            name: name.into(),
            addresses: vec!["10.8.0.2/24".parse().unwrap()],
            traffic: Arc::default(),
            step: Some(7),
            link: None,
        };
        Report {
            name: "office",
            role: "server",
            started: Moment::now(),
            device: Some("fern0"),
            listen: vec![],
            addresses: &[],
            trouble: Some("nothing\u{1b} listens there".into()),
            warnings: vec!["two\nlines".into()],
            handshakes,
            unrouted: 3,
            peers: vec![peer(EVIL), peer("bob")],
        }
    }

    #[test]
    fn each_format_escapes_in_its_own_way() {
        let handshakes = HandshakeCounters::default();
        handshakes.reject(RejectReason::Crowded);
        let report = report(&handshakes);
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["peers"][0]["name"], EVIL);
        assert_eq!(
            (&json["peers"][0]["ratchet_step"], &json["unrouted_packets"]),
            (&7.into(), &3.into())
        );
        assert_eq!(
            json["handshakes_refused"]["crowded"], 1,
            "the last of the names is that of the last reason"
        );
        let text = report.text();
        assert!(text.contains(" 1 crowded\n"));
        assert!(
            text.contains("because       nothing\u{fffd} listens there\n"),
            "{text}"
        );
        assert!(
            !text.contains('\u{1b}') && !text.contains('\u{202e}'),
            "{text}"
        );
        assert!(report.prometheus().contains("peer=\"a\\\"b\\\\c"));
        assert_eq!(report.render("xml"), None);
    }

    #[test]
    fn the_table_fits_a_terminal() {
        let handshakes = HandshakeCounters::default();
        let mut report = report(&handshakes);
        let traffic = Arc::new(TrafficCounters::default());
        for counter in [
            &traffic.dropped_queue,
            &traffic.dropped_source,
            &traffic.bytes_in,
        ] {
            counter.store(123_456_789, Ordering::Relaxed);
        }
        report.peers.push(Peer {
            name: "a-name-of-thirty-two-letters-123".into(),
            addresses: vec![
                "10.8.0.2/24".parse().unwrap(),
                "fd0f:e12e::1234/64".parse().unwrap(),
            ],
            traffic,
            step: Some(u64::MAX),
            link: None,
        });
        let text = report.text();
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        let (_, table) = text.split_once("\n\n").unwrap();
        assert_eq!(
            table.lines().count() % 4,
            0,
            "a head and three peers: {table}"
        );
        assert!(table.contains("123.5 MB"), "{table}");
    }

    #[test]
    fn reports_are_merged_metric_by_metric() {
        let handshakes = HandshakeCounters::default();
        let one = report(&handshakes).prometheus();
        let other = one.replace("office", "home");
        let both = merged(&[one.clone(), other]);
        assert_eq!(
            both.matches("# TYPE").count(),
            one.matches("# TYPE").count()
        );
        assert_eq!(
            both.lines().count(),
            2 * one.lines().count() - one.matches('#').count()
        );
        let first = both.lines().position(|line| line.contains("home")).unwrap();
        assert!(
            both.lines().nth(first - 1).unwrap().contains("office")
                && both.lines().nth(first + 1).unwrap().starts_with('#')
        );
    }

    #[test]
    fn numbers_for_people() {
        let spans = [5, 65, 7500, 200_000].map(|seconds| span(Duration::from_secs(seconds)));
        assert_eq!(spans, ["5 s", "1 min 5 s", "2 h 5 min", "2 d 7 h"]);
        let sizes = [0, 999, 1000, 1_234_567, 5_000_000_000_000].map(size);
        assert_eq!(sizes, ["0 B", "999 B", "1.0 kB", "1.2 MB", "5.0 TB"]);
    }
}
