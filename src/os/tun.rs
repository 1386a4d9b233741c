//! How do packets come from the kernel and go back? They pass a TUN device, where one read is one
//! packet.
//!
//! ```text
//! offload off:  IP packet
//! offload on:   virtio_net_hdr, 10 bytes | IP packet, perhaps a super-packet of up to 64 KiB
//! ```
//!
//! The device lives as long as its descriptor, because it is not persistent. When this process
//! ends, however it ends, the kernel removes the device with its addresses and routes. A test hands
//! in one end of a `UnixDatagram::pair()` and plays the kernel. This file does not look into
//! packets.

pub use super::platform::tun::Tun;

/// What has ended a wait. The first of these wins, so that a flood of packets cannot keep a thread
/// from stopping or sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// It is time to stop.
    ByWake,
    /// The socket takes data.
    BySocket,
    /// A packet may be there. It may also be there when the time is over.
    ByDevice,
}
