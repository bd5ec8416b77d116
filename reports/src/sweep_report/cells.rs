//! The figures of one cell, as tables have them.

use crate::stats::{Spread, quantile};
use crate::sweep::{Sample, Sweep};

/// The pauses of one cell, and what must be known about them.
#[derive(Clone, Debug, PartialEq)]
pub struct CellFigures {
    /// Its name.
    pub cell: String,
    /// Trials.
    pub trials: usize,
    /// BRANCHes, of all trials.
    pub branches: usize,
    /// Of all of them.
    pub pause_ms: Spread,
    /// The pause that 95 % of them did not exceed.
    pub p95_ms: f64,
    /// Median of BRANCHes 1 and 2.
    pub early_ms: Option<f64>,
    /// Median of BRANCH 3 and all after it, on which the writeback of those before may lie.
    pub late_ms: Option<f64>,
    /// Median of what Firecracker wrote of the guest's memory.
    pub memory_bytes: u64,
    /// Median of what the block device was told to write, where there is one.
    pub device_bytes: Option<u64>,
    /// BRANCHes at which the host guard found something wrong.
    pub guarded: usize,
}

impl CellFigures {
    /// The figures of `cell`; `None` where it has no samples.
    pub fn of(sweep: &Sweep, cell: &str) -> Option<Self> {
        let samples: Vec<&Sample> = sweep.of_cell(cell).collect();
        let mut trials: Vec<u32> = samples.iter().map(|sample| sample.trial).collect();
        trials.sort_unstable();
        trials.dedup();
        let pauses: Vec<f64> = samples.iter().map(|sample| sample.pause_ms).collect();
        let of_indices = |from: u32, to: u32| {
            let within = samples.iter().filter(|sample| (from..=to).contains(&sample.branch_idx));
            Spread::of(within.map(|sample| sample.pause_ms)).map(|spread| spread.median)
        };
        let device = samples.iter().filter_map(|sample| sample.circumstances.disk_written_bytes);
        Some(Self {
            cell: cell.to_owned(),
            trials: trials.len(),
            branches: samples.len(),
            pause_ms: Spread::of(pauses.iter().copied())?,
            p95_ms: quantile(pauses, 0.95)?,
            early_ms: of_indices(1, 2),
            late_ms: of_indices(3, u32::MAX),
            memory_bytes: median(samples.iter().map(|sample| sample.diff_physical_bytes)).unwrap_or(0),
            device_bytes: median(device),
            guarded: samples.iter().filter(|sample| !sample.circumstances.guard.is_empty()).count(),
        })
    }
}

fn median(bytes: impl Iterator<Item = u64>) -> Option<u64> {
    Spread::of(bytes.map(|bytes| bytes as f64)).map(|spread| spread.median as u64)
}

#[cfg(test)]
mod tests {
    use super::CellFigures;
    use crate::sweep::read;

    #[test]
    fn the_figures_of_a_cell_are_those_of_its_samples() {
        let csv = include_str!("../../tests/golden/sweep.csv");
        let mut sweep = read("sweep.csv", csv.as_bytes()).unwrap();
        sweep.samples.retain(|sample| sample.cell == "naive@tmpfs" && sample.trial == 1);
        sweep.samples[1].circumstances.guard = "steal".to_owned();
        let cell = CellFigures::of(&sweep, "naive@tmpfs").unwrap();
        assert_eq!((cell.trials, cell.branches, cell.guarded, cell.device_bytes), (1, 6, 1, None));
        // 34.098305, 37.564699, 15.248187, 16.156604, 34.090326, 33.911667
        assert!((cell.p95_ms - 37.564_699).abs() < 1e-6 && (cell.pause_ms.min - 15.248_187).abs() < 1e-6);
        assert!((cell.early_ms.unwrap() - 35.831_502).abs() < 1e-6, "{cell:?}");
        assert!((cell.late_ms.unwrap() - 25.034_135_5).abs() < 1e-6, "{cell:?}");
        assert_eq!(CellFigures::of(&sweep, "naive@floppy"), None);
    }
}
