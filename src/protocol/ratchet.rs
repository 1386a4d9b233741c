//! Which key comes next? PROTOCOL.md section 8. The rule alone; the file that holds the state lies
//! outside.
//!
//! ```text
//!            server: K, r                        client: K
//!  ServerHello carries r (drawn when the server entered this step, sealed under K's hello branch)
//!            K' = next(K, r), new r'             K' = next(K, r)
//! ```
//!
//! The client makes K' durable and erases K before it sends Finished; the server advances once
//! Finished has verified. So the client is level with the server or one step ahead, and never
//! behind. If its Finished was lost, it comes back under the id of K'. The server can compute that
//! from K and r.

use super::key_schedule::{Id, Root};
use hmac::digest::zeroize::Zeroizing;

/// The last step: a key that has come so far makes no more sessions.
pub const LAST_STEP: u64 = u64::MAX;

/// The server's state of one ratcheted client.
#[derive(Clone)]
pub struct ServerState {
    /// How many steps the key has made.
    pub step: u64,
    /// K of this step.
    pub root: Root,
    /// r of this step: 32 random bytes, shown to nobody but in the ServerHello.
    pub secret: Zeroizing<[u8; 32]>,
}

/// The client's state.
#[derive(Clone, Debug)]
pub struct ClientState {
    /// How many steps the key has made.
    pub step: u64,
    /// K of this step.
    pub root: Root,
}

/// Where a client stands, seen from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// At the same step.
    Level,
    /// One step ahead: a Finished was lost. The server advances, durably, before it answers.
    Ahead,
}

impl ServerState {
    /// Where the client with this id stands, or `None` if it is neither level nor one ahead.
    pub fn standing(&self, id: Id) -> Option<Standing> {
        if id == self.root.id() {
            Some(Standing::Level)
        } else if id == self.root.next(&self.secret).id() {
            Some(Standing::Ahead)
        } else {
            None
        }
    }

    /// The state one step on, with a secret newly drawn. Make it durable before acting on it.
    /// `None` after the last.
    pub fn advance(&self, fresh_secret: [u8; 32]) -> Option<ServerState> {
        let secret = Zeroizing::new(fresh_secret);
        Some(ServerState {
            step: self.step.checked_add(1)?,
            root: self.root.next(&self.secret),
            secret,
        })
    }
}

impl ClientState {
    /// The state one step on. Make it durable, and erase this one, before Finished is sent. `None`
    /// after the last.
    pub fn advance(&self, secret: &[u8; 32]) -> Option<ClientState> {
        Some(ClientState {
            step: self.step.checked_add(1)?,
            root: self.root.next(secret),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fernet::Key;

    #[test]
    fn both_sides_step_to_the_same_key_and_no_further_apart_than_one() {
        let root = Root::new(Key::from_bytes(&[7; 32]));
        let server = ServerState {
            step: 4,
            root: root.clone(),
            secret: Zeroizing::new([1; 32]),
        };
        let client = ClientState { step: 4, root };
        assert_eq!(server.standing(client.root.id()), Some(Standing::Level));

        let ahead = client.advance(&server.secret).unwrap();
        assert_eq!(server.standing(ahead.root.id()), Some(Standing::Ahead));
        let caught_up = server.advance([2; 32]).unwrap();
        assert_eq!((caught_up.step, ahead.step), (5, 5));
        assert_eq!(caught_up.standing(ahead.root.id()), Some(Standing::Level));
        assert_eq!(
            caught_up.standing(client.root.id()),
            None,
            "nobody comes back to an erased key"
        );
        assert_eq!(
            server.standing(ahead.advance(&caught_up.secret).unwrap().root.id()),
            None
        );
    }

    #[test]
    fn no_step_follows_the_last() {
        let root = Root::new(Key::from_bytes(&[7; 32]));
        let mut server = ServerState {
            step: u64::MAX - 1,
            root: root.clone(),
            secret: Zeroizing::new([1; 32]),
        };
        let client = ClientState {
            step: u64::MAX - 1,
            root,
        }
        .advance(&server.secret)
        .unwrap();
        server = server.advance([2; 32]).unwrap();
        assert_eq!((server.step, client.step), (u64::MAX, u64::MAX));
        assert!(server.advance([3; 32]).is_none() && client.advance(&server.secret).is_none());
    }

    #[test]
    fn without_the_secret_the_next_key_cannot_be_told() {
        let root = Root::new(Key::from_bytes(&[7; 32]));
        assert_ne!(
            root.next(&[1; 32]).key().bytes(),
            root.next(&[2; 32]).key().bytes()
        );
    }
}
