//! A sweep as CSV.

use std::io;

use super::{CIRCUMSTANCES, COLUMNS, START, Sample, Sweep, io_error, phase_column};

/// Why a sweep could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A sample does not have one length for each phase.
    #[error("sample {row} has {found} phase lengths, and the sweep has {expected} phases")]
    Phases {
        /// Which sample, from 1.
        row: usize,
        /// Phases of the sweep.
        expected: usize,
        /// Lengths in the sample.
        found: usize,
    },
    /// The CSV could not be put together.
    #[error("the sweep could not be written as CSV: {0}")]
    Io(#[from] io::Error),
}

/// The whole CSV of `sweep`, header first.
pub fn to_csv(sweep: &Sweep) -> Result<Vec<u8>, WriteError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let header = COLUMNS.iter().map(|&column| column.to_owned());
    let header = header.chain(sweep.phases.iter().map(|phase| phase_column(phase))).chain([START.to_owned()]);
    let header = header.chain(CIRCUMSTANCES.map(str::to_owned));
    writer.write_record(header).map_err(io_error)?;
    for (index, sample) in sweep.samples.iter().enumerate() {
        let (expected, found) = (sweep.phases.len(), sample.phases_ns.len());
        if expected != found {
            return Err(WriteError::Phases { row: index + 1, expected, found });
        }
        writer.write_record(fields(sample)).map_err(io_error)?;
    }
    Ok(writer.into_inner().map_err(|error| error.into_error())?)
}

fn fields(sample: &Sample) -> impl Iterator<Item = String> {
    let fixed: [String; COLUMNS.len()] = [
        sample.cell.clone(),
        sample.data_path.clone(),
        sample.root.clone(),
        sample.file_system.clone(),
        sample.mem_mib.to_string(),
        sample.dirty_pages.to_string(),
        sample.gap_ms.to_string(),
        sample.trial.to_string(),
        sample.branch_idx.to_string(),
        format!("{:.6}", sample.pause_ms),
        format!("{:.6}", sample.diff_ms),
        sample.diff_physical_bytes.to_string(),
    ];
    let phases = sample.phases_ns.iter().map(u64::to_string);
    let start = [sample.start_unix_ms.to_string()];
    fixed.into_iter().chain(phases).chain(start).chain(sample.circumstances.fields())
}
