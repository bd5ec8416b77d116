//! A memory limit on Firecracker that what it writes does not fit into.

use crate::Error;
use crate::battery::host::cgroup::{Controller, Group};
use crate::battery::scenario::{BranchOf, Expected, Injection, Place, Scenario, Scene, Subject, lasting};

const LIMIT: &str = "3145728";

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "memory-limit",
    expected: Expected::OneOf(&["cgroup_memory", "memory_reclaim"]),
    subject: Subject::Branch(BranchOf::full(Place::Ext4, 128)),
    quick: false,
    names: &[],
    inject,
};

/// What it has already is charged elsewhere: each page of the file has to make room for the next.
fn inject(scene: &Scene<'_>) -> Result<Box<dyn Injection>, Error> {
    let mut group = Group::make(Controller::Memory)?;
    group.set(("memory.limit_in_bytes", LIMIT), ("memory.max", LIMIT))?;
    group.take_in(scene.pid)?;
    Ok(lasting(group))
}
