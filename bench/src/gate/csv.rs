//! The samples of one arm as CSV: those of a sweep, and what pairs and qualifies them.

use std::collections::BTreeSet;

use reports::sweep::{Sample, Sweep, to_csv};

use crate::Error;
use crate::judge::Host;

use super::causes::Causes;
use super::columns::HOST;

/// One sweep of one arm.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    /// Its BRANCHes, in their order.
    pub samples: Vec<Sample>,
    /// What the host did meanwhile.
    pub host: Host,
    /// Causes of each pause; empty where the daemon attributes none.
    pub causes: Vec<Causes>,
}

/// What all rows of a file share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Names the run, so that files of one run are known as such.
    pub run_id: String,
    /// Kernel and machine.
    pub machine: String,
    /// Names of the phases, in the order in which samples have them.
    pub phases: Vec<String>,
}

/// The CSV that [`super::Side::read`] reads.
pub fn render(sweeps: &[Taken], shared: &Shared) -> Result<Vec<u8>, Error> {
    let mut samples: Vec<Sample> = sweeps.iter().flat_map(|taken| taken.samples.iter().cloned()).collect();
    for sample in &mut samples {
        sample.circumstances.run_id.clone_from(&shared.run_id);
    }
    let plain = to_csv(&Sweep { phases: shared.phases.clone(), samples }).map_err(refused)?;
    let none = Causes::new();
    let more = sweeps.iter().flat_map(|taken| {
        let causes = taken.causes.iter().chain(std::iter::repeat(&none));
        taken.samples.iter().zip(causes).map(|(_, causes)| (taken.host, causes))
    });
    let names = cause_names(sweeps);
    let mut reader = csv::Reader::from_reader(plain.as_slice());
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut header = reader.headers().map_err(refused)?.clone();
    header.extend(["machine"].iter().chain(&HOST));
    for name in &names {
        header.push_field(&format!("cause_{name}_ns"));
    }
    writer.write_record(&header).map_err(refused)?;
    for (record, (host, causes)) in reader.records().zip(more) {
        let mut record = record.map_err(refused)?;
        record.extend([&shared.machine]);
        record.extend(host_fields(host));
        record.extend(names.iter().map(|name| causes.get(name.as_str()).copied().unwrap_or(0).to_string()));
        writer.write_record(&record).map_err(refused)?;
    }
    writer.into_inner().map_err(refused)
}

/// Every cause of any pause.
fn cause_names(sweeps: &[Taken]) -> BTreeSet<&String> {
    sweeps.iter().flat_map(|taken| &taken.causes).flat_map(Causes::keys).collect()
}

fn host_fields(host: Host) -> [String; HOST.len()] {
    let Host { steal_share, foreign_cpu_share, foreign_written_mib_s, dirty_mib, free_mib, .. } = host;
    [steal_share, foreign_cpu_share, foreign_written_mib_s, dirty_mib, free_mib]
        .map(|figure| figure.map_or_else(String::new, |figure| format!("{figure:.4}")))
}

fn refused(error: impl ToString) -> Error {
    Error::Render { file: "the samples".to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::super::Side;
    use super::*;

    #[test]
    fn what_is_written_is_read_as_a_side() {
        let sample = |trial, branch_idx| Sample {
            cell: "stage@tmpfs".to_owned(),
            data_path: "stage".to_owned(),
            root: "tmpfs".to_owned(),
            file_system: "tmpfs".to_owned(),
            mem_mib: 64,
            dirty_pages: 256,
            gap_ms: 0,
            trial,
            branch_idx,
            pause_ms: f64::from(branch_idx) * 4.0,
            diff_ms: 1.0,
            diff_physical_bytes: 0,
            phases_ns: vec![3_000_000],
            start_unix_ms: u64::from(trial * 10 + branch_idx),
            circumstances: reports::sweep::Circumstances::default(),
        };
        let host = |trial: u32| Host {
            steal_share: Some(0.25 / f64::from(trial)),
            foreign_cpu_share: Some(0.0),
            foreign_written_mib_s: Some(0.0),
            dirty_mib: Some(0.0),
            free_mib: Some(7.0),
            space_was_low: false,
        };
        let causes = |ns| Causes::from([("wbt".to_owned(), ns)]);
        let taken = |trial| Taken {
            samples: vec![sample(trial, 1), sample(trial, 2)],
            host: host(trial),
            causes: vec![Causes::new(), causes(2_500_000)],
        };
        let shared = Shared {
            run_id: "run".to_owned(),
            machine: "Linux 6, 2 x \"a, b\"".to_owned(),
            phases: vec!["create".to_owned()],
        };
        let side = Side::read("x", render(&[taken(1), taken(2)], &shared).unwrap().as_slice()).unwrap();
        assert_eq!((side.run_id, side.machine), (Some(shared.run_id), Some(shared.machine)));
        let trials = &side.cells[0].trials;
        assert_eq!(trials[1].pauses_ms, [4.0, 8.0]);
        assert_eq!(trials[1].host, Some(host(2)));
        assert_eq!((trials[0].began_unix_ms, trials[0].ended_unix_ms), (Some(11), Some(12)));
        assert_eq!(trials[0].parts_ms, [[3.0, 0.0], [3.0, 2.5]]);
        assert_eq!((side.parts[1].kind, side.parts[1].name.as_str()), ("cause", "wbt"));
    }
}
