//! A layer turned into an image of its own.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;

use super::digest::Digest;
use super::images::{Images, check, clone_or_copy};
use super::manifest::{Manifest, Memory};
use super::store::{Store, StoreError, at};
use super::tag::Tag;

/// Replaces the layer `tag` by an image with the same memory, state and identity: layers on it stay valid.
/// An image is left as it is. Blocks for as long as the disk takes.
pub fn compact(store: &Store, images: &Images, tag: &Tag) -> Result<(), StoreError> {
    let layer = store.snapshot(tag)?;
    if let Memory::Image { .. } = layer.manifest.memory {
        return Ok(());
    }
    check(&layer)?;
    let image = images.image(store, tag)?;
    let staging = store.stage_replacement(tag.clone())?;
    let memory_path = staging.memory_path();
    let mut options = File::options();
    let options = options.read(true).write(true).create_new(true).mode(0o600);
    let memory = options.open(&memory_path).map_err(at("create", &memory_path))?;
    clone_or_copy(&image.file, &memory, layer.manifest.memory_bytes()).map_err(at("write", &memory_path))?;
    fs::copy(layer.vmstate_path(), staging.vmstate_path()).map_err(at("copy", &layer.dir))?;
    let digest = Digest::of_file(&memory_path).map_err(at("read", &memory_path))?;
    // Its identity is what it was as a layer: the layers on it name that one.
    staging.replace(&Manifest { durable: true, memory: Memory::Image { digest }, ..layer.manifest })?;
    images.delete_image(layer.manifest.identity);
    Ok(())
}
