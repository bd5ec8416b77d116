//! A slow FUSE file system, and a stop of a known length in the middle.

use std::time::Duration;

use super::slow_fuse::OTHERWISE_IN_MEMORY;
use super::stopped::{Begun, Interlude};
use crate::Error;
use crate::battery::host::slow_fs::Slowed;
use crate::battery::scenario::{Expected, Injection, Scenario, Scene, Subject, common_ns, share};

/// The signal comes while the state is written: the write of the memory is one call, and cannot be stopped.
const STOPPED: Duration = Duration::from_millis(900);
/// Each of some hundred small writes of the state takes as long, so that the signal comes in time.
const STATE: Duration = Duration::from_millis(1);

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "sigstop+fuse",
    expected: Expected::Shares(&[&["stopped"], &["remote_file_system"]]),
    subject: Subject::Branch(OTHERWISE_IN_MEMORY),
    quick: false,
    names: &[],
    inject,
};

struct Both {
    stop: Interlude,
    slowed: Slowed,
}

impl Injection for Both {
    fn known_shares(&mut self, window: (u64, u64)) -> Result<Vec<f64>, Error> {
        let slowed = self.slowed.stretches();
        let in_common = |with: (u64, u64)| slowed.iter().map(|slowed| common_ns(*slowed, with)).sum::<u64>();
        let stop = self.stop.stretch()?.unwrap_or((window.1, window.1));
        let stop = (stop.0.max(window.0), stop.1.min(window.1));
        // The signal comes upon a write that is under way, and takes effect after it.
        let stopped_ns = common_ns(stop, window).saturating_sub(in_common(stop));
        Ok(vec![share(stopped_ns, window), share(in_common(window), window)])
    }
}

fn inject(scene: &Scene<'_>) -> Result<Box<dyn Injection>, Error> {
    let slowed = super::slow_fuse::slow_down(scene)?;
    slowed.small_ones(STATE);
    Ok(Box::new(Both { stop: Interlude::stop(Begun::State, scene, STOPPED), slowed }))
}
