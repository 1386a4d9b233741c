//! Where does a message end? PROTOCOL.md section 3.
//!
//! ```text
//!  0          4
//!  | length n | body           |      n: u32, big-endian, 1 <= n <= the limit of what is due
//!  |          | n bytes        |
//! ```
//!
//! The length is checked before a byte of the body is read or room is made for it.

use std::fmt;

/// Bytes in the length header.
pub const HEADER: usize = 4;

/// A length that no frame may have here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLength {
    /// The length in the header, in bytes.
    pub length: u32,
    /// The most that was allowed.
    pub limit: usize,
}

impl fmt::Display for BadLength {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "a frame of {} bytes where 1 to {} are allowed",
            self.length, self.limit
        )
    }
}

impl std::error::Error for BadLength {}

/// The header of a body of `length` bytes.
///
/// # Panics
/// If `length` does not fit in 32 bits; bodies are below 100 kB.
pub fn header(length: usize) -> [u8; HEADER] {
    u32::try_from(length)
        .expect("bodies are below 100 kB")
        .to_be_bytes()
}

/// The length of the body that a header announces.
///
/// # Errors
/// [`BadLength`] if it is zero or above `limit`.
pub fn length(header: [u8; HEADER], limit: usize) -> Result<usize, BadLength> {
    let length = u32::from_be_bytes(header);
    match usize::try_from(length) {
        Ok(n) if (1..=limit).contains(&n) => Ok(n),
        _ => Err(BadLength { length, limit }),
    }
}

/// A whole frame around `body`.
pub fn frame(body: &[u8]) -> Vec<u8> {
    [&header(body.len()), body].concat()
}

/// The length of the whole frame at the start of `bytes`, header included, or `None` if its end is
/// not there yet.
///
/// # Errors
/// [`BadLength`] as soon as the header is there.
pub fn whole(bytes: &[u8], limit: usize) -> Result<Option<usize>, BadLength> {
    let Some((header, body)) = bytes.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = length(*header, limit)?;
    if body.len() < length {
        return Ok(None);
    }
    Ok(Some(HEADER + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_frame_then_the_next() {
        let bytes = [frame(b"ab"), frame(b"c")].concat();
        assert_eq!(bytes, b"\0\0\0\x02ab\0\0\0\x01c");
        for n in 0..6 {
            assert_eq!(whole(&bytes[..n], 2), Ok(None), "prefix of {n}");
        }
        assert_eq!(whole(&bytes, 2), Ok(Some(6)));
        assert_eq!(whole(&bytes[6..], 2), Ok(Some(5)));
    }

    #[test]
    fn lengths_outside_one_to_limit_are_refused_at_once() {
        for (header, length) in [([0, 0, 0, 0], 0), ([0, 0, 0, 3], 3), ([255; 4], u32::MAX)] {
            assert_eq!(whole(&header, 2), Err(BadLength { length, limit: 2 }));
        }
    }
}
