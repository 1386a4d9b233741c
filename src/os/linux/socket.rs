//! How are TCP sockets used on Linux? Each of these functions is one system call.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::os::lock::about_to_wait;
use crate::os::socket::{Path, Tuning, prepare};
use crate::os::{log, sys};
use std::os::fd::AsFd;

/// Whether there is data, the end or an error to read. False after `timeout`.
pub fn wait_readable(stream: &TcpStream, timeout: Duration) -> io::Result<bool> {
    about_to_wait("a socket");
    sys::wait_for([(stream.as_fd(), sys::POLLIN)], Some(timeout)).map(|[ready]| ready)
}

/// Whether the socket takes data or has an error. False after `timeout`.
pub fn wait_writable(stream: &TcpStream, timeout: Duration) -> io::Result<bool> {
    about_to_wait("a socket");
    sys::wait_for([(stream.as_fd(), sys::POLLOUT)], Some(timeout)).map(|[ready]| ready)
}

/// The next connection, or `None` after `timeout`. Only one thread may accept.
pub fn accept(
    listener: &TcpListener,
    timeout: Duration,
) -> io::Result<Option<(TcpStream, SocketAddr)>> {
    about_to_wait("a socket");
    match sys::wait_for([(listener.as_fd(), sys::POLLIN)], Some(timeout))? {
        [true] => listener.accept().map(Some),
        [false] => Ok(None),
    }
}

/// Reads what has arrived. The error is `WouldBlock` if nothing has; 0 means the end.
pub fn receive_now(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    sys::receive_now(stream.as_fd(), buffer)
}

/// Writes, and returns how many of the bytes the socket took: 0 if it is full.
pub fn send_now(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match sys::send_now(stream.as_fd(), bytes, false) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

/// The same, in segments of at most `size` bytes.
pub fn send_segments_now(stream: &TcpStream, bytes: &[u8], most: usize) -> io::Result<usize> {
    let mut sent = 0;
    for segment in bytes.chunks(most) {
        match sys::send_now(stream.as_fd(), segment, true) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
            Ok(taken) => sent += taken,
        }
    }
    Ok(sent)
}

/// Makes the connection end with a reset. Unsent data is lost.
pub fn reset_at_close(stream: &TcpStream) -> io::Result<()> {
    // struct linger: on, for 0 seconds.
    let linger = [1_u32.to_ne_bytes(), 0_u32.to_ne_bytes()].concat();
    sys::set_option_bytes(stream.as_fd(), sys::SOL_SOCKET, sys::SO_LINGER, &linger)
}

/// Wakes the thread that waits in [`accept`], with an error. Every later call fails too.
pub fn stop_listening(listener: &TcpListener) -> io::Result<()> {
    sys::shut_down(listener.as_fd())
}

/// What the kernel has measured of the path.
pub fn path(stream: &TcpStream) -> io::Result<Path> {
    let mut info = sys::option_bytes::<216>(stream.as_fd(), sys::IPPROTO_TCP, sys::TCP_INFO)?;
    if info.len() < 152 {
        return Err(ErrorKind::Unsupported.into());
    }
    info.resize(216, 0); // an older kernel reports less
    let field =
        |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    let double = |at: usize| {
        let bytes = info[at..].first_chunk::<8>();
        bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
    };
    // `struct tcp_info`: tcpi_backoff, tcpi_rto in microseconds, tcpi_unacked, tcpi_sacked,
    // tcpi_last_data_recv in milliseconds, tcpi_rtt and tcpi_min_rtt in
    // microseconds, tcpi_total_retrans, tcpi_pacing_rate, tcpi_notsent_bytes, tcpi_snd_mss,
    // tcpi_bytes_sent, tcpi_bytes_retrans, tcpi_bytes_acked, tcpi_delivered.
    Ok(Path {
        round_trip: Duration::from_micros(field(68).into()),
        silence: Duration::from_millis(field(52).into()),
        shortest: Duration::from_micros(field(148).into()),
        retransmitted: field(100),
        rate: double(104),
        unsent: field(144),
        backoff: info[4],
        retransmit_after: Duration::from_micros(field(8).into()),
        unacked: field(24),
        sacked: field(28),
        segment: field(16),
        in_flight: double(200).saturating_sub(double(208).saturating_add(double(120))),
        acked: double(120),
        delivered: field(192),
    })
}

/// Gives a socket's packets this mark, which chooses their route.
pub fn mark(socket: &UdpSocket, mark: u32) -> io::Result<()> {
    sys::set_option(socket.as_fd(), sys::SOL_SOCKET, sys::SO_MARK, mark)
}

pub(in crate::os) fn connect(
    address: SocketAddr,
    timeout: Duration,
    tuning: &Tuning,
) -> io::Result<TcpStream> {
    about_to_wait("a connection");
    let stream = TcpStream::from(sys::tcp_socket(&address)?);
    prepare(&stream, tuning)?;
    // socket(7): the send timeout bounds connect too, which then fails with EINPROGRESS.
    stream.set_write_timeout(Some(timeout))?;
    sys::connect_to(stream.as_fd(), &address).map_err(|error| match error.raw_os_error() {
        Some(sys::EINPROGRESS) => ErrorKind::TimedOut.into(),
        _ => error,
    })?;
    stream.set_write_timeout(None)?;
    Ok(stream)
}

const MARK_REMEDY: &str = " (it needs CAP_NET_ADMIN. \
     Try: run as root, or use --private, --no-tun, or -- COMMAND)";

