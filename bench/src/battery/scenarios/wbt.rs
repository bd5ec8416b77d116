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

/// A latency that no read keeps to: it takes a read for the throttle to close (block/blk-wbt.c, `latency_exceeded`).
const SHORT_US: &str = "100";
/// One that every read keeps to.
const LONG_US: &str = "10000000";

fn inject(scene: &Scene<'_>) -> Result<Box<dyn Injection>, Error> {
    neighbours(scene, SHORT_US)
}

/// The same neighbours on the same device, with a latency that keeps the throttle open.
pub fn inject_unthrottled(scene: &Scene<'_>) -> Result<Box<dyn Injection>, Error> {
    neighbours(scene, LONG_US)
}

fn neighbours(scene: &Scene<'_>, wbt_lat_us: &str) -> Result<Box<dyn Injection>, Error> {
    let wbt = Setting::change(&scene.queue_file("wbt_lat_usec")?, wbt_lat_us)?;
    Ok(lasting((wbt, scene.neighbour_of("writes", 12)?, scene.neighbour_of("reads", 1)?)))
}
