//! Whether a verdict is the right one.

use std::collections::BTreeMap;

use super::explain::Explained;
use super::scenario::{Expected, Scenario};

/// A cause is decisive from this part of the window on. A verdict for less would be chance.
const DECISIVE: f64 = 0.6;
/// How far the share of a cause may be from what is known from outside.
const TOLERANCE: f64 = 0.1;
/// Causes that the window of any BRANCH may have by itself, and none of them is an injection that did not happen. On
/// a busy host a CPU is one of them.
const ITS_OWN: [&str; 3] = ["dirty_page_copy", "page_fault_minor", RUN_QUEUE];
/// What a busy host does to any window.
const RUN_QUEUE: &str = "run_queue";

/// What an explanation says, as far as it is judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// The cause that took longest.
    pub cause: Option<String>,
    /// Its part of the window.
    pub share: f64,
    /// The part of the window that nothing was found for.
    pub unexplained: f64,
    /// The part of each cause.
    pub shares: BTreeMap<String, f64>,
    /// Events that were lost inside the window.
    pub lost: u64,
    /// Who and what is named beside the cause: its sentence, its chain, and the passive waiters.
    pub named: String,
    /// First nanosecond of the window, and the one after it.
    pub window: (u64, u64),
}

impl Seen {
    /// What `explain` says.
    pub fn of(explain: &Explained) -> Self {
        let part = |ns: u64| ns as f64 / explain.window_ns.max(1) as f64;
        Self {
            cause: explain.verdict.cause.clone(),
            share: explain.verdict.share,
            unexplained: part(explain.unexplained_ns),
            shares: explain.causes.iter().map(|cause| (cause.cause.clone(), part(cause.ns))).collect(),
            lost: explain.verdict.lost,
            named: named(explain),
            window: (explain.window.start_ns, explain.window.end_ns),
        }
    }

    /// The verdict in a word.
    pub fn word(&self) -> &str {
        self.cause.as_deref().unwrap_or("unexplained")
    }

    fn share_of(&self, ids: &[&str]) -> f64 {
        ids.iter().filter_map(|id| self.shares.get(*id)).sum()
    }
}

fn named(explain: &Explained) -> String {
    let top = explain.causes.iter().find(|cause| Some(&cause.cause) == explain.verdict.cause.as_ref());
    let chain = top.into_iter().flat_map(|cause| &cause.chain);
    let waiters = explain.passive_waiters.iter().map(|waiter| &waiter.comm);
    let parts: Vec<&str> = chain.chain(waiters).map(String::as_str).collect();
    format!("{}\n{}", explain.verdict.sentence, parts.join("\n"))
}

/// What is to be said of a verdict.
#[derive(Clone, Debug, PartialEq)]
pub enum Judgement {
    /// It is the right one.
    Right,
    /// It is not, and why.
    Wrong(String),
    /// The window was not what it was to be, which is nobody's verdict: to be done again.
    Again(String),
}

/// Judges the verdict on a window into which a scenario's cause was injected, of which `known` are the shares that are
/// known.
pub fn injected(scenario: &Scenario, seen: &Seen, known: &[f64], all: &[Expected]) -> Judgement {
    match verdict(scenario.expected, seen, known, all) {
        Judgement::Right => match scenario.names.iter().find(|name| !seen.named.contains(**name)) {
            Some(name) => Judgement::Wrong(format!("the cause is right, and nothing names {name}")),
            None => Judgement::Right,
        },
        other => other,
    }
}

