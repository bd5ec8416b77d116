//! The snapshots lie on a FUSE file system whose server takes its time.

use std::time::Duration;

use crate::Error;
use crate::battery::host::slow_fs::Slowed;
use crate::battery::scenario::{BranchOf, Expected, Otherwise, Place, Scenario, Scene, Subject, lasting};

/// A BRANCH to such a file system, and to memory where nothing is injected.
pub const OTHERWISE_IN_MEMORY: BranchOf =
    BranchOf { otherwise: Otherwise::Place(Place::Memory), ..BranchOf::full(Place::Fuse, 32) };

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "slow-fuse",
    expected: Expected::OneOf(&["remote_file_system"]),
    subject: Subject::Branch(OTHERWISE_IN_MEMORY),
    quick: false,
    names: &[],
    inject: |scene| Ok(lasting(slow_down(scene)?)),
};

/// Has each MiB that is written take its time.
pub fn slow_down(scene: &Scene<'_>) -> Result<Slowed, Error> {
    let slow_fs = scene.slow_fs.ok_or_else(|| Error::Missing("needs FUSE (/dev/fuse)".to_owned()))?;
    Ok(slow_fs.slow_down(Duration::from_millis(40)))
}
