//! The map of fernvpn: rooms, and which of them may know which.

pub mod os;