pub(in crate::os) fn tune(stream: &TcpStream, tuning: &Tuning) -> io::Result<()> {
    let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    let (retransmit, acknowledge) = (
        tuning.retransmit.map(micros),
        tuning.retransmit.map(|time| micros(time / 2)),
    );
    let user_timeout_ms = tuning
        .user_timeout
        .map(|time| u32::try_from(time.as_millis()).unwrap_or(u32::MAX));
    // Each row has a name, the value if it is set, its place, and the advice if the kernel refuses.
    for (name, value, level, option, remedy) in [
        (
            "TCP_NOTSENT_LOWAT",
            tuning.notsent_lowat_bytes,
            sys::IPPROTO_TCP,
            sys::TCP_NOTSENT_LOWAT,
            "",
        ),
        (
            "TCP_USER_TIMEOUT",
            user_timeout_ms,
            sys::IPPROTO_TCP,
            sys::TCP_USER_TIMEOUT,
            "",
        ),
        (
            "SO_MARK",
            tuning.mark,
            sys::SOL_SOCKET,
            sys::SO_MARK,
            MARK_REMEDY,
        ),
        (
            "SO_RCVBUF",
            tuning.receive_buffer_bytes,
            sys::SOL_SOCKET,
            sys::SO_RCVBUF,
            "",
        ),
        (
            "TCP_RTO_MIN_US",
            retransmit,
            sys::IPPROTO_TCP,
            sys::TCP_RTO_MIN_US,
            "",
        ),
        (
            "TCP_DELACK_MAX_US",
            acknowledge,
            sys::IPPROTO_TCP,
            sys::TCP_DELACK_MAX_US,
            "",
        ),
    ] {
        let Some(value) = value else { continue };
        let Err(error) = sys::set_option(stream.as_fd(), level, option, value) else {
            continue;
        };
        let text = format!(
            "cannot set {name} to {value}: {}{remedy}",
            crate::os::reason(&error)
        );
        // The mark decides which route packets take. All others only tune, and not every socket has
        // them: one of MPTCP has no TCP_USER_TIMEOUT.
        if name == "SO_MARK" {
            return Err(io::Error::other(text));
        }
        log::debug(
            "os",
            "the connection goes on without it",
            &[("reason", &text)],
        );
    }
    let Some(name) = &tuning.congestion_control else {
        return Ok(());
    };
    sys::set_option_bytes(
        stream.as_fd(),
        sys::IPPROTO_TCP,
        sys::TCP_CONGESTION,
        name.as_bytes(),
    )
    .map_err(|error| {
        let known =
            "sysctl net.ipv4.tcp_allowed_congestion_control lists what this user may choose";
        let text = format!(
            "cannot use the congestion control {name:?}: {}",
            crate::os::reason(&error)
        );
        io::Error::new(
            error.kind(),
            format!("{text} ({known}; `modprobe tcp_{name}` may add it)"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::time::Instant;

    const SHORT: Duration = Duration::from_millis(20);

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = connect(
            listener.local_addr().unwrap(),
            Duration::from_secs(5),
            &Tuning::default(),
        )
        .unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn a_full_socket_takes_nothing_and_wakes_nobody() {
        let (near, _far) = pair();
        while send_now(&near, &[7; 1 << 16]).unwrap() > 0 {}
        assert!(!wait_writable(&near, SHORT).unwrap());
    }

    #[test]
    fn connecting_ends_when_its_time_has_passed() {
        // A full backlog drops the SYN, as a firewall does.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        let (error, took) = loop {
            let begin = Instant::now();
            match connect(address, SHORT, &Tuning::default()) {
                Ok(stream) => queued.push(stream),
                Err(error) => break (error, begin.elapsed()),
            }
            assert!(queued.len() < 5000, "a long backlog");
        };
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        assert!(took >= SHORT && took < Duration::from_secs(5));
    }

    #[test]
    fn a_socket_that_has_not_all_options_works_without_them() {
        use std::os::fd::OwnedFd;
        use std::os::unix::net::UnixStream;
        // A socket of another family has no option of TCP.
        let (near, _far) = UnixStream::pair().unwrap();
        let near = TcpStream::from(OwnedFd::from(near));
        let tuning = Tuning {
            notsent_lowat_bytes: Some(16_384),
            user_timeout: Some(Duration::from_secs(20)),
            retransmit: Some(Duration::from_millis(5)),
            ..Tuning::default()
        };
        prepare(&near, &tuning).unwrap();
        (&near).write_all(b"goes on").unwrap();
    }

    #[test]
    fn options_arrive_in_the_kernel() {
        let (near, _far) = pair();
        let tuning = Tuning {
            notsent_lowat_bytes: Some(16_384),
            user_timeout: Some(Duration::from_secs(20)),
            congestion_control: Some("reno".into()), // always there
            receive_buffer_bytes: Some(65_536),
            mark: None,
            retransmit: None,
        };
        prepare(&near, &tuning).unwrap();
        let option = |level, name| sys::option_bytes::<16>(near.as_fd(), level, name).unwrap();
        assert!(near.nodelay().unwrap());
        assert_eq!(
            option(sys::IPPROTO_TCP, sys::TCP_NOTSENT_LOWAT),
            16_384u32.to_ne_bytes()
        );
        assert_eq!(
            option(sys::IPPROTO_TCP, sys::TCP_USER_TIMEOUT),
            20_000u32.to_ne_bytes()
        );
        assert_eq!(
            option(sys::SOL_SOCKET, sys::SO_RCVBUF),
            131_072u32.to_ne_bytes()
        );
        assert!(option(sys::IPPROTO_TCP, sys::TCP_CONGESTION).starts_with(b"reno\0"));
        let wrong = Tuning {
            congestion_control: Some("none-such".into()),
            ..Tuning::default()
        };
        assert!(
            prepare(&near, &wrong)
                .unwrap_err()
                .to_string()
                .contains("none-such")
        );
    }
}
