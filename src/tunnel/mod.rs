//! Do packets go where they should?
//!
//! ```text
//!  TUN ─> device ─> Router::sender_for ─> Batch ─> FairQueue ─> SessionSender (seal) ─> socket
//!  socket ─> FrameReader ─> receiver (open) ─> SessionHandler ─> TUN, or another client's queue
//! ```
//!
//! One thread per connection reads and opens records. A thread that has a packet for a client also
//! seals and sends it. No thread waits for another connection's socket. `docs/ARCHITECTURE.md` has
//! every step, thread and lock.
//!
//! | group | question |
//! |---|---|
//! | [`device`] | how do packets pass between the kernel and the tunnel? |
//! | [`session`] | how do packets become records on a connection, and back? |
//! | [`peers`] | who may connect, who is connected, and with which addresses and keys? |
//! | [`wire`] | what else do the two ends tell each other? |
//! | [`observe`] | what does a person, a script or a key log learn? |
//! | [`server`], [`client`] | the two ends |
#![forbid(unsafe_code)]

pub mod client;
pub mod device;
pub mod observe;
pub mod peers;
pub mod server;
pub mod session;
pub mod wire;

use crate::os::{clock, entropy};
use crate::protocol::handshake::{Capabilities, FreshHello, Offer};
use crate::protocol::record::{Fresh, Suite};

/// The time and a new IV for one Fernet token.
pub fn fresh() -> Fresh {
    Fresh {
        time: clock::unix_seconds(),
        iv: entropy::array(),
    }
}

/// The values that are new in every hello.
pub fn fresh_hello() -> FreshHello {
    FreshHello {
        nonce: entropy::array(),
        token: fresh(),
    }
}

/// The abilities of this program, with these suites, as a hello carries them.
pub fn offer(suites: &[Suite]) -> Offer {
    let capabilities = Capabilities {
        super_packets: true,
    };
    Offer {
        suites: suites.to_vec(),
        capabilities,
        software: SOFTWARE.into(),
    }
}

/// Name and version of this program, as hellos carry them.
pub const SOFTWARE: &str = concat!("fernvpn/", env!("CARGO_PKG_VERSION"));
