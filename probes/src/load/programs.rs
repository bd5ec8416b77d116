//! What there is to load: each program, what it is attached to, and with which others it is of use.

use super::rung::SwitchRung;

/// Programs that are of use together. Those of a group that no [`Plan`](super::Plan) names cost nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Switches, wake-ups and births, by one [`SwitchRung`].
    Sched,
    /// Which interrupt's handler runs: names wakers in interrupts.
    Interrupts,
    /// System calls, entered and left.
    Calls,
    /// Requests to block devices.
    Block,
    /// Journal commits, and syncs of files.
    Journal,
    /// ext4's search for free blocks.
    Allocate,
    /// Pages that become dirty, and the pauses of those who dirty too many.
    Dirty,
    /// What writeback throttling measures and decides.
    Wbt,
    /// Threads that are held back before they may submit, by the functions in which they are. One of two rungs.
    Throttle(Rung),
}

/// Ways to see a function entered and left, the better first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// Programs at its entry and exit, by its type.
    Fentry,
    /// Probes at its first instruction and at its return.
    Kprobe,
}

/// What a program is attached to.
#[derive(Clone, Copy, Debug)]
pub enum Hook {
    /// A tracepoint whose arguments have types.
    TpBtf {
        /// Its name.
        tracepoint: &'static str,
        /// How many of its arguments the program reads.
        arguments: usize,
    },
    /// A tracepoint by its name alone: of a module as well.
    Raw {
        /// Its name.
        tracepoint: &'static str,
    },
    /// A tracepoint by its printed form.
    Tracepoint {
        /// Its folder in tracefs.
        category: &'static str,
        /// Its name.
        tracepoint: &'static str,
    },
    /// The entry of a function.
    Fentry {
        /// Its name.
        function: &'static str,
    },
    /// The exit of a function.
    Fexit {
        /// Its name.
        function: &'static str,
    },
    /// The first instruction of a function, or its return: the program says which.
    Kprobe {
        /// Its name.
        function: &'static str,
    },
}

impl Hook {
    /// As reports name it.
    pub fn name(self) -> String {
        match self {
            Self::TpBtf { tracepoint, .. } => format!("tp_btf/{tracepoint}"),
            Self::Raw { tracepoint } => format!("raw_tp/{tracepoint}"),
            Self::Tracepoint { category, tracepoint } => format!("tracepoint/{category}:{tracepoint}"),
            Self::Fentry { function } => format!("fentry/{function}"),
            Self::Fexit { function } => format!("fexit/{function}"),
            Self::Kprobe { function } => format!("kprobe/{function}"),
        }
    }
}

/// What becomes of a recording for which a program is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It is refused as well, or another rung is tried.
    Required,
    /// It goes on with less.
    Optional,
}

/// One program.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its group.
    pub group: Group,
    /// The ways of seeing switches that it belongs to; empty where it belongs to none.
    pub rungs: &'static [SwitchRung],
    /// Its name in the object.
    pub name: &'static str,
    /// What it is attached to.
    pub hook: Hook,
    /// Whether it must be.
    pub need: Need,
}

const fn tp_btf(group: Group, name: &'static str, arguments: usize, need: Need) -> Entry {
    Entry { group, rungs: &[], name, hook: Hook::TpBtf { tracepoint: name, arguments }, need }
}

const fn raw(group: Group, name: &'static str) -> Entry {
    Entry { group, rungs: &[], name, hook: Hook::Raw { tracepoint: name }, need: Need::Optional }
}

const fn throttle(rung: Rung, name: &'static str, hook: Hook) -> Entry {
    Entry { group: Group::Throttle(rung), rungs: &[], name, hook, need: Need::Optional }
}

const fn sched(rungs: &'static [SwitchRung], name: &'static str, hook: Hook) -> Entry {
    Entry { group: Group::Sched, rungs, name, hook, need: Need::Required }
}

const fn typed(rungs: &'static [SwitchRung], name: &'static str, arguments: usize) -> Entry {
    sched(rungs, name, Hook::TpBtf { tracepoint: name, arguments })
}

const fn classic(name: &'static str, category: &'static str, tracepoint: &'static str) -> Entry {
    sched(&[SwitchRung::Tracepoint], name, Hook::Tracepoint { category, tracepoint })
}

/// The function with which every switch ends (kernel/sched/core.c).
const FINISH: &str = "finish_task_switch";
/// Rungs whose wake-ups and births come from untyped tracepoints.
const UNTYPED: &[SwitchRung] = &[SwitchRung::RawTracepoint, SwitchRung::Kprobe];
/// Rungs whose wake-ups and births come from typed ones.
const TYPED: &[SwitchRung] = &[SwitchRung::TpBtf, SwitchRung::Fentry];

