//! How is a thread woken that waits for a packet? By a second thing it waits for.
//!
//! A pair of connected Unix sockets: the reader waits for the far end beside its device, and
//! ringing closes the connection. It rings once and stays rung, so nobody can come too late to hear
//! it, and there is nothing to drain.

use std::io;

/// Give the reader a reference (it can be waited for, `AsFd`), and ring when it must stop.
#[derive(Debug)]
pub struct Wake {
    #[cfg(unix)]
    far: std::os::unix::net::UnixStream,
    #[cfg(unix)]
    near: std::os::unix::net::UnixStream,
}

#[cfg(unix)]
impl Wake {
    /// A wake that has not rung. Takes two descriptors.
    pub fn new() -> io::Result<Wake> {
        let (near, far) = std::os::unix::net::UnixStream::pair()?;
        Ok(Wake { far, near })
    }

    /// From now on every wait ends at once.
    pub fn ring(&self) {
        // Cannot fail on a connected pair; rung twice, it is down already.
        let _ = self.near.shutdown(std::net::Shutdown::Both);
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for Wake {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.far.as_fd()
    }
}

/// Where there is no device to wait for, there is nothing to wake.
#[cfg(not(unix))]
impl Wake {
    /// Nothing.
    pub fn new() -> io::Result<Wake> {
        Ok(Wake {})
    }

    /// Does nothing.
    pub fn ring(&self) {}
}
