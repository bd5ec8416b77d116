//! Snapshots on disk: one directory a tag, visible only when it is whole and durable.

pub mod ahead;
pub mod chain;
pub mod compact;
pub(crate) mod compose;
pub mod copy;
pub mod delete;
pub mod digest;
pub mod drives;
pub mod extents;
pub mod file_id;
pub mod images;
pub mod list;
pub mod manifest;
pub mod origin;
pub mod pace;
pub mod priority;
pub mod probe;
pub mod staging;
pub mod store;
pub mod tag;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod testing;
pub mod verify;

/// Guest memory, as it lies in the guest's physical address space without its holes.
pub const MEMORY_FILE: &str = "memory.bin";
/// The contents of a layer's extents, one after another.
pub const LAYER_FILE: &str = "layer.bin";
/// Firecracker's device and CPU state.
pub const VMSTATE_FILE: &str = "vmstate.bin";
/// The guest's root drive, where it writes to one.
pub const DRIVE_FILE: &str = "drive.img";
/// The manifest: a directory without it is no snapshot.
pub const MANIFEST_FILE: &str = "manifest.json";
