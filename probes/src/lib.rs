//! Kernel events to reports: kernel event -> decoded record -> interval -> report.
//!
//! Each stage takes only what the stage before it made. [`decode`], [`order`], [`gaps`], [`interval`],
//! [`aggregate`] and [`pipeline`], which joins them, are pure; BPF is touched in `load` and `drain` only; [`unwind`] and [`symbolize`] alone
//! read binaries, which [`images`] holds open, and kernel symbols. [`offcpu::Session`] puts them together.

pub mod aggregate;
pub mod attend;
pub mod attribute;
pub mod btf;
pub mod call;
pub mod comm;
pub mod decode;
pub mod device;
pub mod doctor;
mod drain;
mod error;
pub mod explain;
pub mod futex;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod gaps;
pub mod host;
pub mod images;
pub mod interrupt;
pub mod interval;
pub mod io;
pub mod launch;
mod load;
mod object;
pub mod offcpu;
pub mod oncpu;
pub mod order;
pub mod pipeline;
mod proc;
mod program_info;
pub mod recfile;
pub mod recording;
mod same_thread;
pub mod stacks;
pub mod symbolize;
pub mod syscalls;
pub mod target;
pub mod unwind;
pub mod wbt;

pub use error::{AttachError, Fault, FinishError};
pub use proc::monotonic_ns;
