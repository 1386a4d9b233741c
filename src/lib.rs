//! fernvpn: a VPN over TCP that a person can read in an afternoon.

pub mod packet;