fn verdict(expected: Expected, seen: &Seen, known: &[f64], all: &[Expected]) -> Judgement {
    if seen.lost > 0 {
        return Judgement::Again(format!("{} events were lost in the window", seen.lost));
    }
    match expected {
        Expected::OneOf(_) if known.first().is_some_and(|share| *share < DECISIVE) => {
            Judgement::Again(format!("the injection took {:.0} % of the window only", known[0] * 100.0))
        }
        Expected::OneOf(ids) => match ids.contains(&seen.word()) {
            true => Judgement::Right,
            // Others on the host may have the CPUs at this moment.
            false if seen.word() == RUN_QUEUE => Judgement::Again("the host is busy".to_owned()),
            false => Judgement::Wrong(format!("expected {}", ids.join(" or "))),
        },
        Expected::Shares(_) if known.iter().any(|share| *share < 2.0 * TOLERANCE) => {
            Judgement::Again("one of the two injections took too little of the window".to_owned())
        }
        Expected::Shares(causes) => shares(causes, seen, known),
        Expected::Nothing => nothing(seen, all),
    }
}

fn shares(causes: &[&[&str]], seen: &Seen, known: &[f64]) -> Judgement {
    if causes.len() != known.len() {
        return Judgement::Wrong(format!("{} shares are known, and not {}", known.len(), causes.len()));
    }
    let wrong =
        causes.iter().zip(known).find(|(ids, known)| (seen.share_of(ids) - **known).abs() > TOLERANCE);
    match wrong {
        None => Judgement::Right,
        Some((ids, known)) => {
            let (ids, said) = (ids.join(" or "), seen.share_of(ids) * 100.0);
            Judgement::Wrong(format!("{ids} took {:.0} % of the window, and not {said:.0} %", known * 100.0))
        }
    }
}

fn nothing(seen: &Seen, all: &[Expected]) -> Judgement {
    let injected = all.iter().flat_map(|expected| ids(*expected)).filter(|id| !ITS_OWN.contains(id));
    match injected.into_iter().any(|id| id == seen.word()) {
        true => Judgement::Wrong(format!("nothing was injected, and it says {}", seen.word())),
        false => Judgement::Right,
    }
}

/// Judges the verdict on a window into which nothing was injected.
pub fn uninjected(expected: Expected, seen: &Seen) -> Judgement {
    if seen.lost > 0 {
        return Judgement::Again(format!("{} events were lost in the window", seen.lost));
    }
    match ids(expected).contains(&seen.word()) {
        true if seen.word() == RUN_QUEUE => Judgement::Again("the host is busy".to_owned()),
        true => Judgement::Wrong(format!("nothing was injected, and it says {}", seen.word())),
        false => Judgement::Right,
    }
}

/// Every id that a scenario expects.
fn ids(expected: Expected) -> Vec<&'static str> {
    match expected {
        Expected::OneOf(ids) => ids.to_vec(),
        Expected::Shares(causes) => causes.concat(),
        Expected::Nothing => Vec::new(),
    }
}

