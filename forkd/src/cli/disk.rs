//! Snapshots deleted without a daemon.

use std::path::Path;

use anyhow::{Context as _, ensure};
use forkd::http_client::Endpoint;
use forkd::snapshot::delete::{Change, Dependents, delete};
use forkd::snapshot::images::Images;
use forkd::snapshot::store::{Store, StoreError};
use forkd::snapshot::tag::Tag;

use super::exit::{Exit, Failure};

/// A snapshot root that this process has taken: no daemon uses it meanwhile.
#[derive(Debug)]
pub struct Disk {
    store: Store,
    images: Images,
}

/// What the daemon keeps in its root beside snapshots, and opens by name.
const OWN_NAMES: [&str; 4] = [".lock", ".staging", ".images", ".drives"];

impl Disk {
    /// Takes `root`, which must be there; refuses where a daemon has it. `asked` is the daemon that was asked first.
    pub fn take(root: &Path, asked: &Endpoint) -> anyhow::Result<Self> {
        // Taking a root creates it, and follows what is in it.
        ensure!(
            root.is_dir(),
            Failure::new(Exit::NotFound, format!("there is no directory {}", root.display()))
        );
        refuse_links(root)?;
        let store = Store::open(root).map_err(|error| match error {
            StoreError::InUse(root) => Failure::new(
                Exit::Refused,
                format!(
                    "{} is in use by another forkd than the one asked ({asked}): name that one with --socket or --url",
                    root.display()
                ),
            )
            .into(),
            error => anyhow::Error::from(error),
        })?;
        // No image is made here but into its snapshot, so the budget of images does not matter.
        let images = Images::open(&store, u64::MAX).context("the memory images")?;
        Ok(Self { store, images })
    }

    /// Deletes `tag`, as a daemon would. Tells `deleted` of each snapshot that is gone, also where it then fails.
    pub fn delete(
        &self,
        tag: &Tag,
        dependents: Dependents,
        deleted: &mut dyn FnMut(&Tag),
    ) -> Result<(), StoreError> {
        delete(&self.store, &self.images, tag, dependents, &mut |change| match change {
            Change::Deleted(tag) => deleted(tag),
            Change::Compacted(_) => {}
        })
    }
}

/// Refuses a root in which a name of the daemon's own leads elsewhere.
pub fn refuse_links(root: &Path) -> Result<(), Failure> {
    match OWN_NAMES.into_iter().map(|name| root.join(name)).find(|path| path.is_symlink()) {
        Some(path) => {
            let message = format!("{} is a symbolic link: it could lead elsewhere", path.display());
            Err(Failure::new(Exit::Refused, message))
        }
        None => Ok(()),
    }
}

/// Whether there is something of that name below `root`, whatever it is.
pub fn holds(root: &Path, tag: &Tag) -> bool {
    root.join(tag.as_str()).symlink_metadata().is_ok()
}
