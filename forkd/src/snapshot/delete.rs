//! A snapshot deleted, and what becomes of the layers on it.

use super::compact::compact;
use super::images::Images;
use super::store::{Store, StoreError};
use super::tag::Tag;

/// What happens to the layers that lie on a snapshot which is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependents {
    /// There must be none.
    Refuse,
    /// They are deleted first, with all that lies on them.
    Cascade,
    /// They are turned into images first, so that nothing is lost.
    Flatten,
}

/// One snapshot that a deletion has changed; also one that did not come to its end may have changed some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// It is gone.
    Deleted(&'a Tag),
    /// It was a layer and is an image.
    Compacted(&'a Tag),
}

/// Deletes a snapshot, whole or damaged, and the memory image made of it. Tells `changed` of each snapshot that
/// was changed. Blocks for as long as the disk takes.
pub fn delete(
    store: &Store,
    images: &Images,
    tag: &Tag,
    dependents: Dependents,
    changed: &mut dyn FnMut(Change<'_>),
) -> Result<(), StoreError> {
    match dependents {
        Dependents::Refuse => {}
        Dependents::Cascade => {
            for dependent in store.dependents(tag)? {
                delete(store, images, &dependent, Dependents::Cascade, changed)?;
            }
        }
        Dependents::Flatten => {
            for dependent in store.dependents(tag)? {
                compact(store, images, &dependent)?;
                changed(Change::Compacted(&dependent));
            }
        }
    }
    let identity = store.link(tag).map(|link| link.identity).ok();
    store.delete_snapshot(tag)?;
    changed(Change::Deleted(tag));
    if let Some(identity) = identity {
        images.delete_image(identity);
    }
    Ok(())
}
