//! What the kernel side and the user side must agree on: the records that cross the ring buffer, and
//! the one list of BRANCH phases that the daemon measures and the reports name.
#![no_std]

mod phase;

pub use phase::BranchPhase;
