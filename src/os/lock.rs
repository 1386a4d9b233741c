//! Which lock may a thread take while it holds another one?
//!
//! [`Rank`] lists every lock of the program, in the one order in which a thread may take them. So
//! no two threads ever wait for each other. No thread holds a lock over a system call that can
//! wait, except the few locks that `Rank::may_wait` explains.
//!
//! Debug builds check both rules. Each thread keeps a list of the locks that it holds, and panics
//! at the first step out of order. Release builds contain nothing of this.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

#[cfg(debug_assertions)]
thread_local! {
    /// The ranks of the locks that this thread holds.
    static HELD: std::cell::RefCell<Vec<Rank>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// The lock order: a thread takes a lock only if it holds none of the same or a later rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// `commands`: the changes to this machine.
    Machine,
    /// `server::state`: one reload at a time.
    Reload,
    /// `os::nat`: the packets that the server forwards.
    NatWanted,
    /// `os::nat`: the rules that nft has installed.
    NatRules,
    /// `peers::registry`: one client's ratcheted key at the server.
    ServerRatchet,
    /// `client::state`: the client's own key.
    ClientKey,
    /// `peers::registry`: the ids by which ratcheted keys are found.
    RatchetIds,
    /// `os::tun`: one thread at a time reads the device.
    DeviceRead,
    /// `server::state`: the current configuration.
    ActiveConfig,
    /// `client::state`: the state of the connection to the server.
    ConnectionState,
    /// `peers::registry`: one client's connection and handshakes.
    ClientState,
    /// `session::sender`: the records that wait for one peer.
    SendQueue,
    /// `session::buffers`: spare buffers.
    BufferPool,
    /// `session::path_size`: what earlier connections to a peer have learned.
    PathSize,
    /// `server::state`: the number of connected clients.
    ConnectedCount,
    /// `peers::admission`: the connections that have not authenticated.
    Admission,
    /// `server::thread_pool`: threads without a connection.
    IdleThreads,
    /// `client::state`: whether the client was asked to stop.
    Stopped,
    /// `client::state`: the channel for replies to the command line's tasks.
    Replies,
    /// `client::state`: the network that the server has described.
    ServerNetwork,
    /// `client::state`: the server's addresses.
    ServerAddresses,
    /// `server::state`, `client::state`: why the program has to end.
    Failure,
    /// `client::state`: why there is no session.
    Trouble,
    /// `commands::client`: the command that runs in the tunnel.
    RunningCommand,
    /// `os::notify`: the threads that the watchdog watches.
    Heartbeats,
    /// `os::log`: how many lines of one kind were written.
    LogRate,
}

impl Rank {
    /// Whether a thread may hold this lock over a system call that can wait. Only threads that have
    /// to wait for the same call anyway take these locks.
    #[cfg(debug_assertions)]
    fn may_wait(self) -> bool {
        match self {
            // The threads that take these change the machine too, or report why that has failed.
            Rank::Machine | Rank::Reload | Rank::NatWanted | Rank::NatRules => true,
            // The key must be durable before it is used. Packets and strangers never need this
            // lock.
            Rank::ServerRatchet | Rank::ClientKey => true,
            _ => false,
        }
    }
}

/// Declares that a system call follows which can wait. Debug builds panic if this thread holds a
/// lock for which others would have to wait too.
#[inline]
pub fn about_to_wait(call: &str) {
    #[cfg(debug_assertions)]
    HELD.with_borrow(|held| {
        let held: Vec<_> = held.iter().filter(|rank| !rank.may_wait()).collect();
        assert!(held.is_empty(), "{call} can wait, and holds {held:?}");
    });
    #[cfg(not(debug_assertions))]
    let _ = call;
}

/// The place of a lock in the order. Empty in release builds.
#[derive(Clone, Copy, Debug)]
struct Place {
    #[cfg(debug_assertions)]
    rank: Rank,
}

impl Place {
    const fn new(rank: Rank) -> Place {
        #[cfg(not(debug_assertions))]
        let _ = rank;
        Place {
            #[cfg(debug_assertions)]
            rank,
        }
    }

    /// Checks the order before the thread can get stuck.
    fn enter(self) -> Held {
        #[cfg(debug_assertions)]
        HELD.with_borrow(|held| {
            let wanted = self.rank;
            let highest = held.iter().max();
            assert!(
                highest.is_none_or(|highest| *highest < wanted),
                "lock order: {wanted:?} is wanted while {held:?} are held"
            );
        });
        self.hold()
    }

    /// Adds the lock to this thread's list.
    fn hold(self) -> Held {
        #[cfg(debug_assertions)]
        HELD.with_borrow_mut(|held| held.push(self.rank));
        Held(self)
    }
}

/// An entry in this thread's list until it is dropped.
#[derive(Debug)]
struct Held(
    #[cfg_attr(
        not(debug_assertions),
        allow(dead_code, reason = "its drop reads it in debug builds")
    )]
    Place,
);

#[cfg(debug_assertions)]
impl Drop for Held {
    fn drop(&mut self) {
        // While the thread ends, the list does not exist any more.
        let _ = HELD.try_with(|held| {
            let mut held = held.borrow_mut();
            if let Some(at) = held.iter().rposition(|rank| *rank == self.0.rank) {
                held.remove(at);
            }
        });
    }
}

/// A mutex with a place in the lock order. If a thread panics while it holds the lock, the content
/// stays in use, because the state behind these locks is valid at every statement.
#[derive(Debug)]
pub struct Lock<T> {
    place: Place,
    mutex: Mutex<T>,
}

