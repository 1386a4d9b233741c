//! What does a person, a script or a key log learn about a running tunnel?
//!
//! | file | question |
//! |---|---|
//! | [`counters`] | what is counted? |
//! | [`status`] | what is it doing, in numbers? |
//! | [`key_log`] | what opens a recording of this session? |

pub mod counters;
pub mod key_log;
pub mod status;