/// Every program but the iterator. They are attached in this order.
pub const PROGRAMS: &[Entry] = &[
    tp_btf(Group::Interrupts, "irq_handler_entry", 1, Need::Optional),
    tp_btf(Group::Interrupts, "irq_handler_exit", 0, Need::Optional),
    tp_btf(Group::Interrupts, "softirq_entry", 1, Need::Optional),
    tp_btf(Group::Interrupts, "softirq_exit", 0, Need::Optional),
    // Of a rung, what sees switches comes first: it is what may be refused.
    typed(&[SwitchRung::TpBtf], "sched_switch", 4),
    sched(&[SwitchRung::Fentry], "fentry_finish_task_switch", Hook::Fentry { function: FINISH }),
    sched(&[SwitchRung::Kprobe], "kprobe_finish_task_switch", Hook::Kprobe { function: FINISH }),
    typed(TYPED, "sched_waking", 1),
    typed(TYPED, "sched_wakeup_new", 1),
    sched(&[SwitchRung::RawTracepoint], "raw_sched_switch", Hook::Raw { tracepoint: "sched_switch" }),
    sched(UNTYPED, "raw_sched_waking", Hook::Raw { tracepoint: "sched_waking" }),
    sched(UNTYPED, "raw_sched_wakeup_new", Hook::Raw { tracepoint: "sched_wakeup_new" }),
    classic("classic_sched_switch", "sched", "sched_switch"),
    classic("classic_sched_waking", "sched", "sched_waking"),
    classic("classic_task_newtask", "task", "task_newtask"),
    tp_btf(Group::Calls, "sys_enter", 2, Need::Required),
    tp_btf(Group::Calls, "sys_exit", 2, Need::Required),
    // Completions first: a request whose end is not seen would be taken for one that is under way.
    tp_btf(Group::Block, "block_rq_complete", 3, Need::Required),
    tp_btf(Group::Block, "block_rq_merge", 1, Need::Required),
    tp_btf(Group::Block, "block_rq_requeue", 1, Need::Required),
    tp_btf(Group::Block, "block_rq_issue", 1, Need::Required),
    tp_btf(Group::Block, "block_rq_insert", 1, Need::Required),
    tp_btf(Group::Block, "block_io_start", 1, Need::Optional),
    tp_btf(Group::Block, "block_getrq", 1, Need::Optional),
    tp_btf(Group::Block, "block_bio_backmerge", 1, Need::Optional),
    tp_btf(Group::Block, "block_bio_frontmerge", 1, Need::Optional),
    tp_btf(Group::Block, "block_split", 1, Need::Optional),
    tp_btf(Group::Block, "block_bio_remap", 2, Need::Optional),
    raw(Group::Journal, "jbd2_start_commit"),
    raw(Group::Journal, "jbd2_commit_locking"),
    raw(Group::Journal, "jbd2_commit_flushing"),
    raw(Group::Journal, "jbd2_commit_logging"),
    raw(Group::Journal, "jbd2_end_commit"),
    raw(Group::Journal, "ext4_sync_file_enter"),
    raw(Group::Journal, "ext4_sync_file_exit"),
    raw(Group::Allocate, "ext4_request_blocks"),
    raw(Group::Allocate, "ext4_allocate_blocks"),
    tp_btf(Group::Dirty, "writeback_dirty_folio", 2, Need::Optional),
    // The older form first: the newer would take its arguments for others.
    Entry {
        group: Group::Dirty,
        rungs: &[],
        name: "balance_dirty_pages_12",
        hook: Hook::TpBtf { tracepoint: PAUSES, arguments: 11 },
        need: Need::Optional,
    },
    tp_btf(Group::Dirty, PAUSES, 7, Need::Optional),
    tp_btf(Group::Wbt, "wbt_stat", 2, Need::Optional),
    tp_btf(Group::Wbt, "wbt_lat", 2, Need::Optional),
    tp_btf(Group::Wbt, "wbt_step", 7, Need::Optional),
    tp_btf(Group::Wbt, "wbt_timer", 4, Need::Optional),
    throttle(Rung::Fentry, "wbt_wait_exit", Hook::Fexit { function: "wbt_wait" }),
    throttle(Rung::Fentry, "wbt_wait_entry", Hook::Fentry { function: "wbt_wait" }),
    throttle(Rung::Fentry, "rq_qos_wait_exit", Hook::Fexit { function: "rq_qos_wait" }),
    throttle(Rung::Fentry, "rq_qos_wait_entry", Hook::Fentry { function: "rq_qos_wait" }),
    throttle(Rung::Kprobe, "wbt_wait_kretprobe", Hook::Kprobe { function: "wbt_wait" }),
    throttle(Rung::Kprobe, "wbt_wait_kprobe", Hook::Kprobe { function: "wbt_wait" }),
    throttle(Rung::Kprobe, "rq_qos_wait_kretprobe", Hook::Kprobe { function: "rq_qos_wait" }),
    throttle(Rung::Kprobe, "rq_qos_wait_kprobe", Hook::Kprobe { function: "rq_qos_wait" }),
];

/// The tracepoint of pauses for dirtying too much, which has had two forms.
pub const PAUSES: &str = "balance_dirty_pages";
/// Where the kernel tells of a request's start with its address, the tracepoint without it is of no use.
pub const REQUEST_START: &str = "block_io_start";
/// See [`REQUEST_START`].
pub const REQUEST_START_WITHOUT_ADDRESS: &str = "block_getrq";

/// The program that walks over all tasks.
pub const SLEEPERS: &str = "sleepers";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rung_sees_switches_wake_ups_and_births_by_one_program_each() {
        for rung in SwitchRung::ALL {
            let programs: Vec<_> = PROGRAMS.iter().filter(|entry| entry.rungs.contains(&rung)).collect();
            assert_eq!(programs.len(), 3, "{rung}: {programs:?}");
            let seeing = |words: &[&str]| {
                programs.iter().filter(|entry| words.iter().any(|word| entry.name.contains(word))).count()
            };
            let counts = (seeing(&["switch"]), seeing(&["waking"]), seeing(&["wakeup_new", "newtask"]));
            assert_eq!(counts, (1, 1, 1), "{rung}: {programs:?}");
        }
    }
}
