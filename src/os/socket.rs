//! What does the tunnel want of a TCP socket that std does not give?
//!
//! To wait with a time limit, to read what is there, and to send as much as fits, all on one socket
//! that other threads use in the blocking way at the same time. On Linux each is one system call;
//! elsewhere std's timeouts stand in for them: slower, never wrong, good enough for a class.
//!
//! ```text
//! connect        a socket with its options set before the first packet: only then is the mark on the SYN too
//! prepare        the same options for an accepted socket
//! wait_to_accept when a connection waits
//! stop_listening wakes the thread that accepts
//! ```

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

pub use system::{
    mark, path, receive_now, reset_at_close, send_now, send_segments_now, stop_listening,
    wait_readable, wait_to_accept, wait_writable,
};

/// What a carrier connection is tuned to. `TCP_NODELAY` is always on: without it small records wait
/// 40 ms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Bytes not yet sent that the kernel takes at most before the socket counts as full: short
    /// queues are ours to keep, and packets in the kernel cannot be dropped any more.
    pub notsent_lowat_bytes: Option<u32>,
    /// How long sent data may stay unacknowledged before the kernel gives the connection up.
    pub user_timeout: Option<Duration>,
    /// By name, such as `bbr`.
    pub congestion_control: Option<String>,
    /// The firewall mark by which the full tunnel's routing rules exempt the carrier.
    pub mark: Option<u32>,
    /// `SO_RCVBUF`; the kernel doubles it and no longer adapts it.
    pub receive_buffer_bytes: Option<u32>,
    /// The shortest time after which something is sent again, if nothing else tells sooner that it
    /// was lost; the receiver waits at most half of that for more to acknowledge. Linux has them
    /// since 6.15.
    pub retransmit: Option<Duration>,
}

/// What TCP has seen of a connection's path.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// The round trip now, smoothed.
    pub round_trip: Duration,
    /// Since the last data came from the peer.
    pub silence: Duration,
    /// The shortest of the last minutes: the path without queues.
    pub shortest: Duration,
    /// Segments sent again.
    pub retransmitted: u32,
    /// At which it sends: bytes a second, as the congestion control sees the path.
    pub rate: u64,
    /// Bytes that wait to be sent.
    pub unsent: u32,
    /// How often in a row the time for an acknowledgement has passed; it doubles each time.
    pub backoff: u8,
    /// That time now.
    pub retransmit_after: Duration,
    /// Segments sent and not acknowledged in order.
    pub unacked: u32,
    /// Those of them that the peer has nevertheless.
    pub sacked: u32,
    /// Bytes of a full segment.
    pub segment: u32,
    /// Bytes sent and not acknowledged in order; 0 where the kernel does not tell (before 4.19).
    pub in_flight: u64,
    /// Bytes acknowledged.
    pub acked: u64,
    /// Segments that have arrived.
    pub delivered: u32,
}

/// Sets the options on a socket that exists already, such as an accepted one.
pub fn prepare(stream: &TcpStream, tuning: &Tuning) -> io::Result<()> {
    if let Err(error) = stream.set_nodelay(true) {
        let reason = super::reason(&error);
        super::log::debug(
            "os",
            "the connection goes on without TCP_NODELAY",
            &[("reason", &reason)],
        );
    }
    system::tune(stream, tuning)
}

/// Connects, at most `timeout` long, with the options already set.
pub fn connect(address: SocketAddr, timeout: Duration, tuning: &Tuning) -> io::Result<TcpStream> {
    system::connect(address, timeout, tuning).map_err(|error| match error.kind() {
        ErrorKind::TimedOut => io::Error::new(
            ErrorKind::TimedOut,
            format!(
                "cannot connect to {address}: no answer within {} s",
                timeout.as_secs_f32()
            ),
        ),
        _ => super::tried(format_args!("cannot connect to {address}"), &error),
    })
}

#[cfg(target_os = "linux")]
mod system {
    use super::*;
    use crate::os::lock::about_to_wait;
    use crate::os::{log, sys};
    use std::os::fd::AsFd;

    /// Whether there is something to read, or the end, or an error to fetch; false after `timeout`.
    pub fn wait_readable(stream: &TcpStream, timeout: Duration) -> io::Result<bool> {
        about_to_wait("a socket");
        sys::wait_for([(stream.as_fd(), sys::POLLIN)], Some(timeout)).map(|[ready]| ready)
    }

    /// Whether the socket takes data, or has an error to fetch; false after `timeout`.
    pub fn wait_writable(stream: &TcpStream, timeout: Duration) -> io::Result<bool> {
        about_to_wait("a socket");
        sys::wait_for([(stream.as_fd(), sys::POLLOUT)], Some(timeout)).map(|[ready]| ready)
    }

    /// Whether `accept` has something to tell; false after `timeout`. For the one thread that
    /// accepts.
    pub fn wait_to_accept(listener: &TcpListener, timeout: Duration) -> io::Result<bool> {
        about_to_wait("a socket");
        sys::wait_for([(listener.as_fd(), sys::POLLIN)], Some(timeout)).map(|[ready]| ready)
    }

    /// What has arrived: `WouldBlock` if nothing has, 0 at the end.
    pub fn receive_now(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        sys::receive_now(stream.as_fd(), buffer)
    }

