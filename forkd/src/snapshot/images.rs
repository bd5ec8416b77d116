//! Memory images of layers: made when first needed, kept within a budget, never needed after they are lost.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustix::thread::Pid;

use super::ahead::{HoldBack, Yielding};
use super::chain::Link;
use super::compose::{check_memory, check_vmstate, compose, open};
use super::digest::Digest;
use super::file_id::FileId;
use super::pace::{Pace, Urgent};
use super::priority;
use super::probe::shares_blocks;
use super::store::{Opened, Store, StoreError, at};
use super::tag::Tag;
use crate::clock::monotonic_ns;
use crate::metrics::Materialisations;
use crate::unique;

/// Names the boot in which the images were written: after another one they may be incomplete.
const BOOT_FILE: &str = "boot_id";

/// The images below one snapshot root.
#[derive(Debug)]
pub struct Images {
    dir: PathBuf,
    budget_bytes: u64,
    share_blocks: bool,
    materialisations: Materialisations,
    // By the identity of the snapshot: whoever comes second waits for the image that is being made.
    making: Mutex<HashMap<Digest, Arc<Making>>>,
    yielding: Arc<Yielding>,
}

/// A memory image, open: it stays readable when it is dropped from the budget.
#[derive(Debug)]
pub struct Image {
    /// The image, read-only.
    pub file: File,
}

impl Image {
    /// A second handle.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()? })
    }
}

/// One image that is being made, or that somebody is about to make.
#[derive(Debug, Default)]
struct Making {
    turn: Mutex<()>,
    urgent: AtomicBool,
    /// The thread that makes it at idle priority.
    idle_thread: Mutex<Option<Pid>>,
}

impl Making {
    fn idle_thread(&self) -> MutexGuard<'_, Option<Pid>> {
        self.idle_thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::SeqCst)
    }

    /// Somebody waits: no more giving way.
    fn make_urgent(&self, yielding: &Yielding) {
        self.urgent.store(true, Ordering::SeqCst);
        if let Some(thread) = *self.idle_thread()
            && let Err(error) = priority::make_normal(thread)
        {
            tracing::warn!(%error, "an image that is waited for is made at idle priority");
        }
        yielding.wake();
    }

    /// Does `work` at idle priority, unless somebody waits for it by now.
    fn at_idle_priority<T>(&self, work: impl FnOnce() -> T) -> T {
        {
            let mut idle = self.idle_thread();
            if !self.is_urgent() {
                match priority::make_idle() {
                    Ok(thread) => *idle = Some(thread),
                    Err(error) => tracing::warn!(%error, "an image is made ahead at normal priority"),
                }
            }
        }
        let outcome = work();
        // Taken under the lock: from here on nobody touches this thread.
        if let Some(thread) = self.idle_thread().take()
            && let Err(error) = priority::make_normal(thread)
        {
            tracing::debug!(%error, "this thread stays at idle priority");
        }
        outcome
    }
}

/// Gives way to BRANCHes until somebody waits.
struct Background<'a> {
    making: &'a Making,
    yielding: &'a Yielding,
}

impl Pace for Background<'_> {
    fn next_piece(&self) -> io::Result<()> {
        self.yielding.wait(|| self.making.is_urgent())
    }

    fn is_urgent(&self) -> bool {
        self.making.is_urgent()
    }
}

