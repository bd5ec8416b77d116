//! Samples for tests.

use reports::sweep::{Circumstances, Sample};

/// A BRANCH of `cell`, of which only the pause matters.
pub fn sample(cell: &str, trial: u32, branch_idx: u32, pause_ms: f64) -> Sample {
    Sample {
        cell: cell.to_owned(),
        data_path: "naive".to_owned(),
        root: "tmpfs".to_owned(),
        file_system: "tmpfs".to_owned(),
        mem_mib: 64,
        dirty_pages: 256,
        gap_ms: 0,
        trial,
        branch_idx,
        pause_ms,
        diff_ms: pause_ms,
        diff_physical_bytes: 0,
        phases_ns: Vec::new(),
        start_unix_ms: 0,
        circumstances: Circumstances::default(),
    }
}
