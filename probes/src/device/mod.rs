//! Events on the way between a process and a disk, of the whole machine.
//!
//! Pure, but for `disks`: no I/O, no clock.

mod decode;
mod dirtiers;
mod disks;
mod name;
mod requests;

pub use decode::{DeviceEvent, DeviceRecord, RequestStage, decode, is_device};
pub use dirtiers::Dirtiers;
pub use disks::{Disk, Disks};
pub use name::{device_id, device_of_name};
pub use requests::{Ahead, Class, Counts, File, Origin, Outcome, Requests, Whole};
