//! Events on the way between a process and a disk, of the whole machine.
//!
//! Pure: no I/O, no clock.

mod decode;
mod dirtiers;
mod requests;

pub use decode::{DeviceEvent, DeviceRecord, RequestStage, decode, is_device};
pub use dirtiers::Dirtiers;
pub use requests::{Ahead, Class, Counts, File, Origin, Outcome, Requests, Whole};
