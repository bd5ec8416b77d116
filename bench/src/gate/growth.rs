//! Which parts of a BRANCH grew: phases, and causes where the pauses were attributed.

use probes_common::BranchPhase;

use crate::judge::median;

use super::side::{Part, SideCell};

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

/// The parts that both sides have: those in the pause first, and among them the one that grew most.
pub fn growth(a_parts: &[Part], a: &SideCell, b_parts: &[Part], b: &SideCell) -> Vec<Growth> {
    let middle = |parts: &[Part], cell: &SideCell, part: &Part| {
        let at = parts.iter().position(|other| other == part)?;
        let branches = cell.trials.iter().flat_map(|trial| &trial.parts_ms);
        median(&branches.filter_map(|parts| parts.get(at).copied()).collect::<Vec<f64>>())
    };
    let of = |part: &Part| {
        Some(Growth {
            kind: part.kind,
            name: part.name.clone(),
            in_pause: in_pause(part),
            a_ms: middle(a_parts, a, part)?,
            b_ms: middle(b_parts, b, part)?,
        })
    };
    let mut grown: Vec<Growth> = a_parts.iter().filter_map(of).collect();
    grown.sort_by(|one, other| {
        other.in_pause.cmp(&one.in_pause).then(other.grew_ms().total_cmp(&one.grew_ms()))
    });
    grown
}

/// A cause is always one of the pause.
fn in_pause(part: &Part) -> bool {
    let phase = BranchPhase::ALL.iter().find(|phase| phase.name() == part.name);
    part.kind == "cause" || phase.is_some_and(|phase| phase.stops_the_guest())
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
}
