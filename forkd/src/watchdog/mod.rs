//! A second process that sees to it that a guest runs again where the daemon that paused it cannot.
//!
//! The daemon tells it of each pause before it begins and after it has ended, over a socket of which each has an
//! end. When the daemon dies, the kernel closes its end, and the watchdog resumes every guest whose pause had
//! begun and not ended. When a pause outlasts its lease (the daemon may be stopped, or stuck), the watchdog asks
//! Firecracker for its state, which is answered when the call in flight has returned; a daemon that works then
//! resumes its guest at once, and where the pause has not ended shortly after, the watchdog does it.
//!
//! It acts on pauses that the daemon told it of and on no others, so a guest that its user paused stays paused.

mod link;
pub(crate) mod message;
mod process;

pub use self::link::{Lease, Watchdog, Watched};
pub use self::process::run;
