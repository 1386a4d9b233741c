//! What does the tunnel need of a TCP socket that std lacks?
//!
//! It needs to wait with a time limit, to read what is there, and to send as much as fits. Several
//! threads do this on one socket at the same time. On Linux, each is one system call. Elsewhere,
//! sockets do not block, and a wait sleeps and looks again. That is slower, but right, and good
//! enough for a class.
//!
//! ```text
//! connect        a socket with its options set before the first packet, so that the SYN is marked
//! prepare        the same options for an accepted socket
//! accept         the next connection
//! stop_listening wakes the thread that accepts
//! ```

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};

use std::time::Duration;

pub use super::platform::socket::{
    accept, mark, path, receive_now, reset_at_close, send_now, send_segments_now, stop_listening,
    wait_readable, wait_writable,
};

/// The options of a carrier connection. `TCP_NODELAY` is always on, because without it small
/// records wait 40 ms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// The most unsent bytes in the kernel before the socket counts as full. Packets should queue
    /// in the program, because those in the kernel cannot be dropped any more.
    pub notsent_lowat_bytes: Option<u32>,
    /// How long sent data may stay unacknowledged before the kernel gives up the connection.
    pub user_timeout: Option<Duration>,
    /// The congestion control by name, such as `bbr`.
    pub congestion_control: Option<String>,
    /// The firewall mark by which the full tunnel's routing rules exempt the carrier.
    pub mark: Option<u32>,
    /// `SO_RCVBUF`. The kernel doubles it and no longer adapts it.
    pub receive_buffer_bytes: Option<u32>,
    /// The shortest time after which TCP sends data again, unless it learns earlier of the loss.
    /// The receiver delays an acknowledgement by at most half of that. Linux has both options since
    /// 6.15.
    pub retransmit: Option<Duration>,
}

/// What TCP has measured of a connection's path.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// The round trip now, smoothed.
    pub round_trip: Duration,
    /// The time since the last data came from the peer.
    pub silence: Duration,
    /// The shortest round trip of the last minutes, which is the path without queues.
    pub shortest: Duration,
    /// Segments sent again.
    pub retransmitted: u32,
    /// The sending rate in bytes a second, as the congestion control sees the path.
    pub rate: u64,
    /// Bytes that wait to be sent.
    pub unsent: u32,
    /// How often in a row the timeout for an acknowledgement has passed. It doubles each time.
    pub backoff: u8,
    /// That timeout now.
    pub retransmit_after: Duration,
    /// Segments sent and not acknowledged in order.
    pub unacked: u32,
    /// Those of them that the peer has received out of order.
    pub sacked: u32,
    /// Bytes of a full segment.
    pub segment: u32,
    /// Bytes sent and not acknowledged in order. It is 0 if the kernel does not report it (before
    /// 4.19).
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
    super::platform::socket::tune(stream, tuning)
}

/// Connects with these options set, at most for `timeout`.
pub fn connect(address: SocketAddr, timeout: Duration, tuning: &Tuning) -> io::Result<TcpStream> {
    super::platform::socket::connect(address, timeout, tuning).map_err(|error| match error.kind() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Ipv6Addr, TcpListener};
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
        far.read_exact(&mut vec![0; sent]).unwrap();
        assert!(wait_writable(&near, Duration::from_secs(5)).unwrap());
        drop(far);
    }

    #[test]
    fn a_listener_that_is_stopped_keeps_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(accept(&listener, SHORT).unwrap().is_none());
        let at = listener.local_addr().unwrap();
        let near = TcpStream::connect(at).unwrap();
        let (_, from) = accept(&listener, Duration::from_secs(5)).unwrap().unwrap();
        assert_eq!(from, near.local_addr().unwrap());
        std::thread::scope(|scope| {
            let listener = &listener;
            let day = Duration::from_secs(86_400);
            let waiting = scope.spawn(move || accept(listener, day));
            stop_listening(listener).unwrap();
            // It may be an error or `None`. In both cases, the caller sees that it has to stop.
            assert!(!matches!(waiting.join().unwrap(), Ok(Some(_))));
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
}
