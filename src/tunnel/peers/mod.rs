//! Who may connect, who is connected, and with which addresses and keys?
//!
//! | file | question |
//! |---|---|
//! | [`registry`] | who may connect, and who is connected? |
//! | [`address_pool`] | which client has which address? |
//! | [`ratchet_store`] | when does a ratcheted key move? |
//! | [`admission`] | how many connections may be unauthenticated? |

pub mod address_pool;
pub mod admission;
pub mod ratchet_store;
pub mod registry;
