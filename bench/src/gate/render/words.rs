//! Figures and sentences that more than one rendering has.

use crate::gate::compare::CellVerdict;
use crate::judge::Evidence;

/// `+12.3 %` of a ratio; a dash where there is none.
pub fn percent(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{:+.1} %", (ratio - 1.0) * 100.0))
}

/// `20 of 20 blocks, paired`.
pub fn design(evidence: &Evidence) -> String {
    let unit = match evidence.design {
        crate::judge::Design::Paired => "blocks",
        crate::judge::Design::Unpaired => "trials an arm",
    };
    format!("{} of {} {unit}, {}", evidence.valid, evidence.blocks, evidence.design.name())
}

/// One line that says the verdict on a cell and its reasons.
pub fn headline(cell: &CellVerdict) -> String {
    let verdict = &cell.verdict;
    format!(
        "{}: {} ({}): {}",
        cell.cell,
        verdict.class.name(),
        design(&verdict.evidence),
        verdict.reasons.join("; ")
    )
}
