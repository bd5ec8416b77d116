//! What a window's time went to: the critical path from its end back to its start, each stretch with a cause.
//!
//! Pure: no I/O, no clock. Takes what the threads and CPUs did and gives segments that tile the window to the
//! nanosecond; what no evidence tells a cause of is unexplained, and stays so. See docs/METHOD.md for the rules.

mod causes;
mod facts;
mod path;
mod remedies;
mod report;
mod rules;
mod running;
mod timeline;
mod waiting;
mod words;

pub use causes::{CAUSES, Cause, Entry, TABLE};
pub use facts::{CommitSpan, Dirty, Facts, RequestSpan, SyncSpan};
pub use path::{Piece, attribute};
pub use remedies::{REMEDIES, Remedy};
pub use report::{Surroundings, explain};
pub use rules::{Follow, Match, On, classify};
pub use timeline::{Run, Sample, Timelines};

/// A window, and the thread that ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its first nanosecond, of CLOCK_MONOTONIC.
    pub start_ns: u64,
    /// The first nanosecond after it.
    pub end_ns: u64,
    /// The thread, by its id in the initial pid namespace.
    pub tid: u32,
    /// What it is of, for the report.
    pub label: String,
    /// It was not seen to end: it is cut where recording ended, or where it was known to be over.
    pub clamped: bool,
}

impl Window {
    /// Its length.
    pub const fn length_ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns)
    }
}

#[cfg(test)]
mod tests;
