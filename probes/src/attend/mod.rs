//! `forkd-probe attend`: holds the probes for a daemon, which says when a window opens and when it has ended.
//!
//! It ends when its input does, so that nothing stays attached when the daemon is gone.

mod protocol;
mod serve;

pub use protocol::{Answer, Bounds, Request};
pub use serve::serve;
