//! A layer turned into an image of its own.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use super::compose::{check_vmstate, clone_or_copy, compose, open};
use super::digest::Digest;
use super::images::Images;
use super::manifest::{Manifest, Memory};
use super::pace::Urgent;
use super::store::{Store, StoreError, at};
use super::tag::Tag;

/// Replaces the layer `tag` by an image with the same memory, state and identity: layers on it stay valid.
/// An image is left as it is. Blocks for as long as the disk takes.
pub fn compact(store: &Store, images: &Images, tag: &Tag) -> Result<(), StoreError> {
    if store.whole(tag)?.manifest.memory.is_image() {
        return Ok(());
    }
    // Reserved first: from here on nobody deletes the tag or puts another snapshot in its place.
    let staging = store.stage_replacement(tag.clone())?;
    let chain = store.chain(tag)?;
    let layer = open(store, &chain[0])?;
    check_vmstate(store, &layer, &Urgent)?;
    let (memory_path, vmstate_path) = (staging.memory_path(), staging.vmstate_path());
    let mut options = File::options();
    let options = options.read(true).write(true).create_new(true).mode(0o600);
    let memory = options.open(&memory_path).map_err(at("create", &memory_path))?;
    // From the layers themselves and never from a cached image: what is written here is checked, and stays.
    compose(store, &chain, None, (&memory, &memory_path), &Urgent)?;
    let mut vmstate = options.open(&vmstate_path).map_err(at("create", &vmstate_path))?;
    io::copy(&mut &layer.vmstate, &mut vmstate).map_err(at("copy", &vmstate_path))?;
    if let (Some(drive), Some(described)) = (&layer.drive, &layer.manifest.drive) {
        let path = staging.drive_path();
        let copy = options.open(&path).map_err(at("create", &path))?;
        clone_or_copy(drive, &copy, described.bytes, &Urgent).map_err(at("write", &path))?;
        store.verifier().check(&layer.manifest.tag, (&copy, &path), described.digest, &Urgent)?;
    }
    let digest = Digest::of_file(&memory_path).map_err(at("read", &memory_path))?;
    // Its identity is what it was as a layer: the layers on it name that one.
    let memory = Memory::Compacted { digest, layer: layer.manifest.memory.description() };
    let manifest = Manifest { durable: true, memory, ..layer.manifest };
    staging.replace(&manifest)?;
    images.delete_image(manifest.identity);
    Ok(())
}
