//! The snapshots lie on a FUSE file system whose server takes its time.

use std::time::Duration;

use crate::Error;
use crate::battery::scenario::{
    BranchOf, Expected, Injection, Otherwise, Place, Scenario, Scene, Subject, lasting,
};

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "slow-fuse",
    expected: Expected::OneOf(&["remote_file_system"]),
    subject: Subject::Branch(BranchOf {
        otherwise: Otherwise::Place(Place::Memory),
        ..BranchOf::full(Place::Fuse, 32)
    }),
    quick: false,
    inject,
};

fn inject(scene: &Scene<'_>) -> Result<Box<dyn Injection>, Error> {
    let slow_fs = scene.slow_fs.ok_or_else(|| Error::Missing("needs FUSE (/dev/fuse)".to_owned()))?;
    Ok(lasting(slow_fs.slow_down(Duration::from_millis(40))))
}
