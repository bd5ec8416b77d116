//! What there is to load: each program, what it is attached to, and with which others it is of use.

/// Programs that are of use together. Those of a group that no [`Plan`](super::Plan) names cost nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Switches, wake-ups and births.
    Sched,
    /// Which interrupt's handler runs: names wakers in interrupts.
    Interrupts,
    /// System calls, entered and left.
    Calls,
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
}

/// What becomes of a recording for which a program is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It is refused as well.
    Required,
    /// It goes on with less.
    Optional,
}

/// One program.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its group.
    pub group: Group,
    /// Its name in the object.
    pub name: &'static str,
    /// What it is attached to.
    pub hook: Hook,
    /// Whether it must be.
    pub need: Need,
}

const fn tp_btf(group: Group, name: &'static str, arguments: usize, need: Need) -> Entry {
    Entry { group, name, hook: Hook::TpBtf { tracepoint: name, arguments }, need }
}

/// Every program but the iterator. They are attached in this order.
pub const PROGRAMS: &[Entry] = &[
    tp_btf(Group::Interrupts, "irq_handler_entry", 1, Need::Optional),
    tp_btf(Group::Interrupts, "irq_handler_exit", 0, Need::Optional),
    tp_btf(Group::Interrupts, "softirq_entry", 1, Need::Optional),
    tp_btf(Group::Interrupts, "softirq_exit", 0, Need::Optional),
    tp_btf(Group::Sched, "sched_switch", 4, Need::Required),
    tp_btf(Group::Sched, "sched_waking", 1, Need::Required),
    tp_btf(Group::Sched, "sched_wakeup_new", 1, Need::Required),
    tp_btf(Group::Calls, "sys_enter", 2, Need::Required),
    tp_btf(Group::Calls, "sys_exit", 2, Need::Required),
];

/// The program that walks over all tasks.
pub const SLEEPERS: &str = "sleepers";
