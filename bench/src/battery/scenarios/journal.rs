//! A journal commit that waits for a neighbour's data, which goes to the disk slowly.

use std::thread::sleep;
use std::time::Duration;

use crate::Error;
use crate::battery::host::cgroup::{Controller, Group};
use crate::battery::host::process::Part;
use crate::battery::scenario::{BranchOf, Expected, Injection, Place, Scenario, Scene, Subject};

/// What the neighbour appends takes three seconds.
const BYTES_PER_SECOND: u64 = 8 << 20;
/// Until its data is on its way.
const UNDER_WAY: Duration = Duration::from_millis(100);

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "journal-commit",
    expected: Expected::OneOf(&["journal_commit"]),
    subject: Subject::Branch(BranchOf::full(Place::Ext4Ordered, 32)),
    quick: false,
    names: &[],
    inject,
};

/// In the journal's ordered mode a commit waits for the data of all files that got blocks meanwhile: a limit on the
/// neighbour's writes becomes one on everybody's fsync.
struct Ordered {
    neighbour: Part,
    /// Deleted when nobody is in it any more.
    _group: Group,
}

impl Injection for Ordered {
    fn right_before(&mut self) -> Result<(), Error> {
        self.neighbour.once()?;
        sleep(UNDER_WAY);
        Ok(())
    }
}

fn inject(scene: &Scene<'_>) -> Result<Box<dyn Injection>, Error> {
    let mut group = Group::make(Controller::Io)?;
    let device = scene.device_number()?;
    group.set(
        ("blkio.throttle.write_bps_device", &format!("{device} {BYTES_PER_SECOND}")),
        ("io.max", &format!("{device} wbps={BYTES_PER_SECOND}")),
    )?;
    let neighbour = scene.neighbour("appends")?;
    group.take_in(neighbour.pid())?;
    Ok(Box::new(Ordered { neighbour, _group: group }))
}
