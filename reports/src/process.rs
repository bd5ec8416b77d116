//! A process that a report is about.

use serde::{Deserialize, Serialize};

/// A watched process. Its id alone would not name it for good: ids are used again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Thread group id in the initial pid namespace.
    pub pid: u32,
    /// Its name when the window opened.
    pub comm: String,
    /// When it was made, in nanoseconds of CLOCK_MONOTONIC, to within a clock tick of 10 ms.
    pub start_ns: u64,
}

/// `firecracker (pid 4120)`, and how many more there are.
pub fn headline(processes: &[Process]) -> String {
    match processes {
        [] => "no process".to_owned(),
        [one] => format!("{} (pid {})", one.comm, one.pid),
        [first, rest @ ..] => format!("{} (pid {}) and {} more", first.comm, first.pid, rest.len()),
    }
}
