//! Writeback throttling: neighbours keep the device full, and the kernel holds back whoever writes.

use crate::Error;
use crate::battery::host::setting::Setting;
use crate::battery::scenario::{BranchOf, Expected, Injection, Place, Scenario, Scene, Subject, lasting};

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "wbt",
    expected: Expected::OneOf(&["writeback_throttle"]),
    subject: Subject::Branch(BranchOf::full(Place::Ext4, 64)),
    quick: false,
    names: &[],
    inject,
};

fn inject(scene: &Scene<'_>) -> Result<Box<dyn Injection>, Error> {
    // A latency that no read keeps to: it takes a read for the throttle to close (block/blk-wbt.c, `latency_exceeded`).
    let wbt = Setting::change(&scene.queue_file("wbt_lat_usec")?, "100")?;
    Ok(lasting((wbt, scene.neighbour_of("writes", 12)?, scene.neighbour_of("reads", 1)?)))
}
