//! Windows of a program of the battery's own, which waits for what it is told to.

use crate::battery::scenario::{Expected, Scenario, Subject, nothing};

/// A lock that the thread `holder` has, while three others wait for something else.
pub const FUTEX: Scenario = Scenario {
    name: "futex",
    expected: Expected::OneOf(&["futex_contention"]),
    subject: Subject::Program("futex"),
    quick: true,
    names: &["holder", "passive-1", "passive-2", "passive-3"],
    inject: nothing,
};

/// A sleep.
pub const TIMER: Scenario = Scenario {
    name: "timer",
    expected: Expected::OneOf(&["timer"]),
    subject: Subject::Program("timer"),
    quick: true,
    names: &[],
    inject: nothing,
};

/// Memory that is touched for the first time.
pub const PAGE_FAULTS: Scenario = Scenario {
    name: "page-faults",
    expected: Expected::OneOf(&["page_fault_minor"]),
    subject: Subject::Program("faults"),
    quick: false,
    names: &[],
    inject: nothing,
};

/// Three fifths of the window asleep, two fifths behind a lock.
pub const TIMER_AND_FUTEX: Scenario = Scenario {
    name: "timer+futex",
    expected: Expected::Shares(&[&["timer"], &["futex_contention"]]),
    subject: Subject::Program("timer-and-futex"),
    quick: false,
    names: &[],
    inject: nothing,
};
