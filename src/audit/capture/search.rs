//! Which record, under which key, is this? In sequence it is the next one. After a hole, or where
//! the capture begins late, it is one of many, and trying finds the authentic one.
//!
//! ```text
//!  key      0        1        2    …        a step for each Rekey that may be missing
//!  record   0 1 2 …  0 1 2 …  0 1 2 …       a record for each that may be missing
//! ```
//!
//! A record of suite `fernet` shows its number, so only the keys are tried. Nothing opens by
//! chance: every record has an authentication tag of 128 bits or more.

use super::key_log::Line;
use crate::protocol::key_schedule::TrafficSecret;
use crate::protocol::record::{Opener, RecordError, RecordType, Suite};

/// Bytes that all searches of a capture may try: half a minute's work.
pub const WORK: u64 = 1 << 36;
/// The fixed cost of each attempt, in bytes.
const ATTEMPT: u64 = 512;
/// Most steps of the key, and most records under each, that are tried: the likely ones first.
const RECTANGLES: [(u64, u64); 4] = [(0, 1 << 12), (64, 1 << 12), (2, 1 << 20), (1024, 1 << 16)];

/// What opens one direction of a session.
pub struct Keyed {
    /// The line of the key log, by its place.
    pub line: usize,
    /// 0: what the client says. 1: what the server says.
    pub sender: usize,
    /// How often the key was stepped.
    pub step: u64,
    /// The record that is due under this key.
    pub counter: u64,
    opener: Opener,
}

/// What a record holds.
pub struct Record {
    /// Its type.
    pub kind: u8,
    /// The key's step.
    pub step: u64,
    /// Its number under that key.
    pub counter: u64,
    /// Its content.
    pub content: Vec<u8>,
}

impl Keyed {
    fn stepped(&self, suite: Suite, secret: &TrafficSecret, step: u64) -> Keyed {
        Keyed {
            step,
            counter: 0,
            opener: Opener::new(suite, secret.clone()),
            ..*self
        }
    }

    fn skip_to(&mut self, counter: u64) {
        self.counter = counter;
        self.opener.skip_to(counter);
    }

    /// Opens the record that is due, of whatever type.
    ///
    /// # Errors
    /// [`RecordError`]; nothing has changed.
    pub fn open(&mut self, body: &[u8]) -> Result<Record, RecordError> {
        let mut body = body.to_vec();
        let (kind, content) = self.opener.open_recorded(&mut body)?;
        let record = Record {
            kind,
            step: self.step,
            counter: self.counter,
            content: content.to_vec(),
        };
        let next = if kind == RecordType::Rekey.to_byte() {
            (self.step + 1, 0)
        } else {
            (self.step, self.counter + 1)
        };
        (self.step, self.counter) = next;
        Ok(record)
    }
}

/// The keys of a key log.
pub struct Keys {
    /// Its lines.
    pub lines: Vec<Line>,
    /// Bytes that may still be tried. A search takes at most an eighth of them.
    pub work: u64,
}

impl Keys {
    /// The beginnings of all directions that this one may be: line and sender, as far as they are
    /// known.
    pub fn beginnings(&self, line: Option<usize>, sender: Option<usize>) -> Vec<Keyed> {
        let mut all = Vec::new();
        for (at, one) in self
            .lines
            .iter()
            .enumerate()
            .filter(|(at, _)| line.is_none_or(|line| line == *at))
        {
            for from in (0..2).filter(|from| sender.is_none_or(|sender| sender == *from)) {
                let opener = Opener::new(one.suite, one.secrets[from].clone());
                all.push(Keyed {
                    line: at,
                    sender: from,
                    step: 0,
                    counter: 0,
                    opener,
                });
            }
        }
        all
    }

    /// Tries to open a record that comes after one of these, at most `most` records later.
    pub fn search(&mut self, after: &[Keyed], most: u64, body: &[u8]) -> Option<(Keyed, Record)> {
        let cost = body.len() as u64 + ATTEMPT;
        let mut left = self.work / 8;
        let mut tried = None;
        for (steps, counters) in
            RECTANGLES.map(|(steps, counters)| (steps.min(most), counters.min(most)))
        {
            if tried.replace((steps, counters)) == Some((steps, counters)) {
                continue;
            }
            for known in after {
                let mut secret = known.opener.secret().clone();
                for step in 0..=steps {
                    let mut keyed = known.stepped(known.opener.suite(), &secret, known.step + step);
                    let first = if step == 0 { known.counter } else { 0 };
                    for counter in first..=first.saturating_add(counters) {
                        left = left.checked_sub(cost)?;
                        self.work -= cost;
                        keyed.skip_to(counter);
                        let mut opened = keyed.open(body);
                        if let Err(RecordError::Counter { found, .. }) = opened {
                            keyed.skip_to(found);
                            opened = keyed.open(body);
                        }
                        match opened {
                            Ok(record) => return Some((keyed, record)),
                            Err(RecordError::Tag) => {}
                            Err(_) => break,
                        }
                    }
                    secret = secret.rekey();
                }
            }
        }
        None
    }
}
