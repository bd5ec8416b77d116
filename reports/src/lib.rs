//! What the suite says, as types that serialise, and the renderers that draw them.
//!
//! Nothing here knows how a figure was gathered: this crate depends on no other of the workspace. Every
//! renderer is pure: a model in, the bytes of a whole file out, the same bytes for the same model.

pub mod cost;
pub mod doctor;
pub mod explain;
mod folded;
mod format;
pub mod futex;
mod header;
pub mod histogram;
pub mod io;
mod loss;
pub mod offcpu;
pub mod oncpu;
pub mod plot;
pub mod process;
pub mod run;
pub mod stacks;
pub mod stats;
pub mod sweep;
pub mod sweep_report;
pub mod syscalls;
pub mod text;
pub mod units;
pub mod wbt;

pub use format::{Format, RenderError};
