//! fernvpn: a VPN over TCP that a person can read in an afternoon, check byte by byte, and then really use.
#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::unwrap_used,
        reason = "inline tests"
    )
)]

pub mod audit;
pub mod commands;
pub mod config;
pub mod fernet;
pub mod random;
