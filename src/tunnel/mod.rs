//! Do packets go where they should?
//!
//! ```text
//!  TUN ─> packet::offload ─> router.owner(destination) ─> Batch ─> Queue ─> Outbound (seal, send) ─> socket
//!  socket ─> FrameReader ─> Opener ─> packet::offload ─> client.owns(source)? ─> TUN, or another client
//! ```
//!
//! One thread per connection reads and opens; whoever has a packet for a client seals and sends it.
//! Nobody waits for anybody else's socket.
//!
//! | file | question |
//! |---|---|
//! | [`addresses`] | which client has which address? |
//! | [`config_record`] | what does the server tell a client about its network? |
//! | [`carrier`] | which frames arrive? |
//! | [`outbound`] | how do records leave, and who waits? |
//! | [`queue`] | who is next, and who is dropped? |
//! | [`batch`] | in which form does a packet leave, and in whose turn? |
//! | [`device`] | how do packets pass between the kernel and the tunnel? |
//! | [`connection`] | what happens between the handshake and the end? |
//! | [`clients`] | who may connect, and who is connected? |
//! | [`key_log`] | what opens a recording of this session? |
//! | [`steps`] | when does a ratcheted key move? |
//! | [`admission`] | how many strangers are listened to? |
//! | [`status`] | what is it doing, in numbers? |
//! | [`proxy`] | who is behind the load balancer? |
//! | [`server`], [`client`] | the two ends |
#![forbid(unsafe_code)]

pub mod addresses;
pub mod admission;
pub mod batch;
pub mod carrier;
pub mod client;
pub mod clients;
pub mod config_record;
pub mod connection;
pub mod device;
pub mod key_log;
pub mod outbound;
pub mod proxy;
pub mod queue;
pub mod server;
pub mod status;
pub mod steps;

use crate::os::{clock, entropy};
use crate::protocol::handshake::{Capabilities, FreshHello, Offer};
use crate::protocol::record::{Fresh, Suite};

/// The time and a new IV, for one Fernet token.
pub fn fresh() -> Fresh {
    Fresh {
        time: clock::unix_seconds(),
        iv: entropy::array(),
    }
}

/// What is new in every hello.
pub fn fresh_hello() -> FreshHello {
    FreshHello {
        nonce: entropy::array(),
        token: fresh(),
    }
}

/// What an end of this program can do, with these suites.
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

/// Name and version of this program, as hellos carry it.
pub const SOFTWARE: &str = concat!("fernvpn/", env!("CARGO_PKG_VERSION"));

/// The lock's content, also if a thread died while it held it: all state behind the locks here is
/// valid at every statement.
pub fn locked<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
