//! In which order were these bytes said? One direction of a TCP connection, put together from its
//! segments.
//!
//! ```text
//!           position
//!  |  told  |    hole    | held |  hole  | held | held |          what comes twice counts as it came first
//! ```
//!
//! A hole is filled when its bytes come late, or once more. That they never will is known when the
//! receiver has acknowledged them all the same: then the capture has missed them.

use std::collections::BTreeMap;

/// Segments that are held behind a hole which is acknowledged, before it is taken for one of the
/// capture: a capture may itself have changed the order.
const PATIENCE: usize = 64;
/// Where the first byte stands: so that a number before it has a place as well.
const START: u64 = 1 << 32;

/// One direction.
#[derive(Debug)]
pub struct Stream {
    /// The sequence number of the byte at [`START`].
    first: u32,
    position: u64,
    acknowledged: u64,
    /// By place, with their times.
    held: BTreeMap<u64, (u64, Vec<u8>)>,
    /// Bytes in `held`.
    bytes: usize,
    /// When the last piece was complete.
    pub time: u64,
    end: Option<u64>,
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
    /// A stream that begins with the byte of this sequence number.
    pub fn new(first: u32) -> Stream {
        Stream {
            first,
            position: START,
            acknowledged: START,
            held: BTreeMap::new(),
            bytes: 0,
            time: 0,
            end: None,
        }
    }

    /// Whether it begins there.
    pub fn begins_at(&self, sequence: u32) -> bool {
        self.first == sequence
    }

    /// Bytes that wait for those before them.
    pub fn held(&self) -> usize {
        self.bytes
    }

    /// Adds what a segment says.
    pub fn add(&mut self, time: u64, sequence: u32, payload: &[u8], fin: bool) {
        let at = self.place(sequence);
        let end = at + payload.len() as u64;
        if fin && end >= self.position {
            self.end = Some(end);
        }
        if !payload.is_empty()
            && end > self.position
            && self
                .held
                .get(&at)
                .is_none_or(|(_, held)| held.len() < payload.len())
        {
            self.bytes += payload.len();
            self.bytes -= self
                .held
                .insert(at, (time, payload.to_vec()))
                .map_or(0, |(_, old)| old.len());
        }
    }

    /// Notes that the receiver has everything before this number.
    pub fn acknowledge(&mut self, number: u32) {
        self.acknowledged = self.acknowledged.max(self.place(number));
    }

    /// The next piece, if it is known. With `give_up` nothing more can come.
    pub fn next(&mut self, give_up: bool) -> Option<Piece> {
        while let Some(first) = self.held.first_entry() {
            let at = *first.key();
            if at > self.position {
                let never = self.acknowledged >= at && self.held.len() >= PATIENCE;
                return (give_up || never).then(|| self.skip_to(at));
            }
            let (time, mut bytes) = first.remove();
            self.bytes -= bytes.len();
            let told = usize::try_from(self.position - at).unwrap_or(usize::MAX);
            if told < bytes.len() {
                self.time = self.time.max(time);
                bytes.drain(..told);
                self.position += bytes.len() as u64;
                return Some(Piece::Bytes(bytes));
            }
        }
        match self.end? {
            end if end <= self.position => {
                self.position += 1; // FIN has a sequence number too: one that comes again lies before it
                self.end.take().map(|_| Piece::End)
            }
            end => give_up.then(|| self.skip_to(end)),
        }
    }

    fn skip_to(&mut self, place: u64) -> Piece {
        let missing = place - self.position;
        self.position = place;
        Piece::Missing(missing)
    }

    /// The place of a sequence number: the one of all with these 32 bits that is next to the
    /// position.
    fn place(&self, sequence: u32) -> u64 {
        let [.., a, b, c, d] = self.position.to_be_bytes();
        let next = self.first.wrapping_add(u32::from_be_bytes([a, b, c, d]));
        self.position
            .saturating_add_signed(sequence.wrapping_sub(next).cast_signed().into())
    }
}