impl Images {
    /// The images of `store`. Keeps those that were made since the host booted and are as they were left, and
    /// deletes all others: they are renamed into place whole, but not synced.
    pub fn open(store: &Store, budget_bytes: u64) -> Result<Self, StoreError> {
        let dir = store.images_dir();
        let boot_id = fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        if fs::read(dir.join(BOOT_FILE)).ok().as_ref() != Some(&boot_id) && dir.exists() {
            fs::remove_dir_all(&dir).map_err(at("delete", &dir))?;
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(at("create", &dir))?;
        fs::write(dir.join(BOOT_FILE), boot_id).map_err(at("write", &dir))?;
        delete_unfinished(&dir).map_err(at("clean up", &dir))?;
        let share_blocks = shares_blocks(&dir).map_err(at("probe", &dir))?;
        let (materialisations, making) = (Materialisations::default(), Mutex::default());
        Ok(Self { dir, budget_bytes, share_blocks, materialisations, making, yielding: Arc::default() })
    }

    /// Whether an image shares blocks with what it is made of.
    pub fn share_blocks(&self) -> bool {
        self.share_blocks
    }

    /// What work ahead of need gives way by.
    pub fn yielding(&self) -> &Arc<Yielding> {
        &self.yielding
    }

    /// While it lives, no image is made that nobody waits for.
    pub fn hold_back(&self) -> HoldBack {
        HoldBack::new(&self.yielding)
    }

    /// The same, with each image that is made noted in `materialisations`.
    pub fn noted_in(self, materialisations: Materialisations) -> Self {
        Self { materialisations, ..self }
    }

    /// A snapshot and its memory image: its own, or the one made of its layers, made now if need be. Both come
    /// from one look at the tag, so they belong together whatever becomes of the tag meanwhile.
    ///
    /// Everything that the child will hold is checked: an image of the snapshot's own, each layer while its
    /// image is made, and the device and CPU state; each file once, for as long as it is unchanged. Blocks for
    /// as long as the disk takes.
    pub fn snapshot_with_image(&self, store: &Store, tag: &Tag) -> Result<(Opened, Image), StoreError> {
        let chain = store.chain(tag)?;
        let snapshot = open(store, &chain[0])?;
        check_vmstate(store, &snapshot, &Urgent)?;
        if snapshot.manifest.memory.is_image() {
            check_memory(store, &snapshot, &Urgent)?;
            let file = snapshot.memory.try_clone().map_err(at("open", &snapshot.dir))?;
            return Ok((snapshot, Image { file }));
        }
        let identity = snapshot.manifest.identity;
        let making = self.making(identity);
        making.make_urgent(&self.yielding);
        let made = {
            let _turn = making.turn.lock().unwrap_or_else(PoisonError::into_inner);
            self.kept(identity).map_or_else(|| self.make(store, &chain, &Urgent), Ok)
        };
        self.no_longer_making(identity);
        self.drop_oldest_beyond_budget(identity);
        Ok((snapshot, made?))
    }

    /// Makes the image of a layer that nobody has asked for: at idle priority, giving way to BRANCHes, and as
    /// fast as it goes from the moment that somebody forks from the layer. Does nothing where there is one, or
    /// where it would push all others out of the budget.
    pub fn make_ahead(&self, store: &Store, tag: &Tag) -> Result<(), StoreError> {
        let chain = store.chain(tag)?;
        let bytes = u64::from(chain[0].mem_mib) << 20;
        let identity = chain[0].identity;
        if chain.len() == 1 || bytes > self.budget_bytes / 2 || self.image_path(identity).exists() {
            return Ok(());
        }
        let making = self.making(identity);
        // Whoever has the turn makes the image.
        let made = making.turn.try_lock().ok().map(|_turn| {
            let pace = Background { making: &making, yielding: &self.yielding };
            making.at_idle_priority(|| self.make(store, &chain, &pace))
        });
        self.no_longer_making(identity);
        self.drop_oldest_beyond_budget(identity);
        made.transpose().map(drop)
    }

    fn making(&self, identity: Digest) -> Arc<Making> {
        Arc::clone(self.lock_making().entry(identity).or_default())
    }

    fn no_longer_making(&self, identity: Digest) {
        self.lock_making().remove(&identity);
    }

    fn lock_making(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Making>>> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deletes the image of this snapshot, where there is one.
    pub fn delete_image(&self, identity: Digest) {
        for path in [self.image_path(identity), self.record_path(identity)] {
            if let Err(error) = fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%identity, %error, "cannot delete an image");
            }
        }
    }

