//! Two sides, cell by cell: paired where they were taken in blocks, else trials against trials.

use crate::Error;
use crate::judge::{self, Block, Conditions, Design, Evidence, Host, Look, Plan, Verdict};

use super::columns::{ranges, refused};
use super::growth::{Growth, growth};
use super::side::{Side, SideCell, Trial};

/// What a comparison is told.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The threshold.
    pub alpha: f64,
    /// An absolute limit for the median pause of a sweep, in milliseconds.
    pub limit_ms: Option<f64>,
    /// Whether to judge what was taken on different machines.
    pub force: bool,
    /// Draws outcomes where there are too many to count.
    pub seed: u64,
}

/// The verdict on one cell, and where the time grew.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct CellVerdict {
    /// The cell; both where the sides name it differently.
    pub cell: String,
    /// The verdict.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Phases and causes, the one that grew most first.
    pub growth: Vec<Growth>,
}

/// Compares two files: one look at all there is.
pub fn files(a: &Side, b: &Side, rule: &Rule) -> Result<Vec<CellVerdict>, Error> {
    let pairs = match_cells(a, b)?;
    let paired = pairs.iter().all(|(one, other)| in_blocks(a, b, one, other));
    let plan = |(one, other): &(&SideCell, &SideCell)| match paired {
        true => Plan::once(rule.alpha, one.trials.len(), pairs.len()),
        false => Plan::unpaired(rule.alpha, (one.trials.len(), other.trials.len()), pairs.len()),
    };
    // The cell with the fewest blocks decides whether any verdict is possible.
    let fewest = pairs.iter().min_by_key(|(one, other)| one.trials.len().min(other.trials.len()));
    let Some(fewest) = fewest else { return Ok(Vec::new()) };
    let plan = plan(fewest).map_err(|error| refused(format_args!("{} and {}: {error}", a.file, b.file)))?;
    let Some(look) = plan.looks().last() else { return Ok(Vec::new()) };
    let design = if paired { Design::Paired } else { Design::Unpaired };
    Ok(at_look(a, b, &pairs, design, &look, rule))
}

/// Compares sides that were measured in blocks, at one look of a plan.
pub fn blocks_so_far(a: &Side, b: &Side, look: &Look, rule: &Rule) -> Result<Vec<CellVerdict>, Error> {
    Ok(at_look(a, b, &match_cells(a, b)?, Design::Paired, look, rule))
}

fn at_look(
    a: &Side,
    b: &Side,
    pairs: &[(&SideCell, &SideCell)],
    design: Design,
    look: &Look,
    rule: &Rule,
) -> Vec<CellVerdict> {
    let evidence = pairs.iter().map(|(one, other)| weigh(one, other, design, look, rule)).collect();
    let mut verdicts = judge::decide(evidence, look);
    if let Some(reason) = other_machine(a, b).filter(|_| !rule.force) {
        for verdict in &mut verdicts {
            verdict.class = judge::Class::Invalid;
            verdict.reasons = vec![reason.clone()];
        }
    }
    let grown = |(one, other): &(&SideCell, &SideCell)| growth(&a.parts, one, &b.parts, other);
    let cells = pairs.iter().zip(verdicts);
    cells
        .map(|(pair, verdict)| CellVerdict { cell: name(pair.0, pair.1), verdict, growth: grown(pair) })
        .collect()
}

fn weigh(a: &SideCell, b: &SideCell, design: Design, look: &Look, rule: &Rule) -> Evidence {
    let Rule { limit_ms, seed, .. } = *rule;
    match design {
        Design::Paired => judge::weigh_blocks(&blocks(a, b), look, limit_ms, seed),
        Design::Unpaired => judge::weigh_trials(&trials(a), &trials(b), look, limit_ms, seed),
    }
}

fn trials(cell: &SideCell) -> Vec<judge::Trial> {
    let trial = |trial: &Trial| judge::Trial { pauses_ms: trial.pauses_ms.clone(), host: trial.host };
    cell.trials.iter().map(trial).collect()
}

