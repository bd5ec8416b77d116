//! What the daemon holds: the snapshots, the sandboxes, and the operations on them.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{StreamExt, TryStreamExt, stream};
use rustix::fs::{FlockOperation, flock};
use tokio::sync::oneshot;

use crate::api::{BranchMode, DataPath, Snapshot, SnapshotDetail, SnapshotStatus};
use crate::branch::boot::snapshot_after_boot;
use crate::branch::staging_memory::StagingMemory;
use crate::branch::{self, BranchError, Place, Plan};
use crate::clock;
use crate::sandbox::Sandbox;
use crate::snapshot::compact::compact;
use crate::snapshot::digest::Digest;
use crate::snapshot::images::Images;
use crate::snapshot::manifest::{Manifest, Memory, SCHEMA};
use crate::snapshot::store::{Opened, Store, StoreError, at};
use crate::snapshot::tag::Tag;
use crate::unique;
use crate::vmm::VmmError;
use crate::vmm::boot::BootSource;
use crate::vmm::firecracker::Firecracker;
use crate::vmm::process::kill_leftovers;

/// Forks of one request that are started at the same time.
const FORKS_AT_ONCE: usize = 8;

/// Failures that are remembered for clients that did not wait.
const KEPT_FAILURES: usize = 1000;

/// Where the daemon keeps what it keeps, and what it runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory of the snapshots.
    pub snapshot_root: PathBuf,
    /// Directory of sockets and logs of running microVMs; short, because socket paths are limited to 107 bytes.
    pub run_dir: PathBuf,
    /// The Firecracker that microVMs run on.
    pub firecracker: Firecracker,
    /// How a BRANCH gets to disk when it does not say.
    pub data_path: DataPath,
    /// Memory that snapshots may take between the pause and the disk, all together.
    pub staging_bytes: u64,
    /// Disk space for memory images of layers, beside the snapshots themselves.
    pub images_bytes: u64,
}

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

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The snapshot root could not be taken.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The run directory could not be taken.
    #[error("cannot use the run directory {}: {source}", path.display())]
    RunDir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The snapshots would lie among what is deleted with each microVM.
    #[error("the snapshot root {} lies in the run directory {}: keep them apart", root.display(), run_dir.display())]
    RootInRunDir {
        /// The snapshot root.
        root: PathBuf,
        /// The run directory.
        run_dir: PathBuf,
    },
    /// Another daemon uses the run directory.
    #[error("{} is in use by another forkd: give this one a --run-dir of its own", .0.display())]
    RunDirInUse(PathBuf),
    /// A socket below it would have too long a name.
    #[error("the run directory {} is too long a name for sockets below it: use one of at most 70 bytes", .0.display())]
    RunDirTooLong(PathBuf),
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// No sandbox has that id.
    #[error("no sandbox has the id '{0}'; GET /v1/sandboxes lists those there are")]
    NoSandbox(String),
    /// What the snapshot was booted with is gone.
    #[error("snapshot '{tag}' needs its root file system {path}, and there is no such file")]
    RootfsGone {
        /// The snapshot.
        tag: String,
        /// The file.
        path: String,
    },
    /// The snapshots said no.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Firecracker said no.
    #[error(transparent)]
    Vmm(#[from] VmmError),
    /// The BRANCH failed.
    #[error(transparent)]
    Branch(#[from] BranchError),
    /// The guest's console could not be used.
    #[error("the console of sandbox '{id}': {source}")]
    Console {
        /// The sandbox.
        id: String,
        /// What the system said.
        source: io::Error,
    },
}

/// The daemon's state.
#[derive(Debug)]
pub struct Daemon {
    config: Config,
    store: Store,
    images: Images,
    staging_memory: StagingMemory,
    sandboxes: Mutex<BTreeMap<String, Arc<Sandbox>>>,
    /// BRANCHes that were answered before they were whole, and then failed: why, by tag.
    failed: Mutex<BTreeMap<Tag, String>>,
    /// Held for reading by each BRANCH, to its very end.
    under_way: tokio::sync::RwLock<()>,
    _run_dir_lock: File,
}

impl Daemon {
    /// Takes the snapshot root and the run directory, and ends what an earlier daemon left running there.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let store = Store::open(&config.snapshot_root)?;
        let run_dir_lock = take_run_dir(&config.run_dir)?;
        let failed = |source| StartError::RunDir { path: config.run_dir.clone(), source };
        let run_dir = config.run_dir.canonicalize().map_err(failed)?;
        if store.root().starts_with(&run_dir) {
            return Err(StartError::RootInRunDir { root: store.root().to_owned(), run_dir });
        }
        match kill_leftovers(&config.run_dir).map_err(failed)? {
            0 => {}
            killed => tracing::warn!(killed, "ended microVMs that an earlier daemon left running"),
        }
        let images = Images::open(&store, config.images_bytes)?;
        let staging_memory = StagingMemory::new(config.staging_bytes);
        let (sandboxes, failed) = (Mutex::default(), Mutex::default());
        Ok(Self {
            config,
            store,
            images,
            staging_memory,
            sandboxes,
            failed,
            under_way: tokio::sync::RwLock::default(),
            _run_dir_lock: run_dir_lock,
        })
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Boots a microVM and snapshots it under `tag`.
    pub async fn create_snapshot(
        &self,
        tag: Tag,
        source: BootSource,
        (vcpus, mem_mib): (u8, u32),
        boot_wait_ms: Option<u64>,
    ) -> Result<Snapshot, OperationError> {
        let Config { firecracker, run_dir, .. } = &self.config;
        let unknown = Digest::of(b"");
        let manifest = Manifest {
            schema: SCHEMA.to_owned(),
            tag: tag.to_string(),
            created_at_unix: clock::unix_seconds(),
            branched_from: None,
            mode: BranchMode::Full,
            data_path: DataPath::Naive,
            durable: true,
            mem_mib,
            vcpus,
            rootfs: source.rootfs().map(|path| path.display().to_string()),
            firecracker: firecracker.version.clone(),
            // The files tell these, when they are there.
            identity: unknown,
            vmstate: unknown,
            memory: Memory::Image { digest: unknown },
        };
        snapshot_after_boot(
            &self.store,
            firecracker,
            run_dir,
            &source,
            boot_wait_ms,
            (tag.clone(), manifest),
        )
        .await?;
        Ok(describe(&self.store.snapshot(&tag)?))
    }

    /// Every whole snapshot, newest first.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>, OperationError> {
        Ok(self.store.snapshots()?.iter().map(describe).collect())
    }

    /// All there is to know about one snapshot, whole, damaged or in the making.
    pub fn snapshot(&self, tag: &Tag) -> Result<SnapshotDetail, OperationError> {
        let opened = match self.store.snapshot(tag) {
            Ok(opened) => opened,
            Err(StoreError::NotFound(_)) if self.store.is_being_made(tag) => {
                let writing = not_bootable(tag, "it is being written".into());
                return Ok(SnapshotDetail { status: SnapshotStatus::Writing, ..writing });
            }
            Err(StoreError::NotFound(name)) => {
                let reason = self.failure(tag).ok_or(StoreError::NotFound(name))?;
                return Ok(not_bootable(tag, reason));
            }
            Err(StoreError::Damaged { reason, .. }) => return Ok(not_bootable(tag, reason)),
            Err(error) => return Err(error.into()),
        };
        let chain = self.store.chain(tag);
        let dependents = self.store.dependents(tag)?;
        Ok(SnapshotDetail {
            tag: tag.to_string(),
            status: SnapshotStatus::Ready,
            bootable: chain.is_ok(),
            not_bootable_because: chain.as_ref().err().map(ToString::to_string),
            logical_bytes: opened.manifest.memory_bytes(),
            physical_bytes: opened.physical_bytes().unwrap_or(0),
            parent: opened.manifest.parent().map(|parent| parent.tag.clone()),
            depth: chain.map_or(0, |chain| chain.len() as u32 - 1),
            dependents: dependents.iter().map(Tag::to_string).collect(),
        })
    }

    /// Deletes a snapshot; sandboxes forked from it go on. Blocks for as long as the disk takes.
    pub fn delete_snapshot(&self, tag: &Tag, dependents: Dependents) -> Result<(), OperationError> {
        match dependents {
            Dependents::Refuse => {}
            Dependents::Cascade => {
                for dependent in self.store.dependents(tag)? {
                    self.delete_snapshot(&dependent, Dependents::Cascade)?;
                }
            }
            Dependents::Flatten => {
                for dependent in self.store.dependents(tag)? {
                    self.compact(&dependent)?;
                }
            }
        }
        let identity = self.store.snapshot(tag).map(|opened| opened.manifest.identity).ok();
        self.store.delete_snapshot(tag)?;
        if let Some(identity) = identity {
            self.images.delete_image(identity);
        }
        Ok(())
    }

    /// Turns a layer into an image of its own, which lies on nothing; layers on it stay what they are. Does
    /// nothing to an image. Blocks for as long as the disk takes.
    pub fn compact(&self, tag: &Tag) -> Result<(), OperationError> {
        Ok(compact(&self.store, &self.images, tag)?)
    }

    /// Forks `n` sandboxes from a snapshot: all of them, or none.
    pub async fn fork(&self, tag: &Tag, n: u32) -> Result<Vec<Arc<Sandbox>>, OperationError> {
        // One look for all of them. Blocks this task's thread; the runtime moves other tasks to another one.
        let (snapshot, image) =
            tokio::task::block_in_place(|| self.images.snapshot_with_image(&self.store, tag))?;
        require_rootfs(&snapshot.manifest)?;
        let fork_one = async |_| -> Result<Arc<Sandbox>, OperationError> {
            let Config { firecracker, run_dir, .. } = &self.config;
            let snapshot = snapshot.try_clone().map_err(at("open", &snapshot.dir))?;
            let image = image.try_clone().map_err(at("open", &snapshot.dir))?;
            Ok(Arc::new(Sandbox::fork(firecracker, run_dir, snapshot, image).await?))
        };
        // A failure drops the sandboxes forked so far, which ends them.
        let forked: Vec<_> = stream::iter(0..n).map(fork_one).buffered(FORKS_AT_ONCE).try_collect().await?;
        let mut sandboxes = self.lock_sandboxes();
        sandboxes.extend(forked.iter().map(|sandbox| (sandbox.id.clone(), Arc::clone(sandbox))));
        Ok(forked)
    }

    /// Every sandbox, dead ones included, in the order of their ids.
    pub fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        self.lock_sandboxes().values().cloned().collect()
    }

    /// The sandbox with that id.
    pub fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, OperationError> {
        self.lock_sandboxes().get(id).cloned().ok_or_else(|| OperationError::NoSandbox(id.to_owned()))
    }

    /// Ends a sandbox and forgets it. A BRANCH of it under way fails.
    pub async fn end_sandbox(&self, id: &str) -> Result<(), OperationError> {
        let removed = self.lock_sandboxes().remove(id);
        removed.ok_or_else(|| OperationError::NoSandbox(id.to_owned()))?.kill().await;
        Ok(())
    }

    /// Takes a BRANCH of a sandbox; see [`branch::branch`] for what holds afterwards.
    pub async fn branch(
        &self,
        id: &str,
        tag: Option<Tag>,
        (mode, data_path, durable): (BranchMode, Option<DataPath>, bool),
        resumed: Option<oneshot::Sender<crate::api::Branch>>,
    ) -> Result<crate::api::Branch, OperationError> {
        let sandbox = self.sandbox(id)?;
        let tag = match tag {
            Some(tag) => tag,
            // Hexadecimal digits and dashes are a tag.
            None => format!("branch-{}", unique::hex(6)).parse().expect("a generated tag is valid"),
        };
        let plan = Plan { tag, mode, data_path: data_path.unwrap_or(self.config.data_path), durable };
        let place = Place {
            store: &self.store,
            images: &self.images,
            staging_memory: &self.staging_memory,
            firecracker: &self.config.firecracker.version,
        };
        let _under_way = self.under_way.read().await;
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).remove(&plan.tag);
        let (tag, answers_early) = (plan.tag.clone(), resumed.is_some());
        let outcome = branch::branch(place, sandbox, plan, resumed).await;
        if let (Err(error), true) = (&outcome, answers_early) {
            tracing::error!(%tag, %error, "a BRANCH failed that its client may have been told of as being written");
            self.note_failure(tag, error.to_string());
        }
        Ok(outcome?)
    }

    fn note_failure(&self, tag: Tag, reason: String) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.len() >= KEPT_FAILURES {
            failed.pop_first();
        }
        failed.insert(tag, reason);
    }

    fn failure(&self, tag: &Tag) -> Option<String> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get(tag).cloned()
    }

    /// Waits until no BRANCH is under way, also none whose client has had its answer or has gone away.
    pub async fn wait_for_branches(&self) {
        drop(self.under_way.write().await);
    }

    /// Ends every sandbox.
    pub async fn end_all_sandboxes(&self) {
        let all = std::mem::take(&mut *self.lock_sandboxes());
        futures_util::future::join_all(all.values().map(|sandbox| sandbox.kill())).await;
    }

    fn lock_sandboxes(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Sandbox>>> {
        // Nothing that holds the lock can leave the map half-changed.
        self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn describe(snapshot: &Opened) -> Snapshot {
    let Manifest { tag, created_at_unix, branched_from, durable, mem_mib, vcpus, rootfs, .. } =
        snapshot.manifest.clone();
    Snapshot {
        tag,
        dir: snapshot.dir.display().to_string(),
        created_at_unix,
        branched_from,
        mem_mib,
        vcpus,
        // 0 where it was deleted a moment ago.
        physical_bytes: snapshot.physical_bytes().unwrap_or(0),
        durable,
        rootfs,
    }
}

fn not_bootable(tag: &Tag, reason: String) -> SnapshotDetail {
    SnapshotDetail {
        tag: tag.to_string(),
        status: SnapshotStatus::Failed,
        bootable: false,
        not_bootable_because: Some(reason),
        logical_bytes: 0,
        physical_bytes: 0,
        parent: None,
        depth: 0,
        dependents: Vec::new(),
    }
}

fn require_rootfs(manifest: &Manifest) -> Result<(), OperationError> {
    match &manifest.rootfs {
        Some(path) if !Path::new(path).is_file() => {
            Err(OperationError::RootfsGone { tag: manifest.tag.clone(), path: path.clone() })
        }
        _ => Ok(()),
    }
}

fn take_run_dir(run_dir: &Path) -> Result<File, StartError> {
    // `/sb-` and 12 digits, `/api.sock`, and the terminating zero must fit into the 108 bytes of sun_path.
    if run_dir.as_os_str().len() > 70 {
        return Err(StartError::RunDirTooLong(run_dir.to_owned()));
    }
    let failed = |source| StartError::RunDir { path: run_dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(run_dir).map_err(failed)?;
    let lock = File::create(run_dir.join(".lock")).map_err(failed)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| StartError::RunDirInUse(run_dir.to_owned()))?;
    Ok(lock)
}
