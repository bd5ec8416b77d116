//! Events that were not recorded, as every rendering tells them.

use super::OffCpu;

/// `no event lost (a, b)` or `7 events lost (a 7, b 0)`: every cause is named either way.
pub fn in_full(report: &OffCpu) -> String {
    let causes: Vec<String> = match total(report) {
        0 => report.loss.keys().cloned().collect(),
        _ => report.loss.iter().map(cause).collect(),
    };
    match causes.is_empty() {
        true => format!("{}, no cause was counted", count(report)),
        false => format!("{} ({})", count(report), causes.join(", ")),
    }
}

/// `no event lost` or `7 events lost (a 7)`: for a place with room for one short line.
pub fn in_short(report: &OffCpu) -> String {
    let causes: Vec<String> = report.loss.iter().filter(|(_, lost)| **lost > 0).map(cause).collect();
    match causes.is_empty() {
        true => count(report),
        false => format!("{} ({})", count(report), causes.join(", ")),
    }
}

fn total(report: &OffCpu) -> u64 {
    report.loss.values().sum()
}

fn count(report: &OffCpu) -> String {
    match total(report) {
        0 => "no event lost".to_owned(),
        1 => "1 event lost".to_owned(),
        many => format!("{many} events lost"),
    }
}

fn cause((cause, lost): (&String, &u64)) -> String {
    format!("{cause} {lost}")
}

#[cfg(test)]
mod tests {
    use super::{in_full, in_short};
    use crate::offcpu::tests::report;

    #[test]
    fn every_cause_is_named_in_full_and_those_that_lost_something_in_short() {
        let mut report = report();
        assert_eq!(in_full(&report), "no event lost (ring_full, stack_failed)");
        assert_eq!(in_short(&report), "no event lost");
        report.loss.insert("ring_full".to_owned(), 7);
        assert_eq!(in_full(&report), "7 events lost (ring_full 7, stack_failed 0)");
        assert_eq!(in_short(&report), "7 events lost (ring_full 7)");
        report.loss.clear();
        assert_eq!(in_full(&report), "no event lost, no cause was counted");
    }
}
