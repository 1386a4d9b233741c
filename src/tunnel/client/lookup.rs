//! Which addresses does the server have? A question about its name never goes into a tunnel that is
//! down.
//!
//! As long as this client has changed nothing on the machine, it asks the machine's own resolver.
//! Afterwards that resolver's questions would go into the tunnel, or the kill switch would stop
//! them. That happens when the tunnel is down and the server may have a new address. Then this file
//! asks the resolvers of the local network itself, with sockets that have the carrier's mark:
//!
//! ```text
//! /etc/hosts ─> each resolver in turn, 500 ms apart: A and AAAA by UDP ─> if cut off, by TCP
//! ```
//!
//! The first answer with an address counts. A wrong address is no danger, because a machine there
//! does not have the key.

use crate::os::lock::about_to_wait;
use crate::os::resolver;
use crate::os::socket::{self, Tuning};
use crate::os::{entropy, log, reason};
use crate::packet::dns::{self, Answer, Kind};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How long the client waits before it asks the next resolver.
const STAGGER: Duration = Duration::from_millis(500);
/// How long a resolver may take before the client asks it again, and how often it asks.
const REPLY_TIME: Duration = Duration::from_secs(2);
const TRIES: usize = 2;
/// How long a whole lookup may take.
const LOOKUP_TIME: Duration = Duration::from_secs(8);
/// The most resolvers that are asked, and the most aliases that are followed.
const MAX_RESOLVERS: usize = 6;
const MAX_ALIASES: usize = 8;

/// Splits `HOST:PORT`. An IPv6 host loses its brackets.
pub(super) fn host_and_port(server: &str) -> (&str, u16) {
    let (host, port) = server.rsplit_once(':').unwrap_or((server, ""));
    let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    (bare.unwrap_or(host), port.parse().unwrap_or(0))
}

/// Looks a server up. With `mark`, the lookup goes past the tunnel. Each lookup of a name has a
/// line in the log.
///
/// # Errors
/// Fails if no resolver knows the name, or none answers in time.
pub(super) fn lookup(
    server: &str,
    past_the_tunnel: Option<u32>,
) -> Result<Vec<SocketAddr>, String> {
    about_to_wait("a resolver");
    let (host, port) = host_and_port(server);
    let is_name = !is_address(host);
    let found: Result<Vec<SocketAddr>, String> = match past_the_tunnel {
        Some(mark) if is_name => {
            ask(host, mark).map(|found| found.into_iter().map(|ip| (ip, port).into()).collect())
        }
        // If the host is an address, this only reads its zone, as in fe80::1%eth0.
        _ => (host, port)
            .to_socket_addrs()
            .map(Iterator::collect)
            .map_err(|error| reason(&error)),
    };
    let found = found.map_err(|reason| {
        format!(
            "cannot find {server}: {reason} ({})",
            advice(past_the_tunnel)
        )
    })?;
    if is_name {
        let addresses = found.iter().map(|address| address.ip().to_string());
        let addresses = addresses.collect::<Vec<_>>().join(", ");
        log::info("tunnel", &format!("looked up {host}: {addresses}"), &[]);
    }
    Ok(found)
}

fn is_address(host: &str) -> bool {
    let address = host.split_once('%').map_or(host, |(address, _)| address);
    address.parse::<IpAddr>().is_ok()
}

fn advice(past_the_tunnel: Option<u32>) -> &'static str {
    match past_the_tunnel {
        Some(_) => "try an address in place of the name: server = ADDRESS:PORT",
        None => "is this the right name, and does this machine's resolver answer?",
    }
}

