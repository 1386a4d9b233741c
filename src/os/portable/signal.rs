//! Which signals arrive? std delivers none, so the defaults stay.

use std::io;

use crate::os::signal::Signal;
use crate::os::unsupported;

/// Does nothing.
pub fn block() -> io::Result<()> {
    Ok(())
}

/// Waits for ever. The system's default ends the process.
pub fn wait() -> (Signal, bool) {
    loop {
        std::thread::park();
    }
}

/// Always an error.
pub fn send(_pid: u32, _signal: Signal) -> io::Result<()> {
    Err(unsupported("sending a signal"))
}
