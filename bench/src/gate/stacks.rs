//! Where the candidate waited longer, stack by stack.

use std::collections::BTreeMap;

use reports::offcpu::{OffCpu, Stack};
use serde::Serialize;

/// Stacks that are listed.
const LISTED: usize = 10;
/// Less growth in a pause is not listed.
const LEAST_MS: f64 = 0.05;

/// A kernel stack, and how long threads of Firecracker waited in it in a pause.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GrownStack {
    /// From the function that waits outwards.
    pub kernel: Vec<String>,
    /// In the baseline, in milliseconds a pause.
    pub a_ms: f64,
    /// In the candidate, in milliseconds a pause.
    pub b_ms: f64,
}

/// The kernel stacks in which `b` waited longer than `a` in a pause, the one that grew most first.
pub fn grown(a: &OffCpu, b: &OffCpu) -> Vec<GrownStack> {
    let (before, after) = (by_kernel_stack(a), by_kernel_stack(b));
    let of = |(kernel, b_ms): (&&[String], &f64)| {
        let a_ms = before.get(kernel).copied().unwrap_or_default();
        (b_ms - a_ms > LEAST_MS).then(|| GrownStack { kernel: kernel.to_vec(), a_ms, b_ms: *b_ms })
    };
    let mut grown: Vec<GrownStack> = after.iter().filter_map(of).collect();
    grown.sort_by(|one, other| (other.b_ms - other.a_ms).total_cmp(&(one.b_ms - one.a_ms)));
    grown.truncate(LISTED);
    grown
}

/// The report with the waits of the thread that writes the snapshot alone: the vCPU stands still by command, for as long
/// as that thread takes.
pub fn of_main_thread(report: &OffCpu) -> OffCpu {
    let mut report = report.clone();
    report.stacks.retain(|stack| stack.tid == report.pid);
    report
}

/// Milliseconds a pause of the same thread.
fn by_kernel_stack(report: &OffCpu) -> BTreeMap<&[String], f64> {
    let pauses = f64::from(report.windows.max(1));
    let mut sums = BTreeMap::new();
    let waits = |stack: &&Stack| stack.tid == report.pid && !stack.kernel.is_empty();
    for stack in report.stacks.iter().filter(waits) {
        *sums.entry(stack.kernel.as_slice()).or_default() += stack.ns as f64 / 1e6 / pauses;
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::{grown, of_main_thread};
    use reports::offcpu::OffCpu;

    fn report(windows: u32, stacks: &[(u32, &str, u64)]) -> OffCpu {
        let stack = |(tid, leaf, ms): &(u32, &str, u64)| {
            serde_json::json!({"tid": tid, "comm": "fc", "state": "uninterruptible", "ns": ms * 1_000_000,
                "count": 1, "kernel": [leaf, "fsync"], "user": [], "user_truncated": false, "waker": null})
        };
        let stacks: Vec<_> = stacks.iter().map(stack).collect();
        serde_json::from_value(serde_json::json!({"schema": "x", "pid": 7, "comm": "fc", "processes": [],
            "window_ns": 1, "windows": windows, "attach": "", "loss": {}, "warnings": [], "threads": [],
            "stacks": stacks, "cost": null}))
        .unwrap()
    }

    #[test]
    fn waits_are_a_pause_each_and_the_vcpu_is_left_out() {
        let a = report(2, &[(7, "wbt_wait", 4), (7, "jbd2_log_wait_commit", 2)]);
        let b = report(4, &[(7, "wbt_wait", 40), (7, "jbd2_log_wait_commit", 4), (8, "kvm_vcpu_block", 900)]);
        let grown = grown(&a, &b);
        let drawn = of_main_thread(&b);
        assert_eq!(drawn.stacks.iter().map(|stack| stack.tid).collect::<Vec<_>>(), [7, 7]);
        assert_eq!(grown.len(), 1);
        assert_eq!((grown[0].kernel[0].as_str(), grown[0].a_ms, grown[0].b_ms), ("wbt_wait", 2.0, 10.0));
    }
}
