//! In which order were these bytes said? One direction of a TCP connection, put together from its
//! segments.
//!
//! ```text
//!           position
//!  |  told  |    hole    | held |  hole  | held | held |
//! ```
//!
//! What comes twice counts as it came first.
//!
//! Segments come in any order. A hole is filled when its bytes come late, or once more; so is the
//! one before a stream whose beginning was not seen yet. That they never will come is taken for
//! granted after [`PATIENCE`] segments more, or when there is nothing more: then the capture has
//! missed them.

use std::collections::BTreeMap;

/// Segments that are held behind a hole before it is taken for one of the capture.
pub const PATIENCE: usize = 1 << 14;
/// What a segment takes in memory besides its bytes, about.
pub const OVERHEAD: usize = 128;
/// Where the first segment stands: so that a number before it has a place as well.
const START: u64 = 1 << 32;

/// One direction.
#[derive(Debug)]
pub struct Stream {
    /// The sequence number of the byte at [`START`].
    near: u32,
    /// The sequence number of the first byte of all, if it is known.
    beginning: Option<u32>,
    /// Whether bytes, or a hole, were told.
    told: bool,
    position: u64,
    /// By place, with their times.
    held: BTreeMap<u64, (u64, Vec<u8>)>,
    /// Bytes in `held`, and what they cost.
    bytes: usize,
    /// Segments that have come since the position has changed.
    waited: usize,
    /// When the last piece was complete.
    pub time: u64,
    /// The place of its end, and when that was said.
    end: Option<(u64, u64)>,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes.
    Bytes(Vec<u8>),
    /// As many bytes are not in the capture.
    Missing(u64),
    /// Its sender has ended the stream.
    End,
}

impl Stream {
    /// A stream with bytes near this sequence number. Where it begins is yet to be seen.
    pub fn new(near: u32) -> Stream {
        Stream {
            near,
            beginning: None,
            told: false,
            position: START,
            held: BTreeMap::new(),
            bytes: 0,
            waited: 0,
            time: 0,
            end: None,
        }
    }

    /// The sequence number of its first byte, if it is known.
    pub fn beginning(&self) -> Option<u32> {
        self.beginning
    }

    /// Notes with which byte it begins. False if it is too late: some of it was told.
    pub fn begin_at(&mut self, first: u32) -> bool {
        self.beginning = Some(first);
        if !self.told {
            self.position = self.place(first);
        }
        !self.told
    }

    /// Bytes that wait for those before them, and what they cost in memory.
    pub fn held(&self) -> usize {
        self.bytes
    }

    /// When was the next piece said, whether or not it can be told yet?
    pub fn due(&mut self) -> Option<u64> {
        self.drop_what_was_told();
        let held = self.held.first_key_value().map(|(_, (time, _))| *time);
        let time = held.or(self.end.map(|(_, time)| time))?;
        Some(time.max(self.time))
    }

    fn drop_what_was_told(&mut self) {
        if self.waits() {
            return;
        }
        while let Some(first) = self.held.first_entry() {
            let length = first.get().1.len();
            if first.key() + length as u64 > self.position {
                return;
            }
            first.remove();
            self.bytes -= length + OVERHEAD;
        }
    }

    /// Adds what a segment says. `missing` of its bytes, behind those of `payload`, are not known.
    pub fn add(&mut self, time: u64, sequence: u32, payload: &[u8], missing: usize, fin: bool) {
        let at = self.place(sequence);
        let end = at + payload.len() as u64;
        let waits = self.waits();
        if fin && (waits || end >= self.position) {
            self.end = Some((end + missing as u64, time));
        }
        let known = self.held.get(&at).map_or(0, |(_, held)| held.len());
        if payload.len() <= known || !(waits || end > self.position) {
            return;
        }
        self.waited += 1;
        self.bytes += payload.len() + OVERHEAD;
        if let Some((_, shorter)) = self.held.insert(at, (time, payload.to_vec())) {
            self.bytes -= shorter.len() + OVERHEAD;
        }
    }

    /// The next piece, if it is known. With `give_up` nothing more can come.
    pub fn next(&mut self, give_up: bool) -> Option<Piece> {
        let give_up = give_up || self.waited >= PATIENCE;
        if self.waits() {
            let end = self.end.map(|(place, _)| place);
            let first = self.held.first_key_value().map(|(at, _)| *at).or(end);
            self.position = first.filter(|_| give_up)?;
            self.told = true;
        }
        self.drop_what_was_told();
        if let Some(first) = self.held.first_entry() {
            let at = *first.key();
            if at > self.position {
                return give_up.then(|| self.skip_to(at));
            }
            let (time, mut bytes) = first.remove();
            self.bytes -= bytes.len() + OVERHEAD;
            self.time = self.time.max(time);
            let told = usize::try_from(self.position - at).unwrap_or(usize::MAX);
            bytes.drain(..told.min(bytes.len()));
            self.move_to(self.position + bytes.len() as u64);
            return Some(Piece::Bytes(bytes));
        }
        let (end, time) = self.end?;
        if end > self.position {
            return give_up.then(|| self.skip_to(end));
        }
        // FIN has a sequence number too: one that comes again lies before it.
        self.move_to(self.position + 1);
        self.time = self.time.max(time);
        self.end = None;
        Some(Piece::End)
    }

    /// Whether its beginning is to be seen before anything is told.
    fn waits(&self) -> bool {
        self.beginning.is_none() && !self.told
    }

    fn move_to(&mut self, place: u64) {
        self.position = place;
        self.told = true;
        self.waited = 0;
    }

    fn skip_to(&mut self, place: u64) -> Piece {
        let missing = place - self.position;
        self.move_to(place);
        Piece::Missing(missing)
    }

    /// The place of a sequence number: the one of all with these 32 bits that is next to the
    /// position.
    fn place(&self, sequence: u32) -> u64 {
        let [.., a, b, c, d] = self.position.to_be_bytes();
        let next = self.near.wrapping_add(u32::from_be_bytes([a, b, c, d]));
        self.position
            .saturating_add_signed(sequence.wrapping_sub(next).cast_signed().into())
    }
}
