//! What the host is, has and does: facts for the report, and conditions before a measurement.

pub mod device;
pub mod facts;
pub mod guard;
pub mod memory;
pub mod mountinfo;
pub mod tools;
pub mod usage;
pub mod writeback;
