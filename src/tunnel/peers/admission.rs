//! How many connections may be unauthenticated? Until a connection has authenticated, it holds a
//! place here. When all places are taken, a random one has to go. So a newcomer with a key always
//! has its chance, and an attacker cannot choose which connection goes. Nothing is counted by
//! address, so that many clients may share one.
//!
//! How often are connections accepted? [`AcceptLimiter`] leaves processor time to the connected
//! clients. Newcomers wait in the kernel's queue.

use crate::os::entropy;
use crate::os::lock::{Lock, Rank};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The number of places for unauthenticated connections.
pub const PLACES: usize = 1024;

/// The time for one connection while connections keep coming. Several thousand clients that come
/// back at once are accepted faster than their handshakes take. Strangers cost at most a fifth of
/// one processor.
const EACH: Duration = Duration::from_micros(400);
/// The time that a burst may use at once.
const AT_ONCE: Duration = Duration::from_secs(1);
/// The shortest wait. To wake up for each connection would cost as much as to accept it.
const PAUSE: Duration = Duration::from_millis(4);

/// Limits how fast connections are accepted: 2,500 at once, and 2,500 a second.
#[derive(Default)]
pub struct AcceptLimiter {
    spent: Option<Instant>,
}

impl AcceptLimiter {
    /// Counts a connection that is accepted `now`. Returns how long to wait before the next.
    pub fn after(&mut self, now: Instant) -> Duration {
        let spent = self.spent.map_or(now, |spent| spent.max(now)) + EACH;
        self.spent = Some(spent);
        spent
            .duration_since(now)
            .checked_sub(AT_ONCE)
            .filter(|ahead| *ahead >= PAUSE)
            .unwrap_or_default()
    }
}

/// The connections that have not authenticated yet.
pub struct Admission {
    places: usize,
    waiting: Lock<Vec<Arc<TcpStream>>>,
}

impl Admission {
    /// An empty set with `places` places.
    pub fn new(places: usize) -> Admission {
        Admission {
            places,
            waiting: Lock::new(Rank::Admission, Vec::new()),
        }
    }

    /// Gives a connection a place. Returns whether another one lost its place: it is shut down, and
    /// its thread ends.
    pub fn enter(&self, socket: &Arc<TcpStream>) -> bool {
        let mut waiting = self.waiting.lock();
        let full = waiting.len() >= self.places;
        if full {
            end_one(&mut waiting);
        }
        waiting.push(Arc::clone(socket));
        full
    }

    /// Ends one of them, if there is any, because the system has no thread or descriptor left for a
    /// newcomer.
    pub fn make_room(&self) {
        end_one(&mut self.waiting.lock());
    }

    /// Frees the place of a connection that has authenticated or ended.
    pub fn leave(&self, socket: &Arc<TcpStream>) {
        self.waiting
            .lock()
            .retain(|other| !Arc::ptr_eq(other, socket));
    }

    /// Ends all of them.
    pub fn end_all(&self) {
        for socket in self.waiting.lock().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Ends a random one. Its thread notices that.
fn end_one(waiting: &mut Vec<Arc<TcpStream>>) {
    if let Some(last) = waiting.len().checked_sub(1) {
        let random = u64::from_be_bytes(entropy::array()) % waiting.len() as u64;
        let victim = waiting.swap_remove(usize::try_from(random).unwrap_or(last));
        let _ = victim.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;

    #[test]
    fn the_newcomer_stays_and_one_of_the_others_goes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || {
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (near, Arc::new(listener.accept().unwrap().0))
        };
        let admission = Admission::new(3);
        let mut connections: Vec<_> = (0..3).map(|_| connect()).collect();
        assert!(
            !connections
                .iter()
                .any(|(_, socket)| admission.enter(socket))
        );
        let (mut newcomer, socket) = connect();
        assert!(admission.enter(&socket));
        newcomer.set_nonblocking(true).unwrap();
        assert!(newcomer.read(&mut [0]).is_err(), "still open");
        let ended = connections.iter_mut().filter(|(near, _)| {
            near.set_nonblocking(true).unwrap();
            matches!((&*near).read(&mut [0]), Ok(0))
        });
        assert_eq!(ended.count(), 1);
        admission.leave(&socket);
        assert!(!admission.enter(&connect().1), "a place was free");
    }

    #[test]
    fn many_may_come_at_once_and_so_many_a_second() {
        let mut limiter = AcceptLimiter::default();
        let mut now = Instant::now();
        for _ in 0..2 {
            assert!((0..2509).all(|_| limiter.after(now).is_zero()));
            assert_eq!(limiter.after(now), PAUSE);
            now += PAUSE;
            assert!((0..9).all(|_| limiter.after(now).is_zero()));
            assert_eq!(limiter.after(now), PAUSE);
            now += 2 * AT_ONCE;
        }
    }
}
