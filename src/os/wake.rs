//! How can another thread wake a thread that waits for a packet? The thread also waits for a second
//! descriptor.
//!
//! This is a pair of connected Unix sockets. The reader waits for the far end beside its device,
//! and ringing closes the connection. It rings once and stays rung, so no reader can be too late,
//! and there is nothing to drain.

use std::io;

/// A signal to one reader. The reader gets a reference to wait for (`AsFd`), and must stop when it
/// rings.
#[derive(Debug)]
pub struct Wake {
    #[cfg(unix)]
    far: std::os::unix::net::UnixStream,
    #[cfg(unix)]
    near: std::os::unix::net::UnixStream,
}

#[cfg(unix)]
impl Wake {
    /// A wake that has not rung. It uses two descriptors.
    pub fn new() -> io::Result<Wake> {
        let (near, far) = std::os::unix::net::UnixStream::pair()?;
        Ok(Wake { far, near })
    }

    /// Rings. From now on, every wait ends at once.
    pub fn ring(&self) {
        // This cannot fail on a connected pair. If it rings twice, the pair is closed already.
        let _ = self.near.shutdown(std::net::Shutdown::Both);
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for Wake {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.far.as_fd()
    }
}

/// Without a device, no thread waits and there is nothing to wake.
#[cfg(not(unix))]
impl Wake {
    /// A wake that does nothing.
    pub fn new() -> io::Result<Wake> {
        Ok(Wake {})
    }

    /// Does nothing.
    pub fn ring(&self) {}
}
