//! Takes the frames of the tracing itself off the top of a kernel stack.

/// How far down the frames of the tracing reach at most.
const TRACING_DEPTH: usize = 8;

/// The stack from where the traced code begins.
///
/// How many frames the BPF program, its trampoline and the tracepoint put on top differs between kernels,
/// so the last of them is found by name. Those above it need no name: a program that has been unloaded
/// has none any more.
///
/// `__schedule` and `schedule` go as well, and `finish_task_switch` where that is the hook: every switch has them, and `/proc/PID/stack`, which stands
/// in where a thread was already asleep, leaves them out.
pub fn without_tracing<'a>(names: &'a [&'a str]) -> &'a [&'a str] {
    let top = &names[..names.len().min(TRACING_DEPTH)];
    let traced = top.iter().rposition(|name| is_tracing(name)).map_or(0, |last| last + 1);
    let rest = &names[traced..];
    let first = rest.iter().position(|name| !is_switching(name)).unwrap_or(rest.len());
    &rest[first..]
}

fn is_switching(name: &str) -> bool {
    matches!(name, "__schedule" | "schedule") || name.split('.').next() == Some("finish_task_switch")
}

fn is_tracing(name: &str) -> bool {
    const PREFIXES: [&str; 11] = [
        "bpf_prog_",
        "bpf_trampoline_",
        "bpf_trace_run",
        "bpf_get_stack",
        "__bpf_trace_",
        "__traceiter_",
        "__bpf_get_stack",
        "get_perf_callchain",
        "perf_trace_",
        "trace_call_bpf",
        "kprobe_",
    ];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::without_tracing;

    #[test]
    fn only_the_top_is_trimmed() {
        let names = [
            "0xffffffffc0001234",
            "bpf_trace_run4",
            "__traceiter_sched_switch",
            "__schedule",
            "schedule",
            "futex_wait_queue",
            "schedule",
            "do_syscall_64",
        ];
        assert_eq!(without_tracing(&names), ["futex_wait_queue", "schedule", "do_syscall_64"]);
    }

    #[test]
    fn a_stack_of_nothing_but_tracing_becomes_empty() {
        assert!(without_tracing(&["bpf_prog_x", "__schedule"]).is_empty());
        assert!(without_tracing(&[]).is_empty());
    }
}
