//! The commands of `forkd`, one a file.

pub mod serve;
