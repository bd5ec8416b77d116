//! Packs: a snapshot and all that it lies on, as one stream.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What `forkd pack` has written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// The tag that was packed.
    pub tag: String,
    /// All that the pack holds, the image first and the tag last.
    pub snapshots: Vec<String>,
    /// Size of the pack.
    pub bytes: u64,
}

/// `PUT /v1/packs`: what became of the snapshots of a pack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unpacked {
    /// The tag that was packed, by the name that it has here.
    pub tag: String,
    /// The snapshots that were not here before, the lowest first.
    pub added: Vec<String>,
    /// Those that were here already with the same contents.
    pub kept: Vec<String>,
}