/// The blocks of a cell whose sides were taken in blocks.
pub fn blocks(a: &SideCell, b: &SideCell) -> Vec<Block> {
    let block = |(a, b): (&Trial, &Trial)| Block {
        a_ms: a.pauses_ms.clone(),
        b_ms: b.pauses_ms.clone(),
        b_first: b.began_unix_ms < a.began_unix_ms,
        conditions: conditions(a.host, b.host),
    };
    a.trials.iter().zip(&b.trials).map(block).collect()
}

/// What is known of one arm's host alone counts too.
fn conditions(a: Option<Host>, b: Option<Host>) -> Option<Conditions> {
    let known = a.is_some() || b.is_some();
    known.then(|| Conditions { a: a.unwrap_or_default(), b: b.unwrap_or_default() })
}

fn name(a: &SideCell, b: &SideCell) -> String {
    if a.name == b.name { a.name.clone() } else { format!("{} against {}", b.name, a.name) }
}

/// The cells of both sides by name; one cell each is compared whatever it is called.
fn match_cells<'a>(a: &'a Side, b: &'a Side) -> Result<Vec<(&'a SideCell, &'a SideCell)>, Error> {
    let pairs = match (a.cells.as_slice(), b.cells.as_slice()) {
        ([one], [other]) => vec![(one, other)],
        _ => {
            b.cells.iter().try_for_each(|cell| find(a, cell, b).map(drop))?;
            a.cells.iter().map(|cell| Ok((cell, find(b, cell, a)?))).collect::<Result<_, Error>>()?
        }
    };
    pairs.iter().try_for_each(|(one, other)| comparable(a, one, b, other))?;
    Ok(pairs)
}

/// The cell of `side` that is called as `cell` of `other` is.
fn find<'a>(side: &'a Side, cell: &SideCell, other: &Side) -> Result<&'a SideCell, Error> {
    side.cells.iter().find(|known| known.name == cell.name).ok_or_else(|| {
        let (other, line, name, file) = (&other.file, cell.line, &cell.name, &side.file);
        refused(format_args!("{other}, line {line}, column 'cell': {file} has no {name}"))
    })
}

/// Refuses cells that were not measured alike.
fn comparable(a: &Side, one: &SideCell, b: &Side, other: &SideCell) -> Result<(), Error> {
    let refuse = |column: &str, found: &str, expected: &str| {
        let (file, cell, line, first) = (&b.file, &other.name, other.line, &a.file);
        Err(refused(format_args!(
            "{file}, line {line}, column '{column}': {cell} has {found}, and {first} has {expected}"
        )))
    };
    for (column, value) in &other.conditions {
        let known = one.conditions.iter().find(|(known, _)| known == column);
        if let Some((_, known)) = known.filter(|(_, known)| known != value) {
            return refuse(column, &format!("'{value}'"), &format!("'{known}'"));
        }
    }
    let indices =
        |cell: &SideCell| cell.trials.first().map(|trial| trial.indices.clone()).unwrap_or_default();
    let (first, second) = (indices(one), indices(other));
    if first != second {
        let branches = |indices: &[u32]| format!("BRANCH {} in each trial", ranges(indices));
        return refuse("branch_idx", &branches(&second), &branches(&first));
    }
    Ok(())
}

/// Whether two cells were measured in blocks: in one run, each trial of one next to the same trial of the other.
fn in_blocks(a: &Side, b: &Side, one: &SideCell, other: &SideCell) -> bool {
    let numbers = |cell: &SideCell| cell.trials.iter().map(|trial| trial.number).collect::<Vec<_>>();
    if a.run_id.is_none() || a.run_id != b.run_id || numbers(one) != numbers(other) {
        return false;
    }
    let mut sweeps = Vec::new();
    for trial in one.trials.iter().chain(&other.trials) {
        let (Some(began), Some(ended)) = (trial.began_unix_ms, trial.ended_unix_ms) else { return false };
        sweeps.push((began, ended, trial.number));
    }
    sweeps.sort_unstable();
    let apart = sweeps.windows(2).all(|pair| pair[0].1 <= pair[1].0);
    apart && sweeps.chunks(2).all(|pair| pair[0].2 == pair[1].2)
}

