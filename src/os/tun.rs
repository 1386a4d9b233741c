//! How do packets come in from the kernel and go back? Through a TUN device: one read, one packet.
//!
//! ```text
//! offload off:  IP packet
//! offload on:   virtio_net_hdr, 10 bytes | IP packet, perhaps a super-packet of up to 64 KiB     (both ways)
//! ```
//!
//! The device lives as long as its descriptor (it is not persistent): when this process ends,
//! however it ends, the kernel removes it together with its addresses and routes. A test hands in
//! one end of a `UnixDatagram::pair()` and plays the kernel. What is in the packets is not looked
//! at here.

pub use super::platform::tun::Tun;

/// What has ended a wait. The first of these wins, so that a flood of packets keeps no thread from
/// stopping or sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// It is time to stop.
    ByWake,
    /// The socket takes data.
    BySocket,
    /// A packet may be there. So it may be when time is over.
    ByDevice,
}
