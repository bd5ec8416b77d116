//! Folded stacks: `comm-tid;user frames;kernel frames_[k] microseconds`, outermost frame first. A user stack
//! whose outermost frames are missing begins with `[truncated]`.
//!
//! Time in which a thread could have run, or stood still by command, ends in a frame of its own
//! (`[run queue]`, `[preempted]`, `[stopped]`, `[unknown]`): below the frames of a system call it
//! would be read as time that the call blocked.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{OffCpu, Stack, State};

/// Stands for outer user frames that are missing.
const TRUNCATED: &str = "[truncated]";

/// One line a stack, sorted by stack. Microseconds are rounded; a stack that rounds to 0 is left out.
pub fn render(report: &OffCpu) -> String {
    lines(report, |stack| format!("{}-{}", stack.comm, stack.tid))
}

/// The same without the numbers of threads, which differ from run to run.
pub fn by_name(report: &OffCpu) -> String {
    lines(report, |stack| stack.comm.clone())
}

fn lines(report: &OffCpu, thread: impl Fn(&Stack) -> String) -> String {
    let mut ns_by_stack: BTreeMap<String, u64> = BTreeMap::new();
    for stack in &report.stacks {
        *ns_by_stack.entry(path(&thread(stack), stack)).or_default() += stack.ns;
    }
    let mut lines = String::new();
    for (path, ns) in ns_by_stack {
        let us = (ns + 500) / 1_000;
        if us > 0 {
            writeln!(lines, "{path} {us}").expect("a String takes every write");
        }
    }
    lines
}

fn path(thread: &str, stack: &Stack) -> String {
    let mut frames = vec![escape(thread)];
    frames.extend(stack.user_truncated.then(|| TRUNCATED.to_owned()));
    frames.extend(stack.user.iter().rev().map(|frame| escape(frame)));
    frames.extend(stack.kernel.iter().rev().map(|frame| escape(frame) + "_[k]"));
    frames.extend(leaf(stack.state).map(str::to_owned));
    frames.join(";")
}

/// The frame that tells a thread which could have run from one which waits.
fn leaf(state: State) -> Option<&'static str> {
    match state {
        State::Interruptible | State::Uninterruptible => None,
        State::Stopped => Some("[stopped]"),
        State::Preempted => Some("[preempted]"),
        State::RunQueue => Some("[run queue]"),
        State::Unknown => Some("[unknown]"),
    }
}

/// `;` parts frames and a line end parts stacks, so neither may stand in a frame; nor may a frame be empty.
fn escape(frame: &str) -> String {
    match frame.trim() {
        "" => "[unnamed]".to_owned(),
        name => name.replace(';', ":").replace(char::is_control, " "),
    }
}

#[cfg(test)]
mod tests {
    use super::{escape, render};
    use crate::offcpu::tests::report;

    #[test]
    fn frames_keep_the_line_format_whatever_they_are_called() {
        assert_eq!(escape("a;b\nc\td"), "a:b c d");
        assert_eq!(escape(" "), "[unnamed]");
    }

    #[test]
    fn stacks_that_differ_only_in_the_waker_are_one_line() {
        let mut report = report();
        let mut again = report.stacks[0].clone();
        again.waker = None;
        report.stacks = vec![again.clone(), again];
        assert_eq!(render(&report).lines().count(), 1);
    }

    #[test]
    fn a_truncated_user_stack_says_so_where_its_root_would_be() {
        let mut report = report();
        report.stacks.truncate(1);
        report.stacks[0].user_truncated = true;
        assert_eq!(render(&report).split(';').nth(1), Some("[truncated]"));
        report.stacks[0].user_truncated = false;
        assert!(!render(&report).contains("[truncated]"));
    }

    #[test]
    fn a_stack_under_half_a_microsecond_is_left_out() {
        let mut report = report();
        report.stacks.truncate(1);
        report.stacks[0].ns = 499;
        assert_eq!(render(&report), "");
    }
}
