//! Which thread has a connection? One of its own, for as long as it lasts. Then the thread waits a
//! moment for the next: to start one and to end it costs more than all else that a stranger costs.

use super::{Shared, handshake};
use crate::os::process;
use crate::tunnel::locked;
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// A connection thread's stack.
const STACK: usize = 256 * 1024;
/// So much memory must be free before a thread is started: what is in use already has to go on, and
/// std ends the process where an allocation fails. More than 32 MiB, so that the C library asks the
/// kernel for it, and gives it back.
const RESERVE: usize = 33 << 20;
/// So many threads wait at most for another connection.
const IDLE: usize = 64;
/// And each for so long.
const STAYS: Duration = Duration::from_secs(1);

/// A connection that was accepted, and where it comes from.
type Accepted = (Arc<Shared>, TcpStream, SocketAddr);

/// Threads that have no connection now.
#[derive(Default)]
pub(super) struct Threads {
    /// How many of them wait, and the connections given to them, which are never more.
    idle: Mutex<(usize, VecDeque<Accepted>)>,
    given: Condvar,
}

impl Threads {
    /// Has a thread serve a connection: one that waits, or a new one.
    ///
    /// # Errors
    /// There is no thread or no memory for it, so that it has ended.
    pub(super) fn serve(self: &Arc<Threads>, accepted: Accepted) -> io::Result<()> {
        let mut idle = locked(&self.idle);
        if idle.0 > idle.1.len() {
            idle.1.push_back(accepted);
            self.given.notify_one();
            return Ok(());
        }
        drop(idle);
        let mut reserve = Vec::<u8>::new();
        reserve
            .try_reserve_exact(RESERVE)
            .map_err(|_| io::ErrorKind::OutOfMemory)?;
        drop(std::hint::black_box(reserve));
        let threads = Arc::clone(self);
        let served = move || {
            let mut next = Some(accepted);
            while let Some((server, socket, from)) = next {
                handshake::serve(&server, socket, from);
                drop(server);
                process::wipe_stack();
                next = threads.next();
            }
        };
        thread::Builder::new()
            .name("connection".into())
            .stack_size(STACK)
            .spawn(served)
            .map(drop)
    }

    /// What this thread serves next, if there is anything soon.
    fn next(&self) -> Option<Accepted> {
        let mut idle = locked(&self.idle);
        if idle.0 == IDLE {
            return None;
        }
        idle.0 += 1;
        let waited = self
            .given
            .wait_timeout_while(idle, STAYS, |(_, given)| given.is_empty());
        let mut idle = waited.unwrap_or_else(PoisonError::into_inner).0;
        idle.0 -= 1;
        idle.1.pop_front()
    }
}