impl<T> Lock<T> {
    /// A lock that nobody holds.
    pub const fn new(rank: Rank, content: T) -> Lock<T> {
        Lock {
            place: Place::new(rank),
            mutex: Mutex::new(content),
        }
    }

    /// Takes the lock. Waits until no other thread holds it.
    pub fn lock(&self) -> Locked<'_, T> {
        let held = self.place.enter();
        let guard = self.mutex.lock().unwrap_or_else(PoisonError::into_inner);
        Locked { guard, held }
    }

    /// Takes the lock if no thread holds it now. This does not wait, so any order is allowed.
    pub fn try_lock(&self) -> Option<Locked<'_, T>> {
        let guard = self.mutex.try_lock().ok()?;
        let held = self.place.hold();
        Some(Locked { guard, held })
    }
}

/// The content of a [`Lock`], until this is dropped.
#[derive(Debug)]
pub struct Locked<'a, T> {
    guard: MutexGuard<'a, T>,
    held: Held,
}

impl<'a, T> Locked<'a, T> {
    /// Releases the lock until `condition` is notified, at most for `timeout`. Returns whether that
    /// has passed.
    pub fn wait(self, condition: &Condvar, timeout: Duration) -> (Locked<'a, T>, bool) {
        let Locked { guard, held } = self;
        let (guard, waited) = condition
            .wait_timeout(guard, timeout)
            .unwrap_or_else(PoisonError::into_inner);
        (Locked { guard, held }, waited.timed_out())
    }

    /// Releases the lock while `still` is true, at most for `timeout`.
    pub fn wait_while(
        self,
        condition: &Condvar,
        timeout: Duration,
        still: impl FnMut(&mut T) -> bool,
    ) -> Locked<'a, T> {
        let Locked { guard, held } = self;
        let (guard, _) = condition
            .wait_timeout_while(guard, timeout, still)
            .unwrap_or_else(PoisonError::into_inner);
        Locked { guard, held }
    }
}

impl<T> Deref for Locked<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for Locked<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// A lock that many threads may hold to read.
#[derive(Debug)]
pub struct SharedLock<T> {
    place: Place,
    lock: RwLock<T>,
}

impl<T> SharedLock<T> {
    /// A lock that nobody holds.
    pub const fn new(rank: Rank, content: T) -> SharedLock<T> {
        SharedLock {
            place: Place::new(rank),
            lock: RwLock::new(content),
        }
    }

    /// Takes the lock to read. Waits until no thread changes the content.
    pub fn read(&self) -> Reading<'_, T> {
        let held = self.place.enter();
        let guard = self.lock.read().unwrap_or_else(PoisonError::into_inner);
        Reading { guard, _held: held }
    }

    /// Replaces the content. Returns the one before.
    pub fn replace(&self, content: T) -> T {
        let _held = self.place.enter();
        let mut guard = self.lock.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut guard, content)
    }
}

/// The content of a [`SharedLock`], until this is dropped.
#[derive(Debug)]
pub struct Reading<'a, T> {
    guard: RwLockReadGuard<'a, T>,
    _held: Held,
}

impl<T> Deref for Reading<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

#[cfg(test)]
#[cfg(debug_assertions)]
mod tests {
    use super::*;

    fn panics(act: impl FnOnce() + std::panic::UnwindSafe) -> bool {
        std::panic::catch_unwind(act).is_err()
    }

    #[test]
    fn the_order_is_kept_or_the_thread_panics() {
        let queue = Lock::new(Rank::SendQueue, 1);
        let pool = Lock::new(Rank::BufferPool, 2);
        let config = SharedLock::new(Rank::ActiveConfig, 3);
        let (reading, queued, spare) = (config.read(), queue.lock(), pool.lock());
        assert_eq!((*reading, *queued, *spare), (3, 1, 2));
        drop((reading, queued, spare));
        assert!(panics(|| {
            let _pool = pool.lock();
            let _queue = queue.lock();
        }));
        assert!(panics(|| {
            let _queue = queue.lock();
            let _config = config.read();
        }));
        assert!(panics(|| {
            let _queue = queue.lock();
            let another = Lock::new(Rank::SendQueue, 1);
            let _another = another.lock();
        }));
        assert!(!panics(|| {
            let _queue = queue.lock();
            assert!(queue.try_lock().is_none(), "trying is no waiting");
        }));
        // A thread that has panicked holds no lock, and the locks still work.
        assert_eq!((*queue.lock(), *pool.lock()), (1, 2));
    }

    #[test]
    fn locks_given_up_in_another_order_are_given_up() {
        let first = Lock::new(Rank::ClientState, ());
        let second = Lock::new(Rank::SendQueue, ());
        let (one, two) = (first.lock(), second.lock());
        drop(one);
        drop(two);
        assert!(!panics(|| drop(first.lock())));
    }

    #[test]
    fn nothing_waits_with_a_lock_but_who_may() {
        let queue = Lock::new(Rank::SendQueue, ());
        let ratchet = Lock::new(Rank::ServerRatchet, ());
        assert!(!panics(|| about_to_wait("a test")));
        assert!(!panics(|| {
            let _ratchet = ratchet.lock();
            about_to_wait("a test");
        }));
        assert!(panics(|| {
            let _queue = queue.lock();
            about_to_wait("a test");
        }));
    }

    #[test]
    fn a_wait_ends_with_its_condition_or_its_time() {
        let (lock, condition) = (Lock::new(Rank::Stopped, false), Condvar::new());
        assert!(lock.lock().wait(&condition, Duration::from_millis(1)).1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                *lock.lock() = true;
                condition.notify_all();
            });
            let minute = Duration::from_secs(60);
            assert!(*lock.lock().wait_while(&condition, minute, |done| !*done));
        });
    }
}
