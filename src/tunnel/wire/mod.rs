//! What else do the two ends tell each other?
//!
//! | file | question |
//! |---|---|
//! | [`network_config`] | what does the server tell a client about its network? |
//! | [`proxy_header`] | who is behind the load balancer? |

pub mod network_config;
pub mod proxy_header;
