//! A CPU quota, and a stop of a known length in the middle.

use std::time::Duration;

use super::cpu_quota::Quota;
use super::stopped::{Interlude, stop_in_snapshot};
use crate::Error;
use crate::battery::scenario::{BranchOf, Expected, Injection, Place, Scenario, Scene, Subject};

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "sigstop+quota",
    expected: Expected::Shares(&[&["stopped"], &["cpu_quota"]]),
    subject: Subject::Branch(BranchOf::full(Place::Memory, 64)),
    quick: false,
    inject,
};

struct Both {
    stop: Interlude,
    quota: Quota,
}

impl Injection for Both {
    fn right_before(&mut self) -> Result<(), Error> {
        self.quota.right_before()
    }

    fn known_shares(&mut self, window: (u64, u64)) -> Result<Vec<f64>, Error> {
        let stopped = self.stop.share_of(window)?;
        // A group that is throttled as its process is stopped stays so until its next period.
        Ok(vec![stopped, self.quota.share_of(window)?.min(1.0 - stopped)])
    }
}

fn inject(scene: &Scene<'_>) -> Result<Box<dyn Injection>, Error> {
    let stop = stop_in_snapshot(scene, Duration::from_millis(600));
    Ok(Box::new(Both { stop, quota: Quota::set(scene.pid)? }))
}
