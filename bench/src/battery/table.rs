//! The battery's table, in 80 columns, line by line as it comes about.

use super::judge::{Judgement, Seen, words};
use super::scenario::Scenario;

/// The heading.
pub fn heading() -> String {
    row("SCENARIO", "EXPECTED", "VERDICT", "SHARE", "UNEXPL", "OK")
}

/// One verdict. A scenario has two: with its cause in the way, and without.
pub fn line(scenario: &Scenario, is_injected: bool, seen: &Seen, judgement: &Judgement) -> String {
    let (name, expected) = match is_injected {
        true => (scenario.name.to_owned(), words(scenario.expected)),
        false => ("  uninjected".to_owned(), "another".to_owned()),
    };
    let ok = match judgement {
        Judgement::Right => "yes",
        Judgement::Wrong(_) | Judgement::Again(_) => "NO",
    };
    row(&name, &expected, seen.word(), &percent(seen.share), &percent(seen.unexplained), ok)
}

/// A scenario that could not be run, or failed on the way.
pub fn note(scenario: &Scenario, why: &str) -> String {
    format!("{:<16} {why}", scenario.name)
}

fn row(name: &str, expected: &str, verdict: &str, share: &str, unexplained: &str, ok: &str) -> String {
    format!(
        "{name:<16} {:<22} {:<19} {share:>6} {unexplained:>7} {ok:>4}",
        cut(expected, 22),
        cut(verdict, 19)
    )
}

fn percent(part: f64) -> String {
    format!("{:.1}%", part * 100.0)
}

fn cut(text: &str, columns: usize) -> String {
    match text.chars().count() > columns {
        true => text.chars().take(columns - 1).chain(['~']).collect(),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{heading, line};
    use crate::battery::judge::{Judgement, Seen};
    use crate::battery::scenarios::ALL;

    #[test]
    fn every_line_fits_80_columns() {
        assert!(heading().len() <= 80, "{}", heading());
        let seen = Seen {
            cause: Some("page_fault_userfaultfd".to_owned()),
            share: 1.0,
            unexplained: 1.0,
            shares: BTreeMap::new(),
            lost: 0,
            named: String::new(),
            window: (0, 1),
        };
        for scenario in ALL {
            for is_injected in [true, false] {
                let line = line(scenario, is_injected, &seen, &Judgement::Right);
                assert!(line.chars().count() <= 80 && line.contains("100.0%"), "{line}");
            }
        }
    }

    #[test]
    fn names_are_distinct_and_need_no_quotes() {
        for (at, scenario) in ALL.iter().enumerate() {
            assert!(ALL[..at].iter().all(|other| other.name != scenario.name), "{}", scenario.name);
            assert!(
                scenario.name.chars().all(|c| c.is_ascii_lowercase() || "-+".contains(c)),
                "{}",
                scenario.name
            );
        }
    }
}
