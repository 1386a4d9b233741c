//! Which packets were inside, in a form that other programs read? A pcapng file of IP packets
//! without a link header.

use std::io::{self, Write};

/// `LINKTYPE_RAW`: the packet begins with IP's version.
const RAW: u16 = 101;

/// Writes the packets of the tunnel.
pub struct Writer<W> {
    output: W,
}

impl<W: Write> Writer<W> {
    /// Begins a file: its section, and its one interface.
    ///
    /// # Errors
    /// Those of `output`.
    pub fn new(output: W) -> io::Result<Writer<W>> {
        let mut writer = Writer { output };
        // Byte order, version 1.0, a section of any length.
        let section = [
            &0x1a2b_3c4d_u32.to_le_bytes()[..],
            &[1, 0, 0, 0],
            &[0xff; 8],
        ]
        .concat();
        writer.block(0x0a0d_0d0a, &section)?;
        // The link type, no limit on lengths, and option 9: times are in units of 10^-9 s.
        let interface = [
            &RAW.to_le_bytes()[..],
            &[0; 6],
            &[9, 0, 1, 0, 9, 0, 0, 0],
            &[0; 4],
        ]
        .concat();
        writer.block(1, &interface)?;
        Ok(writer)
    }

    /// Adds a packet, with the time of what carried it in nanoseconds since 1970.
    ///
    /// # Errors
    /// Those of the output.
    pub fn packet(&mut self, time: u64, packet: &[u8]) -> io::Result<()> {
        let [h0, h1, h2, h3, l0, l1, l2, l3] = time.to_be_bytes();
        let length = length(packet.len()).to_le_bytes();
        let padding = &[0; 3][..packet.len().next_multiple_of(4) - packet.len()];
        let time = [h3, h2, h1, h0, l3, l2, l1, l0];
        self.block(
            6,
            &[&[0; 4], &time[..], &length, &length, packet, padding].concat(),
        )
    }

    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let length = length(12 + body.len()).to_le_bytes();
        self.output
            .write_all(&[&kind.to_le_bytes(), &length[..], body, &length].concat())
    }

    /// Writes what is still on its way.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// A length as a field: no packet is longer than 65,535 bytes.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
