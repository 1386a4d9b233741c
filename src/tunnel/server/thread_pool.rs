//! Which thread serves a connection? Each connection has a thread of its own. Afterwards that
//! thread waits a moment for the next connection. To start and end a thread costs more than all
//! other work for a stranger.

use super::handshake;
use super::state::Shared;
use crate::os::lock::{Lock, Rank};
use crate::os::process;
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar};
use std::thread;
use std::time::Duration;

/// A connection thread's stack.
const STACK: usize = 256 * 1024;
/// The memory that must be free before a thread starts. Connections in use must go on, and std ends
/// the process if an allocation fails. It is more than 32 MiB, so that the C library asks the
/// kernel for it and gives it back.
const RESERVE: usize = 33 << 20;
/// The most threads that wait for another connection.
const MAX_IDLE: usize = 64;
/// How long each waits.
const IDLE_TIME: Duration = Duration::from_secs(1);

/// A connection that was accepted, and its peer's address.
pub(super) struct Accepted {
    pub(super) shared: Arc<Shared>,
    pub(super) socket: TcpStream,
    pub(super) from: SocketAddr,
}

/// Threads that each serve a connection or wait for one.
pub(super) struct ThreadPool {
    idle: Lock<Idle>,
    given: Condvar,
}

#[derive(Default)]
struct Idle {
    /// The number of threads that wait.
    threads: usize,
    /// The connections that are given to them. There are never more of these than threads.
    given: VecDeque<Accepted>,
}

impl ThreadPool {
    /// A pool without threads.
    pub(super) fn new() -> Arc<ThreadPool> {
        Arc::new(ThreadPool {
            idle: Lock::new(Rank::IdleThreads, Idle::default()),
            given: Condvar::new(),
        })
    }

    /// Has a thread serve a connection. It is one that waits, or a new one.
    ///
    /// # Errors
    /// No thread or no memory is left. The connection has ended.
    pub(super) fn serve(self: &Arc<ThreadPool>, accepted: Accepted) -> io::Result<()> {
        let mut idle = self.idle.lock();
        if idle.threads > idle.given.len() {
            idle.given.push_back(accepted);
            self.given.notify_one();
            return Ok(());
        }
        drop(idle);
        let mut reserve = Vec::<u8>::new();
        reserve
            .try_reserve_exact(RESERVE)
            .map_err(|_| io::ErrorKind::OutOfMemory)?;
        drop(std::hint::black_box(reserve));
        let pool = Arc::clone(self);
        thread::Builder::new()
            .name("connection".into())
            .stack_size(STACK)
            .spawn(move || pool.run_connection_thread(accepted))
            .map(drop)
    }

    /// The body of a thread, which serves one connection after the other.
    fn run_connection_thread(&self, first: Accepted) {
        let mut next = Some(first);
        while let Some(Accepted {
            shared,
            socket,
            from,
        }) = next
        {
            handshake::serve(&shared, socket, from);
            drop(shared);
            process::wipe_stack();
            next = self.next();
        }
    }

    /// The connection that this thread serves next, if one comes soon.
    fn next(&self) -> Option<Accepted> {
        let mut idle = self.idle.lock();
        if idle.threads == MAX_IDLE {
            return None;
        }
        idle.threads += 1;
        let mut idle = idle.wait_while(&self.given, IDLE_TIME, |idle| idle.given.is_empty());
        idle.threads -= 1;
        idle.given.pop_front()
    }
}