fn other_machine(a: &Side, b: &Side) -> Option<String> {
    let (one, other) = (a.machine.as_ref()?, b.machine.as_ref()?);
    (one != other)
        .then(|| format!("the sides are of different machines ({one}; {other}): --force judges them"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::Class;

    const RULE: Rule = Rule { alpha: 0.01, limit_ms: None, force: false, seed: 0 };

    /// Sides of trials on a host as `rows` of these columns say, unpaired; the pauses are alike.
    fn on_host(columns: &str, row: &str) -> (Side, Side) {
        let side = |file: &str| {
            let mut csv = format!("trial,branch_idx,pause_ms,diff_ms,diff_physical_bytes,{columns}\n");
            for trial in 1..=12 {
                csv += &format!("{trial},1,{},1,0,{row}\n", 10.0 + f64::from(trial) * 0.01);
            }
            Side::read(file, csv.as_bytes()).unwrap()
        };
        (side("a"), side("b"))
    }

    #[test]
    fn a_host_that_did_not_do_its_part_is_invalid_in_blocks_and_without() {
        let gate =
            "host_steal_share,host_foreign_cpu_share,host_foreign_written_mib_s,host_dirty_mib,host_free_mib";
        let class = |columns, row| {
            let (a, b) = on_host(columns, row);
            files(&a, &b, &RULE).unwrap()[0].verdict.class
        };
        assert_eq!(class(gate, "0.9,0,0,5000,900"), Class::Invalid);
        assert_eq!(class(gate, "0.0,0,0,1,900"), Class::Pass);
        assert_eq!(class("steal_pct,pending_kib,guard", "90,1,"), Class::Invalid);
        assert_eq!(class("steal_pct,pending_kib,guard", "1,90000,dirty"), Class::Invalid);
        assert_eq!(class("guard", "memory+space"), Class::Invalid);
        assert_eq!(class("steal_pct,pending_kib,guard", "1,5000,dirty"), Class::Pass);
    }

    #[test]
    fn blocks_whose_files_have_a_sweep_s_guard_alone_are_judged_by_it() {
        let (a, mut b) = (side("a", 12, 10.0, 0, "m"), side("b", 12, 10.0, 1, "m"));
        for trial in &mut b.cells[0].trials {
            trial.host = Some(Host { space_was_low: true, ..Host::default() });
        }
        let verdict = &files(&a, &b, &RULE).unwrap()[0].verdict;
        assert_eq!((verdict.class, verdict.evidence.design), (Class::Invalid, Design::Paired));
        assert!(verdict.reasons[1].contains("candidate: under 64 MiB were free"), "{:?}", verdict.reasons);
    }

    #[test]
    fn several_cells_need_blocks_enough_for_all_of_them() {
        let cells = |file: &str, level_ms, second| {
            let mut side = side(file, 8, level_ms, second, "m");
            for name in ["2", "3", "4"] {
                side.cells.push(SideCell { name: name.to_owned(), ..side.cells[0].clone() });
            }
            side
        };
        let refused = files(&cells("a", 10.0, 0), &cells("b", 15.0, 1), &RULE).unwrap_err().to_string();
        assert!(refused.ends_with("which is 0.01 split over 4 cells: take 9 or more"), "{refused}");
    }

    /// A side of `trials` trials, 3 BRANCHes each, taken in blocks in turns.
    fn side(file: &str, trials: u64, level_ms: f64, second: u64, machine: &str) -> Side {
        let mut csv = String::from(
            "trial,branch_idx,pause_ms,diff_ms,diff_physical_bytes,run_id,start_unix_ms,machine\n",
        );
        for trial in 1..=trials {
            for index in 1..=3 {
                let pause_ms = level_ms + trial as f64 * 0.01 + index as f64 * 0.001;
                let turn = second ^ (trial % 2);
                let start = trial * 1000 + turn * 100 + index;
                csv += &format!("{trial},{index},{pause_ms},1,0,r,{start},{machine}\n");
            }
        }
        Side::read(file, csv.as_bytes()).unwrap()
    }

    #[test]
    fn one_run_in_turns_is_paired_and_anything_else_is_not() {
        let (a, b) = (side("a", 12, 10.0, 0, "m"), side("b", 12, 15.0, 1, "m"));
        let design = |a: &Side, b: &Side| files(a, b, &RULE).unwrap()[0].verdict.evidence.design;
        assert_eq!(design(&a, &b), Design::Paired);
        let other_run = Side { run_id: Some("s".to_owned()), ..b.clone() };
        assert_eq!(design(&a, &other_run), Design::Unpaired);
        let mut one_after_the_other = b.clone();
        for trial in &mut one_after_the_other.cells[0].trials {
            trial.began_unix_ms = trial.began_unix_ms.map(|ms| ms + 1_000_000);
            trial.ended_unix_ms = trial.ended_unix_ms.map(|ms| ms + 1_000_000);
        }
        assert_eq!(design(&a, &one_after_the_other), Design::Unpaired);
    }

    #[test]
    fn a_longer_pause_is_a_regression_and_the_same_is_a_pass() {
        let (a, b) = (side("a", 12, 10.0, 0, "m"), side("b", 12, 15.0, 1, "m"));
        assert_eq!(files(&a, &b, &RULE).unwrap()[0].verdict.class, Class::Regress);
        assert_eq!(files(&a, &side("b", 12, 10.0, 1, "m"), &RULE).unwrap()[0].verdict.class, Class::Pass);
    }

    #[test]
    fn other_machines_are_invalid_unless_forced() {
        let (a, b) = (side("a", 12, 10.0, 0, "m"), side("b", 12, 15.0, 1, "n"));
        assert_eq!(files(&a, &b, &RULE).unwrap()[0].verdict.class, Class::Invalid);
        let forced = Rule { force: true, ..RULE };
        assert_eq!(files(&a, &b, &forced).unwrap()[0].verdict.class, Class::Regress);
    }

    #[test]
    fn too_few_blocks_and_unequal_cells_are_refused() {
        let refused = |a: &Side, b: &Side| files(a, b, &RULE).unwrap_err().to_string();
        let few = refused(&side("a", 6, 10.0, 0, "m"), &side("b", 6, 15.0, 1, "m"));
        assert_eq!(few, "a and b: 6 blocks cannot reach p < 0.01: take 8 or more");
        let a = side("a", 12, 10.0, 0, "m");
        let mut shorter = side("b", 12, 15.0, 1, "m");
        shorter.cells[0].trials.iter_mut().for_each(|trial| trial.indices.truncate(2));
        assert_eq!(
            refused(&a, &shorter),
            "b, line 2, column 'branch_idx': pauses has BRANCH 1 to 2 in each trial, and a has BRANCH 1 to 3 in each trial"
        );
        shorter.cells[0].trials.iter_mut().for_each(|trial| trial.indices = vec![1, 2, 4]);
        assert!(
            refused(&a, &shorter).contains("has BRANCH 1 to 2, 4 in each trial, and a has BRANCH 1 to 3 in")
        );
        let mut two = a.clone();
        two.cells.push(SideCell { name: "naive@tmpfs".to_owned(), line: 38, ..a.cells[0].clone() });
        let two = Side { file: "two".to_owned(), ..two };
        for refused in [refused(&two, &a), refused(&a, &two)] {
            assert_eq!(refused, "two, line 38, column 'cell': a has no naive@tmpfs");
        }
        let mut larger = a.clone();
        larger.cells[0].conditions = vec![("gap_ms", "50".to_owned()), ("mem_mib", "512".to_owned())];
        let mut smaller = a.clone();
        smaller.cells[0].line = 9;
        smaller.cells[0].conditions = vec![("mem_mib", "128".to_owned()), ("neighbour", "none".to_owned())];
        assert_eq!(
            refused(&larger, &smaller),
            "a, line 9, column 'mem_mib': pauses has '128', and a has '512'"
        );
        smaller.cells[0].conditions[0].1 = "512".to_owned();
        assert!(files(&larger, &smaller, &RULE).is_ok(), "what one side does not name is not compared");
    }
}
