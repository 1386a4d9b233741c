//! std hands out no signals: the defaults stay.

use std::io;

use crate::os::signal::Signal;
use crate::os::unsupported;

/// Nothing to keep back.
pub fn block() -> io::Result<()> {
    Ok(())
}

/// Waits for ever: the system's default ends the process.
pub fn wait() -> (Signal, bool) {
    loop {
        std::thread::park();
    }
}

/// Not here.
pub fn send(_pid: u32, _signal: Signal) -> io::Result<()> {
    Err(unsupported("sending a signal"))
}
