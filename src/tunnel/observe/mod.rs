//! What does a person, a script or a key log learn about a running tunnel?
//!
//! | file | question |
//! |---|---|
//! | [`status`] | what is it doing, in numbers? |
//! | [`key_log`] | what opens a recording of this session? |

pub mod key_log;
pub mod status;
