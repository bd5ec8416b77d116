//! What an injection changes on the host, each a guard that puts it back when it is dropped.

pub mod cgroup;
pub mod process;
pub mod setting;
pub mod slow_fs;
pub mod zram;
