//! What is a server or a client doing? A report of one moment, for people, for scripts (JSON) and for Prometheus.
//!
//! Packets and bytes are counted as the kernel counts them on the tunnel's device (`ip -s link`, nft): a super-packet
//! once, with the bytes of its IP packet. `sent` is what was handed over for the peer, `received` what came from it and was
//! passed on. What was dropped on the way to the peer is in `sent` as well, as on a device with a full queue; what came and
//! was refused is not in `received`.
//!
//! Names and texts of peers may hold anything, so each format escapes them in its own way. No key is in a report.

use super::clients::Connected;
use super::config_record::listed;
use super::connection::printable;
use super::outbound::{Traffic, count};
use crate::os::clock;
use crate::os::socket;
use crate::packet::subnet::Subnet;
use crate::protocol::record::Suite;
use std::fmt::{Display, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Why a handshake did not become a session. The order is that of `REFUSALS`.
#[derive(Clone, Copy, Debug)]
pub enum Refusal {
    /// What came was no hello.
    NoHello,
    /// No client has this key.
    UnknownKey,
    /// A ratcheted key has left this step behind.
    EarlierStep,
    /// The hello's token or fields were refused.
    Hello,
    /// The hello was answered before.
    Replay,
    /// `max-clients` are connected.
    Full,
    /// The ratcheted key's step could not be made durable.
    State,
    /// No version or suite that both sides have.
    Agreement,
    /// Finished was refused.
    Finished,
    /// A newer handshake was quicker.
    Superseded,
    /// It did not come to an end in time, or was cut.
    Incomplete,
    /// There were too many; a random one was ended.
    Crowded,
}

/// The names of [`Refusal`]s in reports.
const REFUSALS: [&str; 12] = [
    "no_hello",
    "unknown_key",
    "earlier_step",
    "hello",
    "replay",
    "full",
    "state",
    "agreement",
    "finished",
    "superseded",
    "incomplete",
    "crowded",
];

/// What has come of handshakes since the start.
#[derive(Debug, Default)]
pub struct Tally {
    accepted: AtomicU64,
    refused: [AtomicU64; REFUSALS.len()],
}

impl Tally {
    /// One more session.
    pub fn accept(&self) {
        count(&self.accepted);
    }

    /// One more that became none.
    pub fn refuse(&self, reason: Refusal) {
        count(&self.refused[reason as usize]);
    }

    fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REFUSALS.into_iter().zip(self.refused.iter().map(load))
    }
}

/// A running server or client.
pub struct Report<'a> {
    /// Its name.
    pub name: &'a str,
    /// `server` or `client`.
    pub role: &'static str,
    /// When it started.
    pub started: Since,
    /// Its device, if it has one.
    pub device: Option<&'a str>,
    /// Where a server listens.
    pub listen: Vec<SocketAddr>,
    /// Its tunnel addresses.
    pub addresses: &'a [Subnet],
    /// Its handshakes.
    pub handshakes: &'a Tally,
    /// Packets from the device for which there was no peer, or none connected.
    pub unrouted: u64,
    /// A server's clients, a client's server.
    pub peers: Vec<Peer>,
}

/// The other end.
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its tunnel addresses.
    pub addresses: Vec<Subnet>,
    /// What was carried since the start.
    pub traffic: Arc<Traffic>,
    /// The step of its ratcheted key.
    pub step: Option<u64>,
    /// The connection, if there is one.
    pub link: Option<Link>,
}

/// A connection at this moment.
pub struct Link {
    from: SocketAddr,
    suite: Suite,
    since: Since,
    path: Option<socket::Path>,
}

