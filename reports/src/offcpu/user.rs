//! How much of the user stacks is there, as renderings tell it.

use super::OffCpu;
use crate::units::duration;

/// `every user stack is whole`, or for how much of the stacks' time they are not.
pub fn wholeness(report: &OffCpu) -> String {
    let truncated = report.stacks.iter().filter(|stack| stack.user_truncated);
    let (stacks, ns) = truncated.fold((0, 0), |(stacks, ns), stack| (stacks + 1, ns + stack.ns));
    let all_ns: u64 = report.stacks.iter().map(|stack| stack.ns).sum();
    match stacks {
        0 => "every user stack is whole".to_owned(),
        _ => format!("user stacks truncated for {} of {}", duration(ns), duration(all_ns)),
    }
}

#[cfg(test)]
mod tests {
    use super::wholeness;
    use crate::offcpu::tests::report;

    #[test]
    fn the_time_of_truncated_stacks_is_summed() {
        let mut report = report();
        assert_eq!(wholeness(&report), "user stacks truncated for 1.38 s of 3.92 s");
        report.stacks.retain(|stack| !stack.user_truncated);
        assert_eq!(wholeness(&report), "every user stack is whole");
    }
}
