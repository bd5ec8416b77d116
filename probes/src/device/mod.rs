//! Events on the way between a process and a disk, of the whole machine.
//!
//! Pure: no I/O, no clock.

mod decode;

pub use decode::{DeviceEvent, DeviceRecord, RequestStage, decode, is_device};
