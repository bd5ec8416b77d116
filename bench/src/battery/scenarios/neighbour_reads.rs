//! A neighbour's reads past the page cache are ahead of everything in the queue.

use crate::Error;
use crate::battery::host::setting::Setting;
use crate::battery::scenario::{BranchOf, Expected, Injection, Place, Scenario, Scene, Subject, lasting};

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "neighbour-reads",
    expected: Expected::OneOf(&["request_queue", "device_time", "own_writeback", "journal_commit"]),
    subject: Subject::Branch(BranchOf::full(Place::Ext4, 64)),
    quick: false,
    inject,
};

fn inject(scene: &Scene<'_>) -> Result<Box<dyn Injection>, Error> {
    let no_wbt = Setting::change(&scene.queue_file("wbt_lat_usec")?, "0")?;
    Ok(lasting((no_wbt, scene.neighbour("reads")?)))
}
