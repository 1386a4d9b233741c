//! How does a client reach a server that has several addresses? RFC 8305, section 5.
//!
//! The client tries them side by side. The next attempt begins when the one before has failed, or
//! after 250 ms. So an address that does not answer costs a quarter of a second. The client keeps
//! the first connection and closes later ones.

use crate::os::log;
use crate::os::socket::{self, Tuning};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long the client waits before it tries the next address.
const STAGGER: Duration = Duration::from_millis(250);

/// Connects to the address of `host` that answers first. Each attempt has a line in the log.
///
/// # Errors
/// The error of the attempt that came farthest.
pub(super) fn connect(
    host: &str,
    addresses: &[SocketAddr],
    timeout: Duration,
    tuning: &Tuning,
) -> io::Result<TcpStream> {
    let mut best = io::Error::new(ErrorKind::NotFound, format!("{host} has no address"));
    let (sender, results) = mpsc::channel();
    let mut addresses = by_turns(addresses).into_iter().peekable();
    let mut waiting = 0;
    while waiting > 0 || addresses.peek().is_some() {
        if let Some(address) = addresses.next() {
            announce(host, address);
            let sender = sender.clone();
            let tuning = tuning.clone();
            let connecting = thread::Builder::new().name("connect".into());
            connecting.spawn(move || {
                // If another attempt was faster, nobody receives this and the connection closes.
                let _ = sender.send(socket::connect(address, timeout, &tuning));
            })?;
            waiting += 1;
        }
        // The attempts that still run end by themselves.
        let patience = match addresses.peek() {
            Some(_) => STAGGER,
            None => timeout * 2,
        };
        match results.recv_timeout(patience) {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => {
                waiting -= 1;
                if distance(&error) >= distance(&best) {
                    best = error;
                }
            }
            Err(_) => {}
        }
    }
    Err(best)
}

fn announce(host: &str, address: SocketAddr) {
    let ip = address.ip().to_string();
    let text = match host.split('%').next() == Some(&ip) {
        true => format!("connecting to {host}"),
        false => format!("connecting to {host} ({ip})"),
    };
    log::info("tunnel", &text, &[("port", &address.port())]);
}

/// The addresses of the two families in turn, beginning with the first address's family.
fn by_turns(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let is_first = |address: &&SocketAddr| addresses[0].is_ipv6() == address.is_ipv6();
    let (first, second): (Vec<_>, Vec<_>) = addresses.iter().partition(is_first);
    let most = first.len().max(second.len());
    let pairs = (0..most).flat_map(|at| [first.get(at), second.get(at)]);
    pairs.flatten().copied().copied().collect()
}

/// How far an attempt came. Of several errors, "no IPv6 on this machine" says the least.
fn distance(error: &io::Error) -> u8 {
    match error.kind() {
        ErrorKind::NotFound => 0,
        ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable => 1,
        ErrorKind::HostUnreachable => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_families_take_turns() {
        let parse = |list: &str| -> Vec<SocketAddr> {
            list.split(' ')
                .map(|item| SocketAddr::new(item.parse().unwrap(), 1))
                .collect()
        };
        let all = parse("2001:db8::1 2001:db8::2 2001:db8::3 192.0.2.1");
        let right = parse("2001:db8::1 192.0.2.1 2001:db8::2 2001:db8::3");
        assert_eq!(by_turns(&all), right);
        assert_eq!(by_turns(&[]), []);
    }

    #[test]
    fn one_that_listens_is_found_among_others() {
        // The test has an address of its own. On 127.0.0.1, another test may have taken the port by
        // then.
        let listener = |ip| TcpListener::bind((ip, 0)).unwrap();
        let closed = listener("127.0.0.3").local_addr().unwrap();
        let listening = listener("127.0.0.2");
        let open = listening.local_addr().unwrap();
        let patience = Duration::from_secs(5);
        let try_all = |list: &[SocketAddr]| connect("x", list, patience, &Tuning::default());
        let stream = try_all(&[closed, closed, open]).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open);
        let error = try_all(&[closed]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(try_all(&[]).unwrap_err().to_string().contains("no address"));
    }
}
