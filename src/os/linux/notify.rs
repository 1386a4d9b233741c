//! How does a datagram get to systemd?

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Sends `state` to the socket of this name. Without a `timeout`, it gives up if the queue is full.
pub(in crate::os) fn send(socket: &OsStr, state: &str, time: Option<Duration>) -> io::Result<()> {
    let address = match socket.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(socket),
    };
    let sender = UnixDatagram::unbound()?;
    // A busy systemd must not delay packets for long.
    sender.set_write_timeout(time)?;
    sender.set_nonblocking(time.is_none())?;
    match sender.send_to_addr(state.as_bytes(), &address?) {
        Err(error) if time.is_none() && error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        sent => sent.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_with_a_path_and_with_an_abstract_name_are_told() {
        let name = format!("fernvpn-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let mut buffer = [0; 100];
        for (address, variable) in [
            (
                SocketAddr::from_pathname(&path).unwrap(),
                path.display().to_string(),
            ),
            (
                SocketAddr::from_abstract_name(&name).unwrap(),
                format!("@{name}"),
            ),
        ] {
            let systemd = UnixDatagram::bind_addr(&address).unwrap();
            send(variable.as_ref(), "READY=1\nSTATUS=fine", None).unwrap();
            let read = systemd.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..read], b"READY=1\nSTATUS=fine");
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_status_does_not_wait_for_a_systemd_that_is_busy() {
        let name = format!("fernvpn-notify-busy-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let systemd = UnixDatagram::bind_addr(&address).unwrap();
        let variable = format!("@{name}");
        let tell = |time| send(variable.as_ref(), "STATUS=again", time);
        let soon = Some(Duration::from_millis(1));
        let full = (0..100_000).any(|_| tell(soon).is_err());
        assert!(full, "its queue has no end");
        let begun = std::time::Instant::now();
        tell(None).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1));
        drop(systemd);
        assert!(tell(None).is_err(), "nobody is there any more");
    }
}
