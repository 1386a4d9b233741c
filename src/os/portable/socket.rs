//! How are TCP sockets used with std alone? It is slower, but right, and good enough for a class.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use crate::os::lock::about_to_wait;
use crate::os::socket::{Path, Tuning, prepare};

/// The longest sleep of a thread between two looks.
const LONGEST_PAUSE: Duration = Duration::from_millis(10);
/// The shortest sleep.
const SHORTEST_PAUSE: Duration = Duration::from_micros(100);

/// Calls `look` until it finds something, at most for `timeout`. std cannot wait for a socket that
/// does not block, so this sleeps in between. The sleep grows while nothing comes.
fn wait_until<T>(
    timeout: Duration,
    mut look: impl FnMut() -> io::Result<T>,
) -> io::Result<Option<T>> {
    let begin = Instant::now();
    loop {
        match look() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            other => return other.map(Some),
        }
        let waited = begin.elapsed();
        let Some(left) = timeout.checked_sub(waited) else {
            return Ok(None);
        };
        let pause = (waited / 8).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        thread::sleep(pause.min(left));
    }
}

/// Whether there is data or the end to read. False after `timeout`.
pub fn wait_readable(stream: &TcpStream, timeout: Duration) -> io::Result<bool> {
    about_to_wait("a socket");
    stream.set_nonblocking(true)?;
    wait_until(timeout, || stream.peek(&mut [0])).map(|found| found.is_some())
}

/// Waits a moment, so that the caller's loop does not spin. std cannot ask whether the socket takes
/// data.
pub fn wait_writable(_stream: &TcpStream, timeout: Duration) -> io::Result<bool> {
    about_to_wait("a socket");
    thread::sleep(timeout.min(LONGEST_PAUSE));
    Ok(true)
}

/// The next connection, or `None` after `timeout` or earlier, because another thread cannot end
/// this wait.
pub fn accept(
    listener: &TcpListener,
    timeout: Duration,
) -> io::Result<Option<(TcpStream, SocketAddr)>> {
    about_to_wait("a socket");
    listener.set_nonblocking(true)?;
    wait_until(timeout.min(ACCEPT_TIME), || listener.accept())
}

/// The longest time until the accepting thread notices that its listener was stopped.
const ACCEPT_TIME: Duration = Duration::from_millis(100);

/// The accepting thread notices by itself.
pub fn stop_listening(_listener: &TcpListener) -> io::Result<()> {
    Ok(())
}

/// Reads what has arrived. The error is `WouldBlock` if nothing has; 0 means the end.
pub fn receive_now(mut stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    stream.set_nonblocking(true)?;
    stream.read(buffer)
}

/// Writes, and returns how many of the bytes the socket took: 0 if it is full. (After a timeout of
/// a blocking send, Windows does not say how much was sent.)
pub fn send_now(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    stream.set_nonblocking(true)?;
    match stream.write(bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

/// The same. The system chooses the size of segments.
pub fn send_segments_now(stream: &TcpStream, bytes: &[u8], _most: usize) -> io::Result<usize> {
    send_now(stream, bytes)
}

/// Does nothing, because std cannot. The peer notices later.
pub fn reset_at_close(_stream: &TcpStream) -> io::Result<()> {
    Ok(())
}

/// Always an error, because std does not know.
pub fn path(_stream: &TcpStream) -> io::Result<Path> {
    Err(crate::os::unsupported("what TCP knows of its path"))
}

/// Always an error, because only Linux has marks.
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

/// The other options only exist on Linux. A mark is a promise about routing, so it is refused. The
/// others only tune.
pub(in crate::os) fn tune(_stream: &TcpStream, tuning: &Tuning) -> io::Result<()> {
    tuning
        .mark
        .map_or(Ok(()), |_| Err(crate::os::unsupported("a socket mark")))
}