/// Looks a name up past the tunnel.
fn ask(host: &str, mark: u32) -> Result<Vec<IpAddr>, String> {
    let listed = resolver::in_hosts_file(host);
    if !listed.is_empty() {
        return Ok(listed);
    }
    let resolvers = resolver::past_the_tunnel();
    let names = resolver::full_names(host);
    let (sender, replies) = mpsc::channel();
    let mut reasons = Vec::new();
    let mut waiting = 0;
    let deadline = Instant::now() + LOOKUP_TIME;
    let mut resolvers = resolvers.into_iter().take(MAX_RESOLVERS).peekable();
    while waiting > 0 || resolvers.peek().is_some() {
        if let Some(resolver) = resolvers.next() {
            let sender = sender.clone();
            let names = names.clone();
            let asking = thread::Builder::new().name("lookup".into());
            let started = asking.spawn(move || {
                // If another resolver was faster, nobody receives this.
                let _ = sender.send(ask_one(&names, resolver, mark));
            });
            started.map_err(|error| error.to_string())?;
            waiting += 1;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let patience = match resolvers.peek() {
            Some(_) => STAGGER.min(left),
            None => left,
        };
        match replies.recv_timeout(patience) {
            Ok(Ok(addresses)) => return Ok(addresses),
            Ok(Err(reason)) => {
                waiting -= 1;
                reasons.push(reason);
            }
            Err(_) if left.is_zero() => {
                reasons.push(format!("no answer within {} s", LOOKUP_TIME.as_secs()));
                break;
            }
            Err(_) => {}
        }
    }
    match reasons.is_empty() {
        true => Err("this machine names no resolver (/etc/resolv.conf)".into()),
        false => Err(reasons.join("; ")),
    }
}

/// Asks one resolver for the first of these names that it knows.
fn ask_one(names: &[String], resolver: SocketAddr, mark: u32) -> Result<Vec<IpAddr>, String> {
    let said = |text: &dyn std::fmt::Display| format!("the resolver {} {text}", resolver.ip());
    let mut last = said(&"knows no such name");
    for name in names {
        let mut name = name.clone();
        for _ in 0..=MAX_ALIASES {
            let answers = exchange(&name, resolver, mark)
                .map_err(|error| said(&format_args!("does not answer: {}", reason(&error))))?;
            let mut alias = None;
            let mut addresses = Vec::new();
            for answer in answers {
                match answer {
                    Answer::Addresses(found) => addresses.extend(found),
                    Answer::Alias(other) => alias = Some(other),
                    Answer::NoSuchName => {}
                    Answer::Failed(code) => {
                        last = said(&format_args!("has failed (code {code})"));
                    }
                    Answer::Truncated => last = said(&"truncates its answers"),
                }
            }
            if !addresses.is_empty() {
                return Ok(addresses);
            }
            match alias {
                Some(other) => name = other,
                None => break,
            }
        }
    }
    Err(last)
}

/// Waits for the answers for IPv6 and IPv4. When the time has passed, one of them is enough.
fn exchange(name: &str, resolver: SocketAddr, mark: u32) -> io::Result<Vec<Answer>> {
    let mut open = Vec::new();
    for kind in [Kind::Aaaa, Kind::A] {
        let id = u16::from_be_bytes(entropy::array());
        open.push(dns::query(id, name, kind).ok_or(ErrorKind::InvalidInput)?);
    }
    let any: IpAddr = match resolver {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket::mark(&socket, mark)?;
    socket.connect(resolver)?;
    let mut answers = Vec::new();
    for _ in 0..TRIES {
        for query in &open {
            socket.send(query)?;
        }
        let deadline = Instant::now() + REPLY_TIME;
        let mut message = [0; 2048];
        while !open.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            socket.set_read_timeout(Some(left))?;
            let length = match socket.recv(&mut message) {
                Ok(length) => length,
                Err(error) if is_timeout(&error) => break,
                Err(error) => return Err(error),
            };
            let answer = |query: &Vec<u8>| dns::answer(query, &message[..length]);
            let Some(at) = open.iter().position(|query| answer(query).is_some()) else {
                continue;
            };
            let query = open.swap_remove(at);
            answers.extend(match answer(&query) {
                Some(Answer::Truncated) => exchange_by_tcp(&query, resolver, mark)?,
                other => other,
            });
        }
        if !answers.is_empty() {
            return Ok(answers);
        }
    }
    Err(ErrorKind::TimedOut.into())
}

/// Asks the same question over TCP, where each message has its length in front.
fn exchange_by_tcp(query: &[u8], resolver: SocketAddr, mark: u32) -> io::Result<Option<Answer>> {
    let tuning = Tuning {
        mark: Some(mark),
        ..Tuning::default()
    };
    let mut stream = socket::connect(resolver, REPLY_TIME, &tuning)?;
    stream.set_read_timeout(Some(REPLY_TIME))?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message)?;
    Ok(dns::answer(query, &message))
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
