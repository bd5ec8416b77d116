//! Which command works by which rung on which kernel: a table of the tests that try one by one.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::lab::matrix;
use crate::test::record::Record;

/// What the names of such tests begin with; the command and the rung follow.
const TRIED: &str = "by_rung::";
const PASSES: &str = "pass";
const FAILS: &str = "FAILED";
const REFUSED: &str = "no";
const NOT_TRIED: &str = "-";
/// Why a command, or all but one of them, is tried by some rungs on no kernel.
const NEVER_TRIED: [(Option<&str>, &[&str], &str); 3] = [
    (Some("explain"), &["tracepoint"], "it records the whole machine, which a tracepoint's programs cannot"),
    (
        Some("wbt_waits"),
        &["tp_btf", "raw_tracepoint", "tracepoint"],
        "waits in the throttle are seen at its functions, or by stacks",
    ),
    (None, &["stacks"], "only waits in the throttle (wbt_waits) are seen like this"),
];

/// One row: a kernel and a rung.
type Row<'a> = (&'a str, &'a str);

/// A row for each kernel and rung, a column for each command, and below it why there is a "no" or, on every kernel, a "-";
/// `None` where no such test ran.
pub fn of(record: &Record) -> Option<String> {
    let mut table = Table::default();
    for name in &record.passed {
        table.put(name, PASSES);
    }
    for name in &record.failed {
        table.put(name, FAILS);
    }
    for (name, reason) in &record.skipped {
        let why = table.put(name, REFUSED).map(|row| (row, reason.as_str()));
        if let Some(why) = why.filter(|why| !table.reasons.contains(why)) {
            table.reasons.push(why);
        }
    }
    (!table.rows.is_empty()).then(|| table.text())
}

#[derive(Default)]
struct Table<'a> {
    /// Outcomes by command.
    rows: BTreeMap<Row<'a>, BTreeMap<&'a str, &'static str>>,
    commands: Vec<&'a str>,
    reasons: Vec<(Row<'a>, &'a str)>,
}

impl<'a> Table<'a> {
    fn put(&mut self, name: &'a str, outcome: &'static str) -> Option<Row<'a>> {
        let kernel = matrix::kernel_of(name)?;
        // After package and binary.
        let test = matrix::outside(name)?.splitn(3, "::").nth(2)?;
        let (command, rung) = test.strip_prefix(TRIED)?.split_once("::")?;
        if !self.commands.contains(&command) {
            self.commands.push(command);
        }
        self.rows.entry((kernel, rung)).or_default().insert(command, outcome);
        Some((kernel, rung))
    }

    fn text(&self) -> String {
        let mut text = format!("{:<7}{:<16}", "kernel", "rung");
        let mut commands = self.commands.clone();
        commands.sort_unstable();
        // Writing to a String cannot fail.
        for command in &commands {
            let _ = write!(text, "{command:<11}");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        for ((kernel, rung), outcomes) in &self.rows {
            let mut row = format!("{kernel:<7}{rung:<16}");
            for command in &commands {
                let _ = write!(row, "{:<11}", outcomes.get(command).unwrap_or(&NOT_TRIED));
            }
            let _ = writeln!(text, "{}", row.trim_end());
        }
        for ((kernel, rung), reason) in &self.reasons {
            let _ = writeln!(text, "{kernel} {rung}: {reason}");
        }
        for (command, rungs, reason) in NEVER_TRIED {
            let is_shown = |rung: &&&str| self.rows.keys().any(|(_, shown)| shown == *rung);
            let shown: Vec<&str> = rungs.iter().filter(is_shown).copied().collect();
            if command.is_none_or(|command| commands.contains(&command)) && !shown.is_empty() {
                let command = command.unwrap_or("all others");
                let _ = writeln!(text, "- {command} by {}: {reason}", shown.join(", "));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rung_that_passed_failed_or_is_refused_has_its_place() {
        let name = |test: &str| format!("lab-6.1::probes::by_rung::by_rung::{test}");
        let refused = ["offcpu::fentry", "futex::fentry"].map(|test| (name(test), "renamed".to_owned()));
        let record = Record {
            passed: vec![name("offcpu::kprobe"), "probes::by_rung::by_rung::offcpu::kprobe".to_owned()],
            failed: vec![name("futex::kprobe"), "lab-6.1::probes::by_rung: it ended".to_owned()],
            skipped: refused.into(),
            ..Record::default()
        };
        let expected = "\
kernel rung            futex      offcpu
6.1    fentry          no         no
6.1    kprobe          FAILED     pass
6.1 fentry: renamed
";
        assert_eq!(of(&record).as_deref(), Some(expected));
        assert_eq!(of(&Record::default()), None);
    }

    #[test]
    fn what_is_not_tried_on_any_kernel_has_its_reason_below() {
        let passed = ["futex::tracepoint", "explain::kprobe"]
            .map(|test| format!("lab-6.1::probes::by_rung::by_rung::{test}"))
            .to_vec();
        let expected = "\
kernel rung            explain    futex
6.1    kprobe          pass       -
6.1    tracepoint      -          pass
- explain by tracepoint: it records the whole machine, which a tracepoint's programs cannot
";
        assert_eq!(of(&Record { passed, ..Record::default() }).as_deref(), Some(expected));
    }
}
