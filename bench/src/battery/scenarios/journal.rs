//! A journal commit that waits for a neighbour's data, which goes to the disk slowly.

use crate::Error;
use crate::battery::host::cgroup::{Controller, Group};
use crate::battery::scenario::{BranchOf, Expected, Injection, Place, Scenario, Scene, Subject, lasting};

const BYTES_PER_SECOND: u64 = 8 << 20;

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "journal-commit",
    expected: Expected::OneOf(&["journal_commit"]),
    subject: Subject::Branch(BranchOf::full(Place::Ext4, 32)),
    quick: false,
    inject,
};

/// In the journal's ordered mode a commit waits for the data of all files that got blocks meanwhile: a limit on the
/// neighbour's writes becomes one on everybody's fsync.
fn inject(scene: &Scene<'_>) -> Result<Box<dyn Injection>, Error> {
    let mut group = Group::make(Controller::Io)?;
    let device = scene.device_number()?;
    group.set(
        ("blkio.throttle.write_bps_device", &format!("{device} {BYTES_PER_SECOND}")),
        ("io.max", &format!("{device} wbps={BYTES_PER_SECOND}")),
    )?;
    let neighbour = scene.neighbour("appends")?;
    group.take_in(neighbour.pid())?;
    // Its data must be on its way when the BRANCH begins.
    std::thread::sleep(std::time::Duration::from_millis(700));
    Ok(lasting((neighbour, group)))
}
