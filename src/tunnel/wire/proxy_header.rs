//! Who is behind the load balancer? This reads the header of the PROXY protocol, version 2, which
//! HAProxy and others send first.
//!
//! ```text
//!  0           12                  13       14         16
//!  | signature | version ‖ command | family | length n | source, destination, ports | more |
//!                                                      |<------------ n -------------------->|
//! ```
//!
//! The server reads it only on connections from addresses that the configuration names. Anybody
//! else could otherwise choose the address in the log. Only the source address is used.

use std::net::{IpAddr, SocketAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The most bytes after the first 16. Addresses take 36, and further fields are not for this
/// program.
const MAX_LENGTH: usize = 512;

/// Whom a balancer speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The client at this address.
    Client(SocketAddr),
    /// A client whose address it does not name.
    Unknown,
    /// Itself (the command LOCAL): it checks whether the server is up.
    Balancer,
}

/// Reads the header at the start of `bytes`. Returns its length and the client that the balancer
/// names. Returns `Ok(None)` if more bytes have to come.
///
/// # Errors
/// A text about what is wrong with it.
pub fn header(bytes: &[u8]) -> Result<Option<(usize, Origin)>, &'static str> {
    if !SIGNATURE.starts_with(bytes) && !bytes.starts_with(&SIGNATURE) {
        return Err("no PROXY header of version 2");
    }
    let Some(([.., command, family, high, low], rest)) = bytes.split_first_chunk::<16>() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length > MAX_LENGTH {
        return Err("a PROXY header that is too long");
    }
    let Some(rest) = rest.get(..length) else {
        return Ok(None);
    };
    let origin = match (command, family) {
        (0x20, _) => Some(Origin::Balancer),
        (0x21, 0x00) => Some(Origin::Unknown),
        (0x21, 0x11) => source::<4>(rest).map(Origin::Client),
        (0x21, 0x21) => source::<16>(rest).map(Origin::Client),
        _ => return Err("a PROXY header that is not about TCP"),
    };
    let origin = origin.ok_or("a PROXY header that is too short")?;
    Ok(Some((SIGNATURE.len() + 4 + length, origin)))
}

/// Source and destination, then the port of each.
fn source<const N: usize>(bytes: &[u8]) -> Option<SocketAddr>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = bytes.split_first_chunk::<N>()?;
    let (_, rest) = rest.split_first_chunk::<N>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    rest.split_first_chunk::<2>()?;
    Some(SocketAddr::new(
        IpAddr::from(*source).to_canonical(),
        u16::from_be_bytes(*port),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    #[test]
    fn addresses_of_both_kinds_and_none() {
        let client = |text: &str| Origin::Client(text.parse().unwrap());
        let four = [192, 0, 2, 7, 198, 51, 100, 1, 0xc3, 0x50, 1, 187];
        let six = [
            &[0x20, 1, 0xd, 0xb8][..],
            &[0; 11],
            &[7],
            &[0xff; 16],
            &[0xc3, 0x50, 1, 187],
        ]
        .concat();
        let mapped = [
            &[0; 10][..],
            &[0xff, 0xff, 192, 0, 2, 7],
            &[0; 16],
            &[0xc3, 0x50, 1, 187],
        ]
        .concat();
        let with_more = [&four[..], &[0x04, 0, 3, 1, 2, 3]].concat();
        for (bytes, expected) in [
            (with(0x21, 0x11, &four), client("192.0.2.7:50000")),
            (with(0x21, 0x11, &with_more), client("192.0.2.7:50000")),
            (with(0x21, 0x21, &six), client("[2001:db8::7]:50000")),
            (with(0x21, 0x21, &mapped), client("192.0.2.7:50000")),
            (with(0x21, 0x00, &[]), Origin::Unknown),
            (with(0x20, 0x11, &four), Origin::Balancer),
            (with(0x20, 0x00, &[1; 512]), Origin::Balancer),
        ] {
            let followed = [&bytes[..], b"\0\0\0\x01x"].concat();
            assert_eq!(header(&followed), Ok(Some((bytes.len(), expected))));
            for end in 0..bytes.len() {
                assert_eq!(header(&bytes[..end]), Ok(None), "{end} bytes of {bytes:?}");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused_as_soon_as_it_can_be() {
        let four = [192, 0, 2, 7, 198, 51, 100, 1, 0xc3, 0x50, 1, 187];
        for bytes in [
            b"\0".to_vec(),
            b"PROXY TCP4".to_vec(),
            SIGNATURE[..11].iter().chain(b"\r").copied().collect(),
            with(0x21, 0x11, &four[..11]),
            with(0x21, 0x21, &four),
            with(0x22, 0x11, &four),
            with(0x11, 0x11, &four),
            with(0x21, 0x12, &four),
            with(0x21, 0x31, &[0; 216]),
            with(0x20, 0x00, &[0; 513])[..16].to_vec(),
        ] {
            assert!(header(&bytes).is_err(), "{bytes:?}");
        }
    }
}
