//! Packs, in and out.

use std::io::{Read, Write};

use super::{Daemon, OperationError};
use crate::api::{Packed, Unpacked};
use crate::pack::{Packer, unpack};
use crate::snapshot::tag::Tag;

impl Daemon {
    /// Takes hold of `tag` and of all that it lies on, and checks it. Blocks for as long as the disk takes.
    pub fn packer(&self, tag: &Tag) -> Result<Packer<'_>, OperationError> {
        Ok(Packer::new(&self.store, tag)?)
    }

    /// Writes a pack. Blocks for as long as the disk and `output` take.
    pub fn pack(
        &self,
        packer: &Packer<'_>,
        output: impl Write,
        zstd: bool,
    ) -> Result<Packed, OperationError> {
        Ok(packer.write(output, zstd)?)
    }

    /// Takes a pack in, whole or not at all; see [`unpack`]. Blocks for as long as the disk and `input` take.
    pub fn unpack(&self, input: impl Read, tag: Option<&Tag>) -> Result<Unpacked, OperationError> {
        Ok(unpack(&self.store, input, tag)?)
    }
}