    /// The image, unless there is none or it is not as it was left.
    fn kept(&self, identity: Digest) -> Option<Image> {
        let file = File::open(self.image_path(identity)).ok()?;
        let record = self.record_path(identity);
        if !is_as_recorded(&file, &record) {
            tracing::warn!(%identity, "an image was changed since it was made: it is made again");
            self.delete_image(identity);
            return None;
        }
        // The time of its last use, kept beside it: to touch the image itself would change it.
        let open = File::options().write(true).open(&record).ok()?;
        open.set_modified(SystemTime::now()).ok()?;
        Some(Image { file })
    }

    fn make(&self, store: &Store, chain: &[Arc<Link>], pace: &dyn Pace) -> Result<Image, StoreError> {
        let start_ns = monotonic_ns();
        let identity = chain[0].identity;
        let unfinished = Unfinished(self.dir.join(format!("{}.unfinished", unique::hex(8))));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let image = options.open(&unfinished.0).map_err(at("create", &unfinished.0))?;
        // From the nearest image on: one that was made of a part of the chain, else the one at its end.
        let nearest = chain
            .iter()
            .enumerate()
            .skip(1)
            .find_map(|(at, link)| Some((at, self.kept(link.identity)?.file)));
        compose(store, chain, nearest, (&image, &unfinished.0), pace)?;
        let path = self.image_path(identity);
        fs::rename(&unfinished.0, &path).map_err(at("rename to", &path))?;
        let file = File::open(&path).map_err(at("open", &path))?;
        let record = self.record_path(identity);
        let id = FileId::of(&file.metadata().map_err(at("read", &path))?);
        let text = serde_json::to_vec(&id).map_err(|error| at("encode", &record)(error.into()))?;
        fs::write(&record, text).map_err(at("write", &record))?;
        self.materialisations.note(u64::from(chain[0].mem_mib) << 20, monotonic_ns() - start_ns);
        Ok(Image { file })
    }

    fn image_path(&self, identity: Digest) -> PathBuf {
        self.dir.join(format!("{identity}.memory.bin"))
    }

    /// Says which file the image is, as it was left.
    fn record_path(&self, identity: Digest) -> PathBuf {
        self.dir.join(format!("{identity}.memory.json"))
    }

    /// Least recently used first. The one just used stays even if it alone is beyond the budget.
    fn drop_oldest_beyond_budget(&self, used: Digest) {
        let mut images = Vec::new();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if let (true, Ok(metadata)) = (path.extension().is_some_and(|end| end == "bin"), entry.metadata())
            {
                let used = fs::metadata(path.with_extension("json")).and_then(|record| record.modified());
                let used = used.unwrap_or(SystemTime::UNIX_EPOCH);
                images.push((used, metadata.blocks() * 512, path));
            }
        }
        images.sort();
        let mut total: u64 = images.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in images {
            if total > self.budget_bytes && path != self.image_path(used) && fs::remove_file(&path).is_ok() {
                total -= bytes;
                let _ = fs::remove_file(path.with_extension("json"));
                tracing::info!(image = %path.display(), "dropped to stay within the budget of images");
            }
        }
    }
}

fn is_as_recorded(image: &File, record: &Path) -> bool {
    let recorded = fs::read(record).ok().and_then(|text| serde_json::from_slice::<FileId>(&text).ok());
    let found = image.metadata().ok().map(|metadata| FileId::of(&metadata));
    found.is_some() && recorded == found
}

/// Deletes what a daemon that was killed had not finished, and images that are not as they were left.
fn delete_unfinished(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let ends_in = |end: &str| path.extension().is_some_and(|extension| extension == end);
        let is_lost = ends_in("bin") && !is_as_recorded(&File::open(&path)?, &path.with_extension("json"));
        if ends_in("unfinished") || is_lost {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// A file that is deleted unless it was renamed.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
