//! Does the tunnel's connection go to a program on this machine, and where does that program
//! connect to?
//!
//! `server = 127.0.0.1:4444` may be `ssh -L`, stunnel or a proxy. Such a program connects to the
//! server by itself, without the mark of a carrier. A tunnel for all addresses would lead that
//! connection into itself: a loop that carries nothing. So this file finds the connection, and the
//! client leads it past the tunnel.
//!
//! ```text
//! /proc/net/tcp   local 127.0.0.1:4444, established ─> the number of its socket
//! /proc/PID/fd    socket:[number]                   ─> the program, and its other sockets
//! /proc/net/tcp   established, to another machine   ─> where it goes
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Whether this is an address of this machine.
pub fn is_here(address: IpAddr) -> bool {
    !address.is_unspecified() && UdpSocket::bind((address, 0)).is_ok()
}

/// The addresses to which the program that listens at `listener` connects. There are none if it has
/// no connection, or if another user's program cannot be inspected.
pub fn destinations(listener: SocketAddr) -> BTreeSet<SocketAddr> {
    let sockets = established();
    let accepted = sockets.iter().filter(|it| it.own == listener);
    let accepted: BTreeSet<u64> = accepted.map(|it| it.number).collect();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let owned = processes.filter_map(|process| {
        let files = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        let numbers: BTreeSet<u64> = files
            .filter_map(|file| number(fs::read_link(file.path()).ok()?.to_str()?))
            .collect();
        (!numbers.is_disjoint(&accepted)).then_some(numbers)
    });
    let owned: BTreeSet<u64> = owned.flatten().collect();
    let to = sockets.iter().filter(|it| owned.contains(&it.number));
    to.map(|it| it.other)
        .filter(|other| !is_here(other.ip()))
        .collect()
}

#[derive(Debug, PartialEq, Eq)]
struct Connection {
    own: SocketAddr,
    other: SocketAddr,
    number: u64,
}

fn established() -> Vec<Connection> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let texts = tables.map(|table| fs::read_to_string(table).unwrap_or_default());
    let lines = texts.iter().flat_map(|text| text.lines());
    lines.filter_map(connection).collect()
}

/// A line has a number, the own and the other address, the state (01: established), ..., and the
/// socket's number.
fn connection(line: &str) -> Option<Connection> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, own, other, "01", .., _] = words.as_slice() else {
        return None;
    };
    Some(Connection {
        own: address(own)?,
        other: address(other)?,
        number: words.get(9)?.parse().ok()?,
    })
}

/// Reads an address such as `0100007F:115C`. Its words of 32 bits have this machine's byte order.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| {
        let word = u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let address = match address.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        _ => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let all = words.concat();
            Ipv6Addr::from(<[u8; 16]>::try_from(all).ok()?).to_canonical()
        }
    };
    Some((address, u16::from_str_radix(port, 16).ok()?).into())
}

fn number(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn lines_of_proc_are_read() {
        let line = "  2: 0100007F:115C 0200000A:D431 01 00000000:00000000 00:00000000 \
                    00000000  1000        0 4711 1 0 20";
        let read = connection(line).unwrap();
        assert_eq!(read.own, "127.0.0.1:4444".parse().unwrap());
        assert_eq!(read.other, "10.0.0.2:54321".parse().unwrap());
        assert_eq!(read.number, 4711);
        let mapped = "0000000000000000FFFF00000100007F:0050";
        assert_eq!(address(mapped), Some("127.0.0.1:80".parse().unwrap()));
        assert_eq!(connection(&line.replace(" 01 ", " 0A ")), None);
        for end in 0..line.len() {
            let _ = connection(&line[..end]);
        }
    }

    #[test]
    fn a_program_that_stays_on_this_machine_goes_nowhere() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let _near = TcpStream::connect(at).unwrap();
        let _far = listener.accept().unwrap();
        assert!(established().iter().any(|it| it.own == at));
        assert!(destinations(at).iter().all(|to| !is_here(to.ip())));
        assert!(is_here(at.ip()) && !is_here("192.0.2.1".parse().unwrap()));
    }
}
