//! Nothing at all is in the way.

use crate::battery::scenario::{BranchOf, Expected, Scenario, Subject, nothing};

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "null",
    expected: Expected::Nothing,
    subject: Subject::Branch(BranchOf::staged(256, 16_384)),
    quick: true,
    names: &[],
    inject: nothing,
};