    /// How many of the bytes the socket took: 0 if it is full.
    pub fn send_now(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        match sys::send_now(stream.as_fd(), bytes, false) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            other => other,
        }
    }

    /// The same in segments of at most so many bytes.
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

    /// Has the connection end with a reset: what waits to be sent is given up.
    pub fn reset_at_close(stream: &TcpStream) -> io::Result<()> {
        // struct linger: on, for 0 seconds.
        let linger = [1_u32.to_ne_bytes(), 0_u32.to_ne_bytes()].concat();
        sys::set_option_bytes(stream.as_fd(), sys::SOL_SOCKET, sys::SO_LINGER, &linger)
    }

    /// Wakes whoever is blocked in `accept`, with an error; so does every later call.
    pub fn stop_listening(listener: &TcpListener) -> io::Result<()> {
        sys::shut_down(listener.as_fd())
    }

    /// What the kernel has seen of the path.
    pub fn path(stream: &TcpStream) -> io::Result<Path> {
        let mut info = sys::option_bytes::<216>(stream.as_fd(), sys::IPPROTO_TCP, sys::TCP_INFO)?;
        if info.len() < 152 {
            return Err(ErrorKind::Unsupported.into());
        }
        info.resize(216, 0); // an older kernel tells less
        let field =
            |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
        let double = |at: usize| u64::from(field(at)) | u64::from(field(at + 4)) << 32;
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

    /// Has a socket's packets take the way of this mark.
    pub fn mark(socket: &UdpSocket, mark: u32) -> io::Result<()> {
        sys::set_option(socket.as_fd(), sys::SOL_SOCKET, sys::SO_MARK, mark)
    }

    pub(super) fn connect(
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

    const MARK_REMEDY: &str = " (needs CAP_NET_ADMIN: run as root; without root there are --private, --no-tun, and -- COMMAND)";

    pub(super) fn tune(stream: &TcpStream, tuning: &Tuning) -> io::Result<()> {
        let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let (retransmit, acknowledge) = (
            tuning.retransmit.map(micros),
            tuning.retransmit.map(|time| micros(time / 2)),
        );
        let user_timeout_ms = tuning
            .user_timeout
            .map(|time| u32::try_from(time.as_millis()).unwrap_or(u32::MAX));
        // Name, value if wanted, where it goes, and what to do if the kernel refuses.
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
            // The mark decides which way packets go. All others only tune, and not every socket has
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
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::*;
    use std::io::Write;

    /// How long the connection that wakes an acceptor may take.
    const STOP_TIME: Duration = Duration::from_secs(1);
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
        TcpStream::connect_timeout(&address, STOP_TIME).map(drop)
    }

    /// std does not say.
    pub fn path(_stream: &TcpStream) -> io::Result<Path> {
        Err(crate::os::unsupported("what TCP knows of its path"))
    }

    /// Only Linux has marks.
    pub fn mark(_socket: &UdpSocket, _mark: u32) -> io::Result<()> {
        Err(crate::os::unsupported("a socket mark"))
    }

    pub(super) fn connect(
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
    pub(super) fn tune(_stream: &TcpStream, tuning: &Tuning) -> io::Result<()> {
        tuning
            .mark
            .map_or(Ok(()), |_| Err(crate::os::unsupported("a socket mark")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::Ipv6Addr;
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
    fn reading_waits_or_does_not() {
        let (near, mut far) = pair();
        let mut buffer = [0; 8];
        assert_eq!(
            receive_now(&near, &mut buffer).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
        assert!(!wait_readable(&near, SHORT).unwrap());
        far.write_all(b"hello").unwrap();
        assert!(wait_readable(&near, Duration::from_secs(5)).unwrap());
        assert_eq!(receive_now(&near, &mut buffer).unwrap(), 5);
        drop(far);
        assert!(wait_readable(&near, Duration::from_secs(5)).unwrap());
        assert_eq!(receive_now(&near, &mut buffer).unwrap(), 0);
    }

    #[test]
    fn sending_stops_when_the_socket_is_full() {
        let (near, mut far) = pair();
        let block = vec![7; 1 << 16];
        let mut sent = 0;
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(20) {
            match send_now(&near, &block).unwrap() {
                0 => break,
                taken => sent += taken,
            }
        }
        assert!(sent > 0);
        if cfg!(target_os = "linux") {
            assert!(!wait_writable(&near, SHORT).unwrap());
        }
        far.read_exact(&mut vec![0; sent]).unwrap();
        assert!(wait_writable(&near, Duration::from_secs(5)).unwrap());
        drop(far);
    }

    #[test]
    fn a_listener_is_stopped_while_it_waits() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        std::thread::scope(|scope| {
            let waiting =
                scope.spawn(|| listener.accept().is_err() || cfg!(not(target_os = "linux")));
            std::thread::sleep(SHORT);
            stop_listening(&listener).unwrap();
            assert!(waiting.join().unwrap());
        });
    }

    #[test]
    fn connecting_says_to_whom_and_why_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = connect(address, Duration::from_secs(5), &Tuning::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(
            error
                .to_string()
                .starts_with(&format!("cannot connect to {address}: Connection refused")),
            "{error}"
        );
    }

    #[test]
    fn connecting_works_over_ipv6_where_there_is_any() {
        let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else {
            return;
        };
        let stream = connect(
            listener.local_addr().unwrap(),
            Duration::from_secs(5),
            &Tuning::default(),
        )
        .unwrap();
        assert_eq!(stream.peer_addr().unwrap(), listener.local_addr().unwrap());
    }

    #[cfg(target_os = "linux")]
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

    #[cfg(target_os = "linux")]
    #[test]
    fn a_socket_that_has_not_all_options_works_without_them() {
        use std::os::fd::OwnedFd;
        use std::os::unix::net::UnixStream;
        // A socket of another family has no option of TCP at all.
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

    #[cfg(target_os = "linux")]
    #[test]
    fn options_arrive_in_the_kernel() {
        use super::super::sys;
        use std::os::fd::AsFd;
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
