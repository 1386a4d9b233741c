//! How do packets become records on a connection, and back?
//!
//! | file | question |
//! |---|---|
//! | [`dispatch`] | in which form does a packet leave, and whose turn is it? |
//! | [`fair_queue`] | who is next, and who is dropped? |
//! | [`sender`] | how do records leave, and who waits? |
//! | [`congestion`] | how fast may the TCP connection send? |
//! | [`buffers`] | where do frames stand in memory? |
//! | [`path_size`] | which packets does the path take? |
//! | [`frame_reader`] | which frames arrive? |
//! | [`receiver`] | what happens between the handshake and the end? |

pub mod buffers;
pub mod congestion;
pub mod dispatch;
pub mod fair_queue;
pub mod frame_reader;
pub mod path_size;
pub mod receiver;
pub mod sender;