/// What is expected, in a few words.
pub fn words(expected: Expected) -> String {
    let more = |ids: &[&str]| match ids {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [one, rest @ ..] => format!("{one} +{}", rest.len()),
    };
    match expected {
        Expected::OneOf(ids) => more(ids),
        Expected::Shares(causes) => causes.iter().map(|ids| more(ids)).collect::<Vec<_>>().join(", "),
        Expected::Nothing => "nothing injected".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Expected, Judgement, Seen, injected, uninjected, verdict, words};
    use crate::battery::scenarios::ALL;

    const QUOTA: Expected = Expected::OneOf(&["cpu_quota", "stopped"]);
    const MIX: Expected = Expected::Shares(&[&["timer"], &["futex_contention", "futex_wait"]]);

    fn seen(shares: &[(&str, f64)]) -> Seen {
        Seen {
            cause: shares.first().map(|(cause, _)| (*cause).to_owned()),
            share: shares.first().map_or(0.0, |(_, share)| *share),
            unexplained: 0.0,
            shares: shares.iter().map(|(cause, share)| ((*cause).to_owned(), *share)).collect(),
            lost: 0,
            named: String::new(),
            window: (0, 1),
        }
    }

    fn is_right(expected: Expected, shares: &[(&str, f64)], known: &[f64]) -> Option<bool> {
        match verdict(expected, &seen(shares), known, &[QUOTA, MIX]) {
            Judgement::Right => Some(true),
            Judgement::Wrong(_) => Some(false),
            Judgement::Again(_) => None,
        }
    }

    #[test]
    fn one_cause_is_right_where_it_is_named_and_was_decisive() {
        assert_eq!(is_right(QUOTA, &[("cpu_quota", 0.9)], &[]), Some(true));
        assert_eq!(is_right(QUOTA, &[("stopped", 0.9)], &[0.95]), Some(true));
        assert_eq!(is_right(QUOTA, &[("timer", 0.5), ("cpu_quota", 0.4)], &[0.9]), Some(false));
        assert_eq!(is_right(QUOTA, &[("run_queue", 0.5), ("cpu_quota", 0.4)], &[0.9]), None, "a busy host");
        assert_eq!(is_right(QUOTA, &[], &[0.9]), Some(false));
        assert_eq!(is_right(QUOTA, &[("run_queue", 0.9)], &[0.5]), None);
    }

    #[test]
    fn two_causes_are_right_where_both_shares_are_close() {
        assert_eq!(is_right(MIX, &[("timer", 0.6), ("futex_contention", 0.4)], &[0.62, 0.38]), Some(true));
        assert_eq!(
            is_right(MIX, &[("timer", 0.6), ("futex_contention", 0.2), ("futex_wait", 0.2)], &[0.6, 0.4]),
            Some(true)
        );
        assert_eq!(is_right(MIX, &[("timer", 0.9), ("futex_contention", 0.1)], &[0.6, 0.4]), Some(false));
        assert_eq!(is_right(MIX, &[("timer", 0.6), ("futex_contention", 0.4)], &[0.6]), Some(false));
        assert_eq!(is_right(MIX, &[("timer", 0.9)], &[0.9, 0.1]), None);
    }

    #[test]
    fn without_an_injection_none_of_its_causes_may_be_named() {
        assert_eq!(is_right(Expected::Nothing, &[("dirty_page_copy", 0.9)], &[]), Some(true));
        assert_eq!(is_right(Expected::Nothing, &[("timer", 0.9)], &[]), Some(false));
        assert_eq!(uninjected(QUOTA, &seen(&[("dirty_page_copy", 0.9)])), Judgement::Right);
        assert!(matches!(uninjected(QUOTA, &seen(&[("stopped", 0.9)])), Judgement::Wrong(_)));
        let rival = Expected::OneOf(&["run_queue"]);
        assert!(matches!(uninjected(rival, &seen(&[("run_queue", 0.9)])), Judgement::Again(_)));
    }

    #[test]
    fn the_right_cause_is_not_enough_where_somebody_is_to_be_named() {
        let futex = ALL.iter().find(|scenario| scenario.name == "futex").unwrap();
        let said = |named: &str| {
            let seen = Seen { named: named.to_owned(), ..seen(&[("futex_contention", 0.9)]) };
            injected(futex, &seen, &[], &[])
        };
        assert_eq!(said("held by holder(12).\npassive-1\npassive-2\npassive-3"), Judgement::Right);
        let wrong = said("held by main(11).\npassive-1\npassive-2\npassive-3");
        assert_eq!(wrong, Judgement::Wrong("the cause is right, and nothing names holder".to_owned()));
    }

    #[test]
    fn a_window_with_losses_is_judged_by_nobody() {
        let lossy = Seen { lost: 3, ..seen(&[("cpu_quota", 0.9)]) };
        assert!(matches!(verdict(QUOTA, &lossy, &[], &[]), Judgement::Again(_)));
        assert!(matches!(uninjected(QUOTA, &lossy), Judgement::Again(_)));
    }

    #[test]
    fn what_is_expected_is_said_in_a_few_words() {
        assert_eq!(words(QUOTA), "cpu_quota +1");
        assert_eq!(words(MIX), "timer, futex_contention +1");
    }
}
