//! Firecracker may use a CPU for a twentieth of the time.

use crate::Error;
use crate::battery::host::cgroup::{Controller, Group};
use crate::battery::scenario::{BranchOf, Expected, Injection, Place, Scenario, Scene, Subject, share};

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "cpu-quota",
    expected: Expected::OneOf(&["cpu_quota"]),
    subject: Subject::Branch(BranchOf::full(Place::Memory, 64)),
    quick: true,
    names: &[],
    inject,
};

/// A quota, with the time that `cpu.stat` had counted before the window.
pub struct Quota {
    group: Group,
    before_ns: u64,
}

impl Quota {
    /// Lets `pid` run for 5 ms in each 100 ms.
    pub fn set(pid: u32) -> Result<Self, Error> {
        let mut group = Group::make(Controller::Cpu)?;
        group.set(("cpu.cfs_period_us", "100000"), ("cpu.max", "5000 100000"))?;
        group.set(("cpu.cfs_quota_us", "5000"), ("cpu.max", "5000 100000"))?;
        // What it may use it gets at once: the rest of the time is the quota's, also on a busy host.
        group.set(("cpu.shares", "262144"), ("cpu.weight", "10000"))?;
        group.take_in(pid)?;
        Ok(Self { group, before_ns: 0 })
    }

    /// The part of the window for which it was used up, by the kernel's own account. CPUs are counted one by one, so
    /// that it can be more than the whole.
    pub fn share_of(&self, window: (u64, u64)) -> Result<f64, Error> {
        Ok(share(self.group.throttled_ns()? - self.before_ns, window).min(1.0))
    }
}

impl Injection for Quota {
    fn right_before(&mut self) -> Result<(), Error> {
        self.before_ns = self.group.throttled_ns()?;
        Ok(())
    }

    fn known_shares(&mut self, window: (u64, u64)) -> Result<Vec<f64>, Error> {
        Ok(vec![self.share_of(window)?])
    }
}

fn inject(scene: &Scene<'_>) -> Result<Box<dyn Injection>, Error> {
    Ok(Box::new(Quota::set(scene.pid)?))
}
