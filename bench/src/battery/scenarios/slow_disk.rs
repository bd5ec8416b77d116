//! A disk that writes at a few MiB a second.

use crate::Error;
use crate::battery::host::cgroup::{Controller, Group, Version};
use crate::battery::host::setting::Setting;
use crate::battery::scenario::{BranchOf, Expected, Injection, Place, Scenario, Scene, Subject, lasting};

const BYTES_PER_SECOND: u64 = 48 << 20;

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "slow-disk",
    expected: Expected::OneOf(&["own_writeback", "request_queue", "device_time"]),
    subject: Subject::Branch(BranchOf::full(Place::Ext4, 64)),
    quick: true,
    names: &[],
    inject,
};

/// On v1 the limit is the root's: what is written back is charged to it. On v2 it is Firecracker's own.
fn inject(scene: &Scene<'_>) -> Result<Box<dyn Injection>, Error> {
    let device = scene.device_number()?;
    let mut group = Group::make(Controller::Io)?;
    match group.version() {
        Version::V1 => {
            let file = group.root().join("blkio.throttle.write_bps_device");
            let limit = format!("{device} {BYTES_PER_SECOND}");
            Ok(lasting(Setting::with_restored(&file, &limit, &format!("{device} 0"))?))
        }
        Version::V2 => {
            group.take_in(scene.pid)?;
            group.set(("", ""), ("io.max", &format!("{device} wbps={BYTES_PER_SECOND}")))?;
            Ok(lasting(group))
        }
    }
}
