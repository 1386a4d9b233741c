//! TCP sockets with what std has: slower, never wrong, good enough for a class.

use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::os::socket::{Path, Tuning, prepare};

/// Short enough to pass for now; std refuses a timeout of 0.
const NOW: Duration = Duration::from_millis(1);

/// std has two errors for a timeout that has passed, depending on the system.
fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Whether there is something to read, or the end; false after `timeout`.
pub fn wait_readable(stream: &TcpStream, timeout: Duration) -> io::Result<bool> {
    stream.set_read_timeout(Some(timeout.max(NOW)))?;
    let result = stream.peek(&mut [0]);
    stream.set_read_timeout(None)?;
    match result {
        Err(error) if timed_out(&error) => Ok(false),
        other => other.map(|_| true),
    }
}

/// std cannot ask; `accept` itself waits.
pub fn wait_to_accept(_listener: &TcpListener, _timeout: Duration) -> io::Result<bool> {
    Ok(true)
}

/// std cannot ask. Sending waits a little by itself, so that the caller's loop does not spin.
pub fn wait_writable(_stream: &TcpStream, _timeout: Duration) -> io::Result<bool> {
    Ok(true)
}

/// What has arrived: `WouldBlock` if nothing has, 0 at the end.
pub fn receive_now(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    match wait_readable(stream, NOW)? {
        true => io::Read::read(&mut &*stream, buffer),
        false => Err(ErrorKind::WouldBlock.into()),
    }
}

/// How many of the bytes the socket took: 0 if it is full.
pub fn send_now(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    stream.set_write_timeout(Some(NOW))?;
    let result = stream.write(bytes);
    stream.set_write_timeout(None)?;
    match result {
        Err(error) if timed_out(&error) => Ok(0),
        other => other,
    }
}

/// The size of segments is the system's here.
pub fn send_segments_now(stream: &TcpStream, bytes: &[u8], _most: usize) -> io::Result<usize> {
    send_now(stream, bytes)
}

/// std cannot; the peer finds out later.
pub fn reset_at_close(_stream: &TcpStream) -> io::Result<()> {
    Ok(())
}

/// Wakes whoever is blocked in `accept` by one connection from ourselves; the caller sets its
/// flag first.
pub fn stop_listening(listener: &TcpListener) -> io::Result<()> {
    let mut address = listener.local_addr()?;
    match address.ip() {
        ip if !ip.is_unspecified() => {}
        std::net::IpAddr::V4(_) => address.set_ip(std::net::Ipv4Addr::LOCALHOST.into()),
        std::net::IpAddr::V6(_) => address.set_ip(std::net::Ipv6Addr::LOCALHOST.into()),
    }
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).map(drop)
}

/// std does not say.
pub fn path(_stream: &TcpStream) -> io::Result<Path> {
    Err(crate::os::unsupported("what TCP knows of its path"))
}

/// Only Linux has marks.
pub fn mark(_socket: &UdpSocket, _mark: u32) -> io::Result<()> {
    Err(crate::os::unsupported("a socket mark"))
}

pub(in crate::os) fn connect(
    address: SocketAddr,
    timeout: Duration,
    tuning: &Tuning,
) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, timeout)?;
    prepare(&stream, tuning)?;
    Ok(stream)
}

/// The rest is Linux's own. A mark is a promise about routing, so it is refused; the others
/// only tune.
pub(in crate::os) fn tune(_stream: &TcpStream, tuning: &Tuning) -> io::Result<()> {
    tuning
        .mark
        .map_or(Ok(()), |_| Err(crate::os::unsupported("a socket mark")))
}
