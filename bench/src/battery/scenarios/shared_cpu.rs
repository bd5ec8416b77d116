//! Firecracker has one CPU, and a rival on it that goes first.

use crate::Error;
use crate::battery::host::process::{OnOneCpu, Part};
use crate::battery::scenario::{BranchOf, Expected, Injection, Place, Scenario, Scene, Subject, lasting};

const CPU: usize = 0;

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "shared-cpu",
    expected: Expected::OneOf(&["run_queue"]),
    subject: Subject::Branch(BranchOf::full(Place::Memory, 16)),
    quick: false,
    names: &[],
    inject,
};

fn inject(scene: &Scene<'_>) -> Result<Box<dyn Injection>, Error> {
    let rival = Part::start(["spin", &CPU.to_string()])?;
    Ok(lasting((OnOneCpu::keep(scene.pid, CPU)?, rival)))
}
