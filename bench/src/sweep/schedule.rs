//! In which order a sweep measures.

use reports::sweep::Sweep;

use super::Settings;
use crate::cell::Cell;

/// One trial of one cell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step<'a> {
    /// What to measure.
    pub cell: &'a Cell,
    /// Which repetition, from 1.
    pub trial: u32,
    /// Its place among all steps of the sweep, from 1.
    pub order: u32,
}

/// Every cell once a trial, trial by trial, so that a drift of the host touches all cells alike. Within a trial
/// the order is drawn anew, so that no cell always follows the same one. It depends on the seed alone: a sweep
/// that is gone on with keeps it.
pub fn steps(settings: &Settings) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut random = fastrand::Rng::with_seed(settings.seed);
    for trial in 1..=settings.trials {
        let mut cells: Vec<&Cell> = settings.cells.iter().collect();
        random.shuffle(&mut cells);
        for cell in cells {
            let order = steps.len() as u32 + 1;
            steps.push(Step { cell, trial, order });
        }
    }
    steps
}

/// The steps of which `sweep` does not have every BRANCH.
pub fn remaining<'a>(settings: &'a Settings, sweep: &Sweep) -> Vec<Step<'a>> {
    let measured = |step: &Step| {
        let of_step = sweep.of_cell(&step.cell.name).filter(|sample| sample.trial == step.trial);
        of_step.count() as u64 == u64::from(settings.branches)
    };
    steps(settings).into_iter().filter(|step| !measured(step)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use forkd::api::DataPath;
    use reports::sweep::Sweep;

    use super::{Settings, remaining, steps};
    use crate::cell::{Matrix, Place, Root};
    use crate::sweep::testing::sample;

    fn settings(seed: u64) -> Settings {
        let places = Place::matrix(&DataPath::ALL, &[Root::Tmpfs]);
        Settings {
            cells: Matrix::of(places).cells(),
            trials: 4,
            branches: 2,
            durable: false,
            seed,
            drain_limit: Duration::ZERO,
            disk_note: None,
        }
    }

    fn names(settings: &Settings) -> Vec<String> {
        steps(settings).iter().map(|step| format!("{} {}", step.trial, step.cell.name)).collect()
    }

    #[test]
    fn each_trial_has_every_cell_once_in_an_order_that_only_the_seed_decides() {
        let settings = settings(7);
        let steps = steps(&settings);
        for (trial, of_trial) in (1..).zip(steps.chunks(5)) {
            assert!(of_trial.iter().all(|step| step.trial == trial));
            for cell in &settings.cells {
                assert_eq!(of_trial.iter().filter(|step| step.cell == cell).count(), 1);
            }
        }
        assert!(steps.iter().map(|step| step.order).eq(1..=20));
        assert_eq!(names(&settings), names(&self::settings(7)));
        assert_ne!(names(&settings), names(&self::settings(8)));
        let order = |trial: usize| steps[5 * trial..5 * trial + 5].iter().map(|step| &step.cell.name);
        assert!((1..4).any(|trial| !order(trial).eq(order(0))), "every trial has the same order");
    }

    #[test]
    fn what_is_whole_is_not_measured_again_and_the_rest_keeps_its_order() {
        let settings = settings(7);
        let all = steps(&settings);
        let mut sweep = Sweep::default();
        for step in &all[..2] {
            sweep.samples.extend((1..=2).map(|index| sample(&step.cell.name, step.trial, index, 1.0)));
        }
        sweep.samples.push(sample(&all[2].cell.name, all[2].trial, 1, 1.0));
        assert_eq!(remaining(&settings, &sweep), all[2..]);
    }
}
