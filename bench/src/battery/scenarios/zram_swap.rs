//! Most of the pages that the guest dirtied have been swapped out, to a device in compressed memory.

use crate::Error;
use crate::battery::host::cgroup::{Controller, Group};
use crate::battery::host::zram::ZramSwap;
use crate::battery::scenario::{BranchOf, Expected, Injection, Scenario, Scene, Subject};

/// What the group may keep in memory for a moment, so that the rest goes.
const SMALL: &str = "33554432";

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "zram-swap",
    expected: Expected::OneOf(&["swap_in"]),
    subject: Subject::Branch(BranchOf::staged(256, 40_000)),
    quick: false,
    names: &[],
    inject,
};

/// The group comes before the pages: a page is charged to the group that its process is in when it is made.
fn inject(scene: &Scene<'_>) -> Result<Box<dyn Injection>, Error> {
    let swap = ZramSwap::add(512)?;
    let mut group = Group::make(Controller::Memory)?;
    group.take_in(scene.pid)?;
    Ok(Box::new(Swapped { group, swap }))
}

/// The group's pages come back, and the device goes, in this order.
struct Swapped {
    group: Group,
    swap: ZramSwap,
}

impl Injection for Swapped {
    fn right_before(&mut self) -> Result<(), Error> {
        // Lowering a limit below what is used swaps until it fits. In the window there is none: what Firecracker writes
        // to memory is charged to it as well.
        self.group.set(("memory.limit_in_bytes", SMALL), ("memory.max", SMALL))?;
        self.group.set(("memory.limit_in_bytes", "-1"), ("memory.max", "max"))?;
        match self.swap.stored_bytes() {
            Ok(1..) => Ok(()),
            _ => {
                Err(Error::Missing("needs a kernel that swaps a group's pages: none were swapped".to_owned()))
            }
        }
    }
}
