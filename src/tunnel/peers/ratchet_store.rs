//! When does a ratcheted key make a step, and what must be stored before? PROTOCOL.md section 8.
//!
//! ```text
//!  server  gets a hello under K    changes nothing
//!          gets a hello under K'   K', s+1, r' durable, then ServerHello
//!          verified Finished       K', s+1, r' durable, then Config
//!  client  verified ServerHello    K', s+1 durable, then Finished
//! ```
//!
//! The state in memory changes only after the new one is durable. If storing fails, the file may
//! hold either state. Both continue the chain, because no peer has seen anything of the new one.

use crate::config::state_file::{Store, StoredRatchet};
use crate::os::entropy;
use crate::protocol::key_schedule::{Id, Root};
use crate::protocol::ratchet::{ClientState, ServerState, Standing};
use hmac::digest::zeroize::Zeroizing;
use std::collections::VecDeque;

/// The number of earlier ids that are remembered for each client, for the log.
const REMEMBERED: usize = 16;
const LAST: &str = "the ratcheted key has made its last step; fernvpn reset-client makes a new one";

/// The server's side of one ratcheted key.
pub struct ServerRatchet {
    state: ServerState,
    store: Box<dyn Store>,
    past: VecDeque<Id>,
}

impl ServerRatchet {
    /// Continues from the stored state. The first time, it draws `r`, which is durable before it is
    /// sent.
    ///
    /// # Errors
    /// Fails if `r` cannot be stored.
    pub fn open(kept: &StoredRatchet, mut store: Box<dyn Store>) -> Result<ServerRatchet, String> {
        let secret = match &kept.secret {
            Some(secret) => secret.clone(),
            None => {
                let secret = Zeroizing::new(entropy::array());
                store.save(&StoredRatchet {
                    secret: Some(secret.clone()),
                    ..kept.clone()
                })?;
                secret
            }
        };
        let state = ServerState {
            step: kept.step,
            root: Root::new(kept.key.clone()),
            secret,
        };
        Ok(ServerRatchet {
            state,
            store,
            past: VecDeque::new(),
        })
    }

    /// Begins anew with another key, because the client fell out of step. Earlier keys are
    /// forgotten, so a connection that was made with one belongs to nobody.
    ///
    /// # Errors
    /// Fails if the state could not be stored, and nothing has changed.
    pub fn reset(&mut self, stored: &StoredRatchet) -> Result<(), String> {
        let secret = Zeroizing::new(entropy::array());
        self.store.save(&StoredRatchet {
            secret: Some(secret.clone()),
            ..stored.clone()
        })?;
        self.state = ServerState {
            step: stored.step,
            root: Root::new(stored.key.clone()),
            secret,
        };
        self.past.clear();
        Ok(())
    }

    /// How many steps the key has made.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// The ids that belong to this client: those of `K` and `K'`, each with its key, and those of a
    /// few keys before.
    pub fn keys(&self) -> impl Iterator<Item = (Id, Option<Root>)> {
        let own = [
            self.state.root.clone(),
            self.state.root.next(&self.state.secret),
        ];
        own.map(|root| (root.id(), Some(root)))
            .into_iter()
            .chain(self.past.iter().map(|id| (*id, None)))
    }

    /// The same ids without keys.
    pub fn ids(&self) -> Vec<Id> {
        self.keys().map(|(id, _)| id).collect()
    }

    /// The state that answers an authentic hello under the key with this id. If the client is one
    /// step ahead, that is the next state, which is durable when this returns. A handshake that is
    /// late by then gets a state that does not fit, and is refused.
    ///
    /// # Errors
    /// Fails if the hello must not be answered.
    pub fn sync(&mut self, id: Id) -> Result<ServerState, String> {
        if self.state.standing(id) == Some(Standing::Ahead) {
            self.advance()?;
        }
        Ok(self.state.clone())
    }

    /// Moves on, because Finished of a handshake at this step has verified. Config may be sent when
    /// this has returned.
    ///
    /// # Errors
    /// Fails if a later handshake was faster, or the state could not be stored.
    pub fn finish(&mut self, step: u64) -> Result<(), String> {
        if step != self.state.step {
            return Err("a later handshake has moved the ratcheted key".into());
        }
        self.advance()
    }

    fn advance(&mut self) -> Result<(), String> {
        let next = self.state.advance(entropy::array()).ok_or(LAST)?;
        let key = next.root.key().clone();
        let secret = Some(next.secret.clone());
        self.store.save(&StoredRatchet {
            key,
            step: next.step,
            secret,
        })?;
        if self.past.len() == REMEMBERED {
            self.past.pop_front();
        }
        self.past.push_back(self.state.root.id());
        self.state = next; // dropping the one before wipes it
        Ok(())
    }
}

/// A client's key: static, or ratcheted with a store for its state.
pub struct ClientKey {
    state: ClientState,
    store: Option<Box<dyn Store>>,
}

impl ClientKey {
    /// Without a store, the key is static.
    pub fn new(kept: StoredRatchet, store: Option<Box<dyn Store>>) -> ClientKey {
        ClientKey {
            state: ClientState {
                step: kept.step,
                root: Root::new(kept.key),
            },
            store,
        }
    }

    /// The key, and its step if it is ratcheted.
    pub fn current(&self) -> (Root, Option<u64>) {
        (self.state.root.clone(), self.step())
    }

    /// The step of a ratcheted key.
    pub fn step(&self) -> Option<u64> {
        self.store.as_ref().map(|_| self.state.step)
    }

    /// Stores the next state and forgets this one. Finished may be sent when this has returned.
    ///
    /// # Errors
    /// Fails if finished must not be sent.
    pub fn keep(&mut self, next: &ClientState) -> Result<(), String> {
        let kept = StoredRatchet {
            key: next.root.key().clone(),
            step: next.step,
            secret: None,
        };
        self.store
            .as_mut()
            .map_or(Ok(()), |store| store.save(&kept))?;
        self.state = next.clone();
        Ok(())
    }
}
