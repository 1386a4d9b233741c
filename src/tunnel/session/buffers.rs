//! Where do frames stand in memory? In buffers that all connections share.
//!
//! A connection that has nothing to say holds no buffer: it takes one when there is something to
//! read or to send, and gives it back when all of it is done.

use crate::os::lock::{Lock, Rank};
use crate::protocol::frame;
use crate::protocol::limits::MAX_BODY;

/// Bytes read at once from a busy connection.
pub const READ_ROOM: usize = 256 * 1024;
/// Spare buffers to read into, at most.
const SPARE_READS: usize = 8;
/// Room for any frame, of any suite.
pub const FRAME_ROOM: usize = frame::HEADER + MAX_BODY;
/// Spare buffers for frames, at most.
const SPARE_FRAMES: usize = 64;

/// Buffers to read into.
pub static READS: BufferPool = BufferPool::new(READ_ROOM, SPARE_READS);
/// Buffers for one frame each.
pub static FRAMES: BufferPool = BufferPool::new(FRAME_ROOM, SPARE_FRAMES);

/// Buffers of one size.
pub struct BufferPool {
    size: usize,
    most: usize,
    spare: Lock<Vec<Vec<u8>>>,
}

impl BufferPool {
    /// A pool of buffers of `size` bytes that keeps at most `most` spare ones. Empty at first.
    pub const fn new(size: usize, most: usize) -> BufferPool {
        BufferPool {
            size,
            most,
            spare: Lock::new(Rank::BufferPool, Vec::new()),
        }
    }

    /// A buffer with any content.
    pub fn take(&self) -> Vec<u8> {
        let spare = self.spare.lock().pop();
        spare.unwrap_or_else(|| vec![0; self.size])
    }

    /// Gives a buffer back. One of another size is dropped.
    pub fn give(&self, buffer: Vec<u8>) {
        let mut spare = self.spare.lock();
        if spare.len() < self.most && buffer.len() == self.size {
            spare.push(buffer);
        }
    }
}