impl Link {
    /// Of this connection.
    pub fn of(connected: &Connected) -> Link {
        let Connected { from, outbound, since, .. } = connected;
        Link { from: *from, suite: outbound.suite, since: *since, path: socket::path(&outbound.socket).ok() }
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// What is told of one thing, whatever the format.
enum Value {
    Text(Option<String>),
    Number(Option<f64>),
    Yes(bool),
    List(Vec<String>),
    ByReason(Vec<(&'static str, u64)>),
}

/// Its name in JSON, its metric's name and help if it is one, and what it is.
type Field = (&'static str, &'static str, &'static str, Value);

impl Value {
    fn json(&self) -> String {
        match self {
            Value::Text(text) => text.as_ref().map_or("null".into(), |text| quoted(text)),
            Value::Number(number) => number.map_or("null".into(), |number| number.to_string()),
            Value::Yes(yes) => yes.to_string(),
            Value::List(items) => format!("[{}]", joined(items.iter().map(|item| quoted(item)))),
            Value::ByReason(list) => format!("{{{}}}", joined(list.iter().map(|(name, n)| format!("\"{name}\":{n}")))),
        }
    }

    /// Samples, with their labels. What there is not has none.
    fn samples(&self) -> Vec<(String, f64)> {
        let reason = |(name, n): &(&str, u64)| (format!(",reason={}", label(name)), *n as f64);
        match self {
            Value::Number(number) => number.iter().map(|number| (String::new(), *number)).collect(),
            Value::Yes(yes) => vec![(String::new(), f64::from(u8::from(*yes)))],
            Value::ByReason(list) => list.iter().map(reason).collect(),
            Value::Text(_) | Value::List(_) => Vec::new(),
        }
    }
}

fn number(number: u64) -> Value {
    Value::Number(Some(number as f64))
}

fn shown(items: &[impl Display]) -> Value {
    Value::List(items.iter().map(ToString::to_string).collect())
}

fn joined(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(",")
}

/// The inside of a JSON object.
fn members(fields: &[Field]) -> String {
    joined(fields.iter().map(|(name, _, _, value)| format!("\"{name}\":{}", value.json())))
}

impl Peer {
    fn dropped(&self) -> Vec<(&'static str, u64)> {
        let traffic = &self.traffic;
        vec![
            ("queue", load(&traffic.dropped_queue)),
            ("malformed", load(&traffic.dropped_malformed)),
            ("source", load(&traffic.dropped_source)),
            ("destination", load(&traffic.dropped_destination)),
        ]
    }

    #[rustfmt::skip]
    fn fields(&self) -> Vec<Field> {
        let (link, traffic) = (self.link.as_ref(), &self.traffic);
        let text = |of: &dyn Fn(&Link) -> String| Value::Text(link.map(of));
        let seconds = |of: &dyn Fn(&Link) -> Option<f64>| Value::Number(link.and_then(of));
        vec![
            ("name", "", "", Value::Text(Some(self.name.clone()))),
            ("addresses", "", "", shown(&self.addresses)),
            ("from", "", "", text(&|link| link.from.to_string())),
            ("suite", "", "", text(&|link| link.suite.name().into())),
            ("connected", "connected", "Whether the peer is connected.", Value::Yes(link.is_some())),
            ("connected_since", "connected_since_timestamp_seconds", "Since when, in Unix time.",
                seconds(&|link| Some(link.since.unix as f64))),
            ("last_heard", "last_heard_timestamp_seconds", "When data last came from it, in Unix time.",
                seconds(&|link| Some(ago(link.path?.silence) as f64))),
            ("round_trip_seconds", "round_trip_seconds", "Round trip time of its connection, smoothed.",
                seconds(&|link| Some(link.path?.round_trip.as_secs_f64()))),
            ("ratchet_step", "ratchet_step", "Steps that its ratcheted key has made.",
                Value::Number(self.step.map(|step| step as f64))),
            ("received_packets", "received_packets_total", "Packets from the peer, a super-packet once.",
                number(load(&traffic.packets_in))),
            ("received_bytes", "received_bytes_total", "Their bytes.", number(load(&traffic.bytes_in))),
            ("sent_packets", "sent_packets_total", "Packets for the peer, a super-packet once.",
                number(load(&traffic.packets_out))),
            ("sent_bytes", "sent_bytes_total", "Their bytes.", number(load(&traffic.bytes_out))),
            ("dropped_packets", "dropped_packets_total", "Packets dropped, by reason.",
                Value::ByReason(self.dropped())),
        ]
    }
}

/// A moment: for how long ago it was, and for its name in Unix time.
#[derive(Clone, Copy, Debug)]
pub struct Since {
    at: Instant,
    unix: u64,
}

impl Since {
    /// This moment.
    pub fn now() -> Since {
        Since { at: Instant::now(), unix: clock::unix_seconds() }
    }

    fn elapsed(&self) -> Duration {
        self.at.elapsed()
    }
}

/// Unix time of what was so long ago.
fn ago(time: Duration) -> u64 {
    clock::unix_seconds().saturating_sub(time.as_secs())
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
            ("name", "", "", Value::Text(Some(self.name.into()))),
            ("role", "", "", Value::Text(Some(self.role.into()))),
            ("version", "", "", Value::Text(Some(super::SOFTWARE.into()))),
            ("started", "start_time_seconds", "When it started, in Unix time.", number(self.started.unix)),
            ("uptime_seconds", "", "", number(self.started.elapsed().as_secs())),
            ("device", "", "", Value::Text(self.device.map(str::to_owned))),
            ("listen", "", "", shown(&self.listen)),
            ("addresses", "", "", shown(self.addresses)),
            ("handshakes_accepted", "handshakes_accepted_total", "Handshakes that became a session.",
                number(load(&self.handshakes.accepted))),
            ("handshakes_refused", "handshakes_refused_total", "Handshakes that did not, by reason.",
                Value::ByReason(self.handshakes.refused().collect())),
            ("unrouted_packets", "unrouted_packets_total", "Packets from the device without a connected peer to go to.",
                number(self.unrouted)),
        ]
    }

    fn json(&self) -> String {
        let peers = joined(self.peers.iter().map(|peer| format!("{{{}}}", members(&peer.fields()))));
        format!("{{{},\"peers\":[{peers}]}}\n", members(&self.fields()))
    }

    fn prometheus(&self) -> String {
        let mut text = String::new();
        let mut family = |name: &str, help: &str, samples: Vec<(String, f64)>| {
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
            let _ = write!(text, "# HELP fernvpn_{name} {help}\n# TYPE fernvpn_{name} {kind}\n");
            for (labels, value) in samples {
                let _ = writeln!(text, "fernvpn_{name}{{instance_name={}{labels}}} {value}", label(self.name));
            }
        };
        let info = format!(",role={},version={}", label(self.role), label(super::SOFTWARE));
        family("info", "What runs here.", vec![(info, 1.0)]);
        for (_, name, help, value) in self.fields().iter().filter(|(_, name, ..)| !name.is_empty()) {
            family(name, help, value.samples());
        }
        let peers: Vec<Vec<Field>> = self.peers.iter().map(Peer::fields).collect();
        for (at, (_, name, help, _)) in peers.first().into_iter().flatten().enumerate() {
            let of = |(peer, fields): (&Peer, &Vec<Field>)| {
                let name = format!(",peer={}", label(&peer.name));
                fields[at].3.samples().into_iter().map(move |(labels, value)| (name.clone() + &labels, value))
            };
            if !name.is_empty() {
                family(&format!("peer_{name}"), help, self.peers.iter().zip(&peers).flat_map(of).collect());
            }
        }
        text
    }

    fn text(&self) -> String {
        let mut text = format!("{} ({}, {})\n", self.name, self.role, super::SOFTWARE);
        let refused: Vec<String> =
            self.handshakes.refused().filter(|(_, n)| *n > 0).map(|(why, n)| format!("{n} {why}")).collect();
        let connected = self.peers.iter().filter(|peer| peer.link.is_some()).count();
        let accepted = load(&self.handshakes.accepted);
        let refused =
            if refused.is_empty() { "none refused".into() } else { format!("refused: {}", refused.join(", ")) };
        for (what, value) in [
            ("up", span(self.started.elapsed())),
            ("device", self.device.unwrap_or("none").into()),
            ("addresses", listed(self.addresses)),
            ("listening on", listed(&self.listen)),
            ("connected", format!("{connected} of {}", self.peers.len())),
            ("handshakes", format!("{accepted} accepted, {refused}")),
        ] {
            if !value.is_empty() {
                let _ = writeln!(text, "  {what:<13} {value}");
            }
        }
        let mut rows = vec![
            ["", "ADDRESSES", "FROM", "SUITE", "SINCE", "HEARD", "ROUND TRIP", "RECEIVED", "SENT", "DROPPED", "STEP"]
                .map(str::to_owned),
        ];
        for peer in &self.peers {
            let link = |show: &dyn Fn(&Link) -> Option<String>| {
                peer.link.as_ref().and_then(show).unwrap_or_else(|| "-".into())
            };
            let Traffic { packets_in, bytes_in, packets_out, bytes_out, .. } = &*peer.traffic;
            let carried = |packets, bytes| format!("{} ({})", size(load(bytes)), load(packets));
            let addresses = peer.addresses.iter().map(|own| own.address).collect::<Vec<_>>();
            let dropped: Vec<String> =
                peer.dropped().into_iter().filter(|(_, n)| *n > 0).map(|(why, n)| format!("{n} {why}")).collect();
            rows.push([
                printable(&peer.name),
                listed(&addresses),
                link(&|link| Some(link.from.to_string())),
                link(&|link| Some(link.suite.name().into())),
                link(&|link| Some(span(link.since.elapsed()))),
                link(&|link| Some(span(link.path?.silence))),
                link(&|link| Some(format!("{:.2} ms", link.path?.round_trip.as_secs_f64() * 1e3))),
                carried(packets_in, bytes_in),
                carried(packets_out, bytes_out),
                if dropped.is_empty() { "-".into() } else { dropped.join(", ") },
                peer.step.map_or("-".into(), |step| step.to_string()),
            ]);
        }
        rows[0][0] = if self.role == "server" { "CLIENT".into() } else { "SERVER".into() };
        text + "\n" + &aligned(&rows)
    }
}

/// Columns as wide as what is in them.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// The largest two units are enough.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
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
            return if unit == "B" { format!("{bytes} B") } else { format!("{number:.1} {unit}") };
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
    format!("\"{}\"", text.to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// Reports of several instances as one: in Prometheus' format all samples of a metric stand together.
pub fn merged(reports: &[String]) -> String {
    let mut families: Vec<(&str, String)> = Vec::new();
    for report in reports {
        for part in report.split_inclusive('\n').collect::<Vec<_>>().chunk_by(|_, next| !next.starts_with("# HELP")) {
            let (head, samples) = part.split_at(2.min(part.len()));
            match families.iter_mut().find(|(name, _)| Some(name) == head.first()) {
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

    /// A client whose name is as bad as a key file's comment can be.
    const EVIL: &str = "a\"b\\c\u{1b}[2J\u{202e}é";

    fn report(tally: &Tally) -> Report<'_> {
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
            started: Since::now(),
            device: Some("fern0"),
            listen: vec![],
            addresses: &[],
            handshakes: tally,
            unrouted: 3,
            peers: vec![peer(EVIL), peer("bob")],
        }
    }

    #[test]
    fn each_format_escapes_in_its_own_way() {
        let tally = Tally::default();
        tally.refuse(Refusal::Crowded);
        let report = report(&tally);
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["peers"][0]["name"], EVIL);
        assert_eq!((&json["peers"][0]["ratchet_step"], &json["unrouted_packets"]), (&7.into(), &3.into()));
        assert_eq!(json["handshakes_refused"]["crowded"], 1, "the last of the names is that of the last reason");
        let text = report.text();
        assert!(text.contains("refused: 1 crowded"));
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "{text}");
        assert!(report.prometheus().contains("peer=\"a\\\"b\\\\c"));
        assert_eq!(report.render("xml"), None);
    }

    #[test]
    fn reports_are_merged_metric_by_metric() {
        let tally = Tally::default();
        let one = report(&tally).prometheus();
        let other = one.replace("office", "home");
        let both = merged(&[one.clone(), other]);
        assert_eq!(both.matches("# TYPE").count(), one.matches("# TYPE").count());
        assert_eq!(both.lines().count(), 2 * one.lines().count() - one.matches('#').count());
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
