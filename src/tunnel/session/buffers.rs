//! Where are frames in memory? All connections share these buffers.
//!
//! An idle connection holds no buffer. It takes one when there is something to read or to send, and
//! gives it back when all of that is done.

use crate::os::lock::{Lock, Rank};
use crate::protocol::frame;
use crate::protocol::limits::MAX_BODY;
use hmac::digest::zeroize::Zeroize;

/// The most bytes that are read at once from a busy connection.
pub const READ_ROOM: usize = 256 * 1024;
/// The most spare buffers to read into.
const SPARE_READS: usize = 8;
/// The bytes of a buffer that holds any frame of any suite.
pub const FRAME_ROOM: usize = frame::HEADER + MAX_BODY;
/// The most spare buffers for frames.
const SPARE_FRAMES: usize = 64;

/// Buffers to read into.
pub static READS: BufferPool = BufferPool::new(READ_ROOM, SPARE_READS);
/// Buffers for one frame each.
pub static FRAMES: BufferPool = BufferPool::new(FRAME_ROOM, SPARE_FRAMES);

/// Wipes all that is spare, at the end of a session.
pub fn wipe() {
    READS.wipe();
    FRAMES.wipe();
}

/// Buffers of one size.
pub struct BufferPool {
    size: usize,
    most: usize,
    spare: Lock<Vec<Vec<u8>>>,
}

impl BufferPool {
    /// A pool of buffers of `size` bytes that keeps at most `most` spare ones. It is empty at
    /// first.
    pub const fn new(size: usize, most: usize) -> BufferPool {
        BufferPool {
            size,
            most,
            spare: Lock::new(Rank::BufferPool, Vec::new()),
        }
    }

    /// A buffer with arbitrary content.
    pub fn take(&self) -> Vec<u8> {
        let spare = self.spare.lock().pop();
        spare.unwrap_or_else(|| vec![0; self.size])
    }

    /// Gives a buffer back. One too many, or of another size, is wiped.
    pub fn give(&self, mut buffer: Vec<u8>) {
        let mut spare = self.spare.lock();
        if spare.len() < self.most && buffer.len() == self.size {
            return spare.push(buffer);
        }
        drop(spare);
        buffer.zeroize();
    }

    /// Wipes the spare buffers, in which packets of a session that has ended may stand.
    pub fn wipe(&self) {
        let spare = std::mem::take(&mut *self.spare.lock());
        for mut buffer in spare {
            buffer.zeroize();
        }
    }
}
