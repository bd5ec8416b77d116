//! Drives a daemon through consecutive BRANCHes under known conditions and writes down what it measured.
//!
//! It produces samples; only `judge`, which neither measures nor reads, says what they show. Whatever it puts on a host, mounts, loop devices,
//! processes and files, belongs to a guard that takes it away again, and lies below one work folder
//! that the next run clears if this one was killed.

pub mod api;
pub mod armed;
pub mod battery;
pub mod cell;
pub mod error;
pub mod files;
pub mod floor;
pub mod gate;
pub mod host;
pub mod interrupt;
pub mod judge;
pub mod neighbour;
pub mod power;
pub mod probe_cost;
pub mod progress;
pub mod report;
pub mod site;
pub mod summary;
pub mod sweep;
pub mod trend;
pub mod trial;
pub mod whatif;
pub mod work;

pub use error::Error;
