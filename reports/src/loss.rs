//! Events that were not recorded, as every rendering tells them.

use std::collections::BTreeMap;

/// Losses by cause.
type Losses = BTreeMap<String, u64>;

/// `no event lost (a, b)` or `7 events lost (a 7, b 0)`: every cause is named either way.
pub fn in_full(losses: &Losses) -> String {
    let causes: Vec<String> = match total(losses) {
        0 => losses.keys().cloned().collect(),
        _ => losses.iter().map(cause).collect(),
    };
    match causes.is_empty() {
        true => format!("{}, no cause was counted", count(losses)),
        false => format!("{} ({})", count(losses), causes.join(", ")),
    }
}

/// `no event lost` or `7 events lost (a 7)`: for a place with room for one short line.
pub fn in_short(losses: &Losses) -> String {
    let causes: Vec<String> = losses.iter().filter(|(_, lost)| **lost > 0).map(cause).collect();
    match causes.is_empty() {
        true => count(losses),
        false => format!("{} ({})", count(losses), causes.join(", ")),
    }
}

fn total(losses: &Losses) -> u64 {
    losses.values().sum()
}

fn count(losses: &Losses) -> String {
    match total(losses) {
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
    use std::collections::BTreeMap;

    use super::{in_full, in_short};

    #[test]
    fn every_cause_is_named_in_full_and_those_that_lost_something_in_short() {
        let mut losses: BTreeMap<String, u64> =
            ["ring_full", "stack_failed"].map(|cause| (cause.to_owned(), 0)).into();
        assert_eq!(in_full(&losses), "no event lost (ring_full, stack_failed)");
        assert_eq!(in_short(&losses), "no event lost");
        losses.insert("ring_full".to_owned(), 7);
        assert_eq!(in_full(&losses), "7 events lost (ring_full 7, stack_failed 0)");
        assert_eq!(in_short(&losses), "7 events lost (ring_full 7)");
        losses.clear();
        assert_eq!(in_full(&losses), "no event lost, no cause was counted");
    }
}
