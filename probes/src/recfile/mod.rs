//! Recordings in files: what was read from the kernel side, in its order, with everything that a report needs
//! beside it; so that another machine makes the same report of it.
//!
//! A [`Tape`] takes what a [`crate::pipeline::Pipeline`] takes, and [`replay`] gives it to one. User stacks are
//! unwound where they are recorded, by the binaries that are there: a file holds frames, and nothing of any
//! process's memory. Names are looked up there as well.

mod container;
mod contents;
mod entry;
mod error;
mod facts;
mod replay;
#[cfg(any(test, feature = "fuzzing"))]
mod sample;
mod seen;
mod tape;

pub use container::{VERSION, Writer};
pub use contents::{Needed, RecordedCalls, RecordedDevices};
pub use error::ReadError;
pub use facts::{Host, OpeningFacts, SeedCallFact, SeedFact, ThrottleFact};
pub use replay::{Homes, Replayed, read, replay};
#[cfg(any(test, feature = "fuzzing"))]
pub use sample::{sample_entries, sealed};
pub use tape::{Counted, Kept, Tape, Written, loss_causes};
