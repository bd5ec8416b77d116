//! The phases of a BRANCH, drawn over time.

use anstyle::{AnsiColor, Style};
use forkd::api::{Branch, BranchMode, PhaseSpan, SnapshotStatus};
use reports::units::{bytes, duration};

use super::output::plain;

/// Columns of the time axis.
const AXIS: u64 = 50;

/// What a BRANCH came to: one line, a bar for each phase, and what did not go as asked.
pub fn text(branch: &Branch) -> String {
    let mode = match branch.mode {
        BranchMode::Full => "full",
        BranchMode::Diff => "diff",
    };
    let mut text = format!(
        "{}: paused {}, {} written ({mode}, {}){}\n",
        branch.tag,
        duration(branch.pause_ns),
        bytes(branch.diff_physical_bytes),
        branch.data_path.name(),
        match branch.status {
            SnapshotStatus::Ready => "",
            SnapshotStatus::Writing => ", still going to disk",
            SnapshotStatus::Failed => ", failed",
        },
    );
    text.push_str(&bars(&branch.phases));
    for warning in &branch.warnings {
        text.push_str(&format!("! {}\n", plain(warning)));
    }
    text
}

/// One line for each phase that took time: its length, and a bar where it lies between the first begin and the
/// last end. Those in which the guest stood still stand out.
pub fn bars(phases: &[PhaseSpan]) -> String {
    let took_time = || phases.iter().filter(|span| span.ns > 0);
    let start = took_time().map(|span| span.start_ns).min().unwrap_or(0);
    let end = took_time().map(|span| span.start_ns + span.ns).max().unwrap_or(0);
    took_time().map(|span| bar(span, start, end)).collect()
}

fn bar(span: &PhaseSpan, start: u64, end: u64) -> String {
    let whole = u128::from((end - start).max(1));
    let column = |ns: u64| (u128::from(ns - start) * u128::from(AXIS) / whole) as usize;
    let from = column(span.start_ns).min(AXIS as usize - 1);
    // A phase that is too short for a column has one nevertheless.
    let wide = column(span.start_ns + span.ns).saturating_sub(from).max(1);
    let (style, block) = match span.phase.stops_the_guest() {
        true => (AnsiColor::Yellow.on_default(), "█"),
        false => (Style::new(), "░"),
    };
    let (name, length) = (span.phase.name(), duration(span.ns));
    format!("  {name:<8}{length:>9}  {}{style}{}{style:#}\n", " ".repeat(from), block.repeat(wide))
}

#[cfg(test)]
mod tests {
    use forkd::api::PhaseSpan;
    use probes_common::BranchPhase;

    use super::bars;

    #[test]
    fn a_phase_lies_where_its_time_was_and_one_that_took_none_is_left_out() {
        let span = |phase, start_us: u64, us: u64| PhaseSpan {
            phase,
            start_ns: 1_000_000 + start_us * 1000,
            ns: us * 1000,
        };
        let phases = [
            span(BranchPhase::Prepare, 0, 2_000),
            span(BranchPhase::Pause, 2_000, 600),
            span(BranchPhase::Create, 2_600, 4_900),
            span(BranchPhase::Resume, 7_500, 10),
            span(BranchPhase::Copy, 7_510, 0),
            span(BranchPhase::Publish, 7_510, 12_490),
        ];
        let shown = anstream::adapter::strip_str(&bars(&phases)).to_string();
        assert_eq!(
            shown,
            "  prepare   2.00 ms  ░░░░░\n  \
               pause      600 us       █\n  \
               create    4.90 ms        ████████████\n  \
               resume    10.0 us                    █\n  \
               publish   12.5 ms                    ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░\n"
        );
        assert_eq!(bars(&[]), "");
    }
}
