//! Going on with a sweep that ended early.

use std::fs::{self, File};
use std::path::Path;

use reports::run::{Lab, Machine, Run, SCHEMA};
use reports::sweep::{Sweep, read};

use super::output::{RUN, SAMPLES};
use super::{Settings, plan};
use crate::Error;

/// What an earlier call measured.
#[derive(Clone, Debug)]
pub struct Earlier {
    /// Its `run.json`.
    pub run: Run,
    /// The samples of every trial that was whole.
    pub whole: Sweep,
    /// The samples of trials that were cut off: these are measured again.
    pub cut_off: Sweep,
}

/// Reads the sweep in `folder`, and the settings to go on with.
pub fn load(folder: &Path) -> Result<(Settings, Earlier), Error> {
    let path = folder.join(RUN);
    let refuse = |why: &str| Error::Usage(format!("cannot go on with {}: {why}", folder.display()));
    let json =
        fs::read(&path).map_err(|error| refuse(&format!("{} cannot be read: {error}", path.display())))?;
    let schema: Schema = serde_json::from_slice(&json).map_err(|error| refuse(&format!("{RUN}: {error}")))?;
    if schema.schema != SCHEMA {
        return Err(refuse(&format!("its {RUN} is {}, and this program writes {SCHEMA}", schema.schema)));
    }
    let run: Run = serde_json::from_slice(&json).map_err(|error| refuse(&format!("{RUN}: {error}")))?;
    let settings = plan::settings(&run.plan).map_err(|word| refuse(&format!("in its {RUN}: {word}")))?;
    let (whole, cut_off) = split(samples(folder)?, settings.branches);
    Ok((settings, Earlier { run, whole, cut_off }))
}

#[derive(serde::Deserialize)]
struct Schema {
    schema: String,
}

impl Earlier {
    /// Refuses a host that is not the one which measured the first part, in anything that pauses depend on.
    pub fn check_machine(&self, here: &Machine) -> Result<(), Error> {
        let there = &self.run.machine;
        let lab = |machine: &Machine| machine.lab.as_ref().map_or_else(|| "no lab".to_owned(), Lab::words);
        let facts = [
            ("kernel", there.kernel.clone(), here.kernel.clone()),
            ("processor", there.cpu_model.clone(), here.cpu_model.clone()),
            ("number of processors", there.cpus.to_string(), here.cpus.to_string()),
            ("emulation", lab(there), lab(here)),
        ];
        match facts.into_iter().find(|(_, there, here)| there != here) {
            None => Ok(()),
            Some((fact, there, here)) => Err(Error::Usage(format!(
                "the sweep began on another machine ({fact} {there}, here {here}): begin a new one with --out"
            ))),
        }
    }
}

fn samples(folder: &Path) -> Result<Sweep, Error> {
    let path = folder.join(SAMPLES);
    match File::open(&path) {
        Ok(file) => read(&path.display().to_string(), file).map_err(|error| Error::Usage(error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Sweep::default()),
        Err(error) => Err(Error::file("read", &path)(error)),
    }
}

/// Parts trials with all of their BRANCHes from those that were cut off.
fn split(sweep: Sweep, branches: u32) -> (Sweep, Sweep) {
    let Sweep { phases, samples } = sweep;
    let counted = samples.clone();
    let is_whole = |cell: &str, trial: u32| {
        let of_trial = counted.iter().filter(|sample| sample.cell == cell && sample.trial == trial);
        of_trial.count() as u64 == u64::from(branches)
    };
    let (whole, cut_off) = samples.into_iter().partition(|sample| is_whole(&sample.cell, sample.trial));
    (Sweep { phases: phases.clone(), samples: whole }, Sweep { phases, samples: cut_off })
}

#[cfg(test)]
mod tests {
    use reports::sweep::Sweep;

    use super::{load, split};
    use crate::sweep::testing::sample;

    #[test]
    fn a_trial_that_was_cut_off_is_set_aside_and_no_sample_is_lost() {
        let mut sweep = Sweep::default();
        for (cell, trial, branches) in [("a", 1, 3), ("b", 1, 3), ("a", 2, 2), ("b", 2, 3)] {
            sweep.samples.extend((1..=branches).map(|index| sample(cell, trial, index, 1.0)));
        }
        let (whole, cut_off) = split(sweep.clone(), 3);
        assert_eq!(whole.samples.len() + cut_off.samples.len(), sweep.samples.len());
        assert!(cut_off.samples.iter().all(|sample| (sample.cell.as_str(), sample.trial) == ("a", 2)));
        assert_eq!(cut_off.samples.len(), 2);
    }

    #[test]
    fn a_folder_without_a_sweep_or_with_another_programs_is_refused_in_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |json: &str| {
            std::fs::write(folder.path().join("run.json"), json).unwrap();
            let error = load(folder.path()).unwrap_err();
            assert_eq!((error.exit_code(), error.to_string().lines().count()), (2, 1));
            error.to_string()
        };
        assert_eq!(load(std::path::Path::new("/nonexistent")).unwrap_err().exit_code(), 2);
        assert!(refused("{").contains("run.json: EOF"));
        assert!(refused(r#"{"schema":"forkd.run/1"}"#).contains("is forkd.run/1, and this program writes"));
    }
}
