//! A pack: one file that holds a snapshot and all that it lies on.
//!
//! A header, then for each snapshot, the image first and the packed tag last, four parts: its manifest, its
//! device and CPU state, its memory, its drive. A part is a record that begins it, records of data where its file
//! has data, and a record with the BLAKE3 digest of what they held; the pack ends with the digest of all its bytes
//! before. The drive of a guest without one is a part of no bytes.
//! Integers are little-endian. [`format`] has the layout, [`write`] and [`read`] the two directions, and
//! [`unpack`] puts into a snapshot root what was read.

mod format;
mod read;
#[cfg(any(test, feature = "fuzzing"))]
mod sample;
#[cfg(test)]
mod tests;
mod unpack;
mod write;

use std::io;

pub use self::read::verify;
#[cfg(any(test, feature = "fuzzing"))]
pub use self::sample::{forged, sealed};
pub use self::unpack::unpack;
pub use self::write::Packer;
use crate::snapshot::store::StoreError;

/// Why a pack could not be written or taken.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The snapshots said no.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nobody takes the pack.
    #[error("cannot write the pack: {0}")]
    Write(io::Error),
    /// The pack cannot be read.
    #[error("cannot read the pack at byte {offset}: {source}")]
    Read {
        /// How far it was read.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// It is truncated, damaged or made up.
    #[error("pack refused at byte {offset}, {part}: {reason}; nothing of it was kept")]
    Refused {
        /// Where the record begins that is refused.
        offset: u64,
        /// Which part of the pack that is.
        part: String,
        /// What is wrong.
        reason: String,
    },
    /// The tag is there, and it is another snapshot.
    #[error(
        "snapshot '{tag}' is here already and is another one (identity {here}, in the pack {in_pack}): delete it \
         first, or unpack elsewhere; --tag renames the packed tag alone"
    )]
    Conflict {
        /// The tag.
        tag: String,
        /// The identity of the one that is here.
        here: String,
        /// The identity of the one in the pack.
        in_pack: String,
    },
    /// What the pack would lie on could be lost in a power cut.
    #[error("snapshot '{0}' is here already and not durable, and what is unpacked is: delete it first")]
    NotDurable(String),
}

impl PackError {
    /// Whether the disk, or the user's share of it, is full.
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_out_of_space())
    }
}
