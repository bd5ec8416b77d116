//! Which parts of a BRANCH grew: phases, and causes where the pauses were attributed.

use probes_common::BranchPhase;

use crate::judge::median;

use super::side::{Part, SideCell};

/// The kind of parts that an attribution named.
const CAUSE: &str = "cause";

/// What became of one part.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Growth {
    /// `phase` or `cause`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Whether the guest stands still in it; the others are beside the pause.
    pub in_pause: bool,
    /// Its median in the baseline, in milliseconds.
    pub a_ms: f64,
    /// Its median in the candidate, in milliseconds.
    pub b_ms: f64,
}

impl Growth {
    /// How much longer it is in the candidate, in milliseconds.
    pub fn grew_ms(&self) -> f64 {
        self.b_ms - self.a_ms
    }
}

/// The parts of both sides: those in the pause first, and among them the one that grew most. A cause that one side
/// does not have took no time there; a phase that one side does not have is not known there, and left out.
pub fn growth(a_parts: &[Part], a: &SideCell, b_parts: &[Part], b: &SideCell) -> Vec<Growth> {
    let attributed = [a_parts, b_parts].iter().all(|parts| parts.iter().any(|part| part.kind == CAUSE));
    let of = |part: &Part| {
        let absent_ms = || (attributed && part.kind == CAUSE).then_some(0.0);
        Some(Growth {
            kind: part.kind,
            name: part.name.clone(),
            in_pause: in_pause(part),
            a_ms: middle_ms(a_parts, a, part).or_else(absent_ms)?,
            b_ms: middle_ms(b_parts, b, part).or_else(absent_ms)?,
        })
    };
    let only_b = b_parts.iter().filter(|part| !a_parts.contains(part));
    let mut grown: Vec<Growth> = a_parts.iter().chain(only_b).filter_map(of).collect();
    grown.sort_by(|one, other| {
        other.in_pause.cmp(&one.in_pause).then(other.grew_ms().total_cmp(&one.grew_ms()))
    });
    grown
}

/// The median of a part over all BRANCHes of a cell; `None` where the side does not have it.
fn middle_ms(parts: &[Part], cell: &SideCell, part: &Part) -> Option<f64> {
    let at = parts.iter().position(|other| other == part)?;
    let branches = cell.trials.iter().flat_map(|trial| &trial.parts_ms);
    median(&branches.filter_map(|parts| parts.get(at).copied()).collect::<Vec<f64>>())
}

/// A cause is always one of the pause.
fn in_pause(part: &Part) -> bool {
    let phase = BranchPhase::ALL.iter().find(|phase| phase.name() == part.name);
    part.kind == CAUSE || phase.is_some_and(|phase| phase.stops_the_guest())
}

#[cfg(test)]
mod tests {
    use super::super::side::Side;
    use super::growth;

    #[test]
    fn the_phase_that_grew_most_comes_first_and_those_beside_the_pause_last() {
        let side = |row: &str| {
            let header = "trial,branch_idx,pause_ms,diff_ms,diff_physical_bytes,phase_copy_ns,phase_pause_ns,\
                          phase_create_ns,cause_wbt_ns";
            Side::read("x", format!("{header}\n1,1,5,4,0,{row}\n").as_bytes()).unwrap()
        };
        let (a, b) = (side("0,1000000,3000000,0"), side("90000000,1000000,5000000,1500000"));
        let grown = growth(&a.parts, &a.cells[0], &b.parts, &b.cells[0]);
        let names: Vec<_> = grown.iter().map(|part| (part.name.as_str(), part.grew_ms())).collect();
        assert_eq!(names, [("create", 2.0), ("wbt", 1.5), ("pause", 0.0), ("copy", 90.0)]);
    }

    #[test]
    fn a_cause_that_the_baseline_did_not_have_grew_from_nothing() {
        let side = |columns: &str, values: &str| {
            let header = format!("trial,branch_idx,pause_ms,diff_ms,diff_physical_bytes,{columns}");
            Side::read("x", format!("{header}\n1,1,5,4,0,{values}\n").as_bytes()).unwrap()
        };
        let (a, b) = (side("cause_copy_ns", "2000000"), side("cause_wbt_ns,phase_create_ns", "3000000,9"));
        let grown = growth(&a.parts, &a.cells[0], &b.parts, &b.cells[0]);
        let names: Vec<_> = grown.iter().map(|part| (part.name.as_str(), part.grew_ms())).collect();
        assert_eq!(names, [("wbt", 3.0), ("copy", -2.0)]);
    }
}
