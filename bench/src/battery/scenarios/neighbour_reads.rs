//! A neighbour's reads past the page cache are ahead of everything in the queue.

use crate::Error;
use crate::battery::host::process::NEIGHBOUR;
use crate::battery::host::setting::{SHORT_QUEUE, Setting};
use crate::battery::scenario::{BranchOf, Expected, Injection, Place, Scenario, Scene, Subject, lasting};

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "neighbour-reads",
    expected: Expected::OneOf(&["request_queue", "device_time", "own_writeback", "journal_commit"]),
    subject: Subject::Branch(BranchOf::full(Place::Ext4, 64)),
    quick: false,
    names: &[NEIGHBOUR],
    inject,
};

fn inject(scene: &Scene<'_>) -> Result<Box<dyn Injection>, Error> {
    let no_wbt = Setting::change(&scene.queue_file("wbt_lat_usec")?, "0")?;
    let short_queue = Setting::change(&scene.queue_file("nr_requests")?, SHORT_QUEUE)?;
    Ok(lasting((no_wbt, short_queue, scene.neighbour_of("reads", 16)?)))
}
