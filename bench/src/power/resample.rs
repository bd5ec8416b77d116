//! Rates from recorded blocks: whole blocks drawn with a seed, changed as asked, and judged as the gate would.

use serde::Serialize;

use crate::judge::{Block, Class, Look, Plan, Trial, decide, overall, weigh_blocks, weigh_trials};

use super::ALPHA;

/// How the candidate's pauses are made longer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Injected {
    /// Each by a share of itself, as by a slower machine.
    Multiplied,
    /// Each by a share of the median pause, as by a step that was added.
    Added,
}

/// How often each class came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Resamples.
    pub all: usize,
    /// Ended REGRESS.
    pub regress: usize,
    /// Ended PASS.
    pub pass: usize,
    /// Ended INCONCLUSIVE.
    pub inconclusive: usize,
    /// Ended INVALID.
    pub invalid: usize,
}

impl Counts {
    fn add(&mut self, class: Class) {
        self.all += 1;
        *match class {
            Class::Regress => &mut self.regress,
            Class::Pass => &mut self.pass,
            Class::Inconclusive => &mut self.inconclusive,
            Class::Invalid => &mut self.invalid,
        } += 1;
    }
}

/// Draws blocks, makes the candidate's pauses `percent` longer, and judges them by `plan`; `resamples` times.
///
/// Both sweeps of a block are of the same build, so which of them is the candidate's is a name: the one that was
/// taken first gets the name that the gate's order has first in that place, which keeps what the order does to a
/// sweep. With the names as they were recorded, the chance difference of the recorded arms would be in every rate.
pub fn paired(
    recorded: &[Block],
    plan: &Plan,
    (injected, percent, median_ms): (Injected, u32, f64),
    resamples: u32,
    random: &mut fastrand::Rng,
) -> Counts {
    let needed = plan.looks().last().map_or(0, |look| look.blocks);
    let mut counts = Counts::default();
    for _ in 0..resamples {
        let mut b_first = false;
        let draw = |index: usize| {
            // Of two blocks one begins with the baseline, as the gate takes them.
            b_first = if index.is_multiple_of(2) { random.bool() } else { !b_first };
            let drawn = &recorded[random.usize(..recorded.len())];
            let mut block = if drawn.b_first == b_first { drawn.clone() } else { drawn.swapped() };
            slow_down(&mut block.b_ms, injected, percent, median_ms);
            block
        };
        let blocks: Vec<Block> = (0..needed).map(draw).collect();
        counts.add(by_plan(plan, &blocks));
    }
    counts
}

/// Draws the trials of the arms from two different runs, the baseline's from the earlier one: what happens where all
/// of one arm is measured before all of the other.
pub fn unpaired(
    runs: &[Vec<Block>],
    trials: usize,
    (injected, percent, median_ms): (Injected, u32, f64),
    resamples: u32,
    random: &mut fastrand::Rng,
) -> Counts {
    let mut counts = Counts::default();
    let Ok(plan) = Plan::unpaired(ALPHA, (trials, trials), 1) else { return counts };
    let Some(look) = plan.looks().last().filter(|_| runs.len() > 1) else { return counts };
    for _ in 0..resamples {
        let earlier = random.usize(..runs.len() - 1);
        let later = random.usize(earlier + 1..runs.len());
        let mut draw = |run: usize| -> Vec<Trial> {
            (0..trials).map(|_| baseline(&runs[run][random.usize(..runs[run].len())])).collect()
        };
        let (a, mut b) = (draw(earlier), draw(later));
        b.iter_mut().for_each(|trial| slow_down(&mut trial.pauses_ms, injected, percent, median_ms));
        let evidence = weigh_trials(&a, &b, &look, None, 0);
        counts.add(overall(&decide(vec![evidence], &look)));
    }
    counts
}

/// The baseline's sweep of a block.
fn baseline(block: &Block) -> Trial {
    Trial { pauses_ms: block.a_ms.clone(), host: block.conditions.map(|conditions| conditions.a) }
}

fn slow_down(pauses_ms: &mut [f64], injected: Injected, percent: u32, median_ms: f64) {
    let share = f64::from(percent) / 100.0;
    for pause_ms in pauses_ms {
        *pause_ms += share * if injected == Injected::Multiplied { *pause_ms } else { median_ms };
    }
}

/// What the gate would say: it ends at the first look that finds a regression, or may pass and does.
fn by_plan(plan: &Plan, blocks: &[Block]) -> Class {
    let mut class = Class::Invalid;
    for look in plan.looks() {
        class = at_look(&blocks[..look.blocks.min(blocks.len())], &look);
        if class == Class::Regress || class == Class::Pass {
            break;
        }
    }
    class
}

fn at_look(blocks: &[Block], look: &Look) -> Class {
    overall(&decide(vec![weigh_blocks(blocks, look, None, 0)], look))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(seed: u64) -> Vec<Block> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut sweep = || (0..6).map(|_| 4.0 + random.f64()).collect::<Vec<f64>>();
        (0..20).map(|_| Block { a_ms: sweep(), b_ms: sweep(), b_first: false, conditions: None }).collect()
    }

    #[test]
    fn what_is_injected_is_found_and_what_is_not_is_not() {
        let (recorded, plan) = (blocks(1), Plan::once(ALPHA, 10, 1).unwrap());
        let rate = |change| paired(&recorded, &plan, change, 40, &mut fastrand::Rng::with_seed(2));
        for injected in [Injected::Multiplied, Injected::Added] {
            assert_eq!(rate((injected, 50, 4.5)).regress, 40);
            assert_eq!(rate((injected, 0, 4.5)).regress, 0);
        }
        assert_eq!(rate((Injected::Added, 20, 4.5)), rate((Injected::Added, 20, 4.5)), "the seed decides");
    }

    #[test]
    fn a_chance_difference_of_the_recorded_arms_is_no_false_alarm() {
        let mut recorded = blocks(1);
        // Half of the blocks have each order, and by their names the candidate is a tenth slower.
        for (index, block) in recorded.iter_mut().enumerate() {
            block.b_first = index.is_multiple_of(2);
            slow_down(&mut block.b_ms, Injected::Multiplied, 10, 0.0);
        }
        let plan = Plan::once(ALPHA, 20, 1).unwrap();
        let change = (Injected::Multiplied, 0, 4.5);
        let counts = paired(&recorded, &plan, change, 100, &mut fastrand::Rng::with_seed(2));
        assert!(counts.regress <= 4, "{counts:?}");
    }

    #[test]
    fn trials_of_two_runs_are_compared_without_pairing() {
        let mut later = blocks(2);
        later.iter_mut().for_each(|block| slow_down(&mut block.a_ms, Injected::Multiplied, 40, 0.0));
        let runs = [blocks(1), later];
        let counts = unpaired(&runs, 10, (Injected::Added, 0, 4.5), 20, &mut fastrand::Rng::with_seed(3));
        assert_eq!(counts.regress, 20, "a host that became slower is taken for a build that did");
    }
}
