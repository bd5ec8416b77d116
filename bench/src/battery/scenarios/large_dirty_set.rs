//! The guest has dirtied most of its memory.

use crate::battery::scenario::{BranchOf, Expected, Otherwise, Scenario, Subject, nothing};

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "large-dirty-set",
    expected: Expected::OneOf(&["dirty_page_copy"]),
    subject: Subject::Branch(BranchOf {
        otherwise: Otherwise::DirtyPages(16),
        ..BranchOf::staged(256, 48_000)
    }),
    quick: false,
    names: &[],
    inject: nothing,
};
