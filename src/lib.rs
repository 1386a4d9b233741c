//! fernvpn: a VPN over TCP that a person can read in an afternoon, check byte by byte, and then
//! really use.
//!
//! A top-level module answers one question, and only uses modules that the map allows it.
//! `tests/layering.rs` checks this. In comments and documents, "module" means one of these.
//!
//! ```text
//!  main      ─> commands, config, os
//!  commands  ─> every module
//!  tunnel    ─> protocol, fernet, packet, os, config
//!  audit     ─> protocol, fernet, packet, os
//!  config    ─> protocol, fernet, packet, os
//!  os        ─> packet
//!  protocol  ─> fernet            these two are the core: pure, at most 1,700 lines of code
//!  fernet    ─> nothing
//!  packet    ─> nothing
//! ```
//!
//! `docs/ARCHITECTURE.md` has a packet's way, the threads and the locks.
//!
//! | module | question |
//! |---|---|
//! | [`fernet`] | Is the token right? |
//! | [`protocol`] | Is the conversation secure? |
//! | [`packet`] | What is inside? |
//! | [`tunnel`] | Do packets go where they should? |
//! | [`os`] | What does it touch on my machine? |
//! | [`config`] | What was the program told? |
//! | [`audit`] | What was said on the wire? |
//! | [`commands`] | What does each word of the command line do? |
#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::unwrap_used,
        reason = "inline tests"
    )
)]
// These macros panic when nobody reads the output. `log::say` prints instead.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod audit;
pub mod commands;
pub mod config;
pub mod fernet;
pub mod os;
pub mod packet;
pub mod protocol;
pub mod tunnel;
