//! What the suite says, as types that serialise, and the renderers that draw them.
//!
//! Nothing here knows how a figure was gathered: this crate depends on no other of the workspace.

pub mod offcpu;
