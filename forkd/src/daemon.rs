//! What the daemon holds: the snapshots, the sandboxes, and the operations on them.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{StreamExt, TryStreamExt, stream};
use rustix::fs::{FlockOperation, flock};

use crate::api::{BranchMode, DataPath, Snapshot};
use crate::branch::boot::snapshot_after_boot;
use crate::branch::{self, BranchError, Plan};
use crate::clock;
use crate::sandbox::Sandbox;
use crate::snapshot::manifest::{Manifest, SCHEMA};
use crate::snapshot::store::{Opened, Store, StoreError};
use crate::snapshot::tag::Tag;
use crate::unique;
use crate::vmm::VmmError;
use crate::vmm::boot::BootSource;
use crate::vmm::firecracker::Firecracker;
use crate::vmm::process::kill_leftovers;

/// Forks of one request that are started at the same time.
const FORKS_AT_ONCE: usize = 8;

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
    sandboxes: Mutex<BTreeMap<String, Arc<Sandbox>>>,
    _run_dir_lock: File,
}

impl Daemon {
    /// Takes the snapshot root and the run directory, and ends what an earlier daemon left running there.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let store = Store::open(&config.snapshot_root)?;
        let run_dir_lock = take_run_dir(&config.run_dir)?;
        let failed = |source| StartError::RunDir { path: config.run_dir.clone(), source };
        match kill_leftovers(&config.run_dir).map_err(failed)? {
            0 => {}
            killed => tracing::warn!(killed, "ended microVMs that an earlier daemon left running"),
        }
        Ok(Self { config, store, sandboxes: Mutex::default(), _run_dir_lock: run_dir_lock })
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
        let manifest = Manifest {
            schema: SCHEMA.to_owned(),
            tag: tag.to_string(),
            created_at_unix: clock::unix_seconds(),
            branched_from: None,
            parent: None,
            mode: BranchMode::Full,
            data_path: DataPath::Naive,
            durable: true,
            mem_mib,
            vcpus,
            rootfs: source.rootfs().map(|path| path.display().to_string()),
            firecracker: firecracker.version.clone(),
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

    /// Deletes a snapshot; sandboxes forked from it go on.
    pub fn delete_snapshot(&self, tag: &Tag) -> Result<(), OperationError> {
        Ok(self.store.delete_snapshot(tag)?)
    }

    /// Forks `n` sandboxes from a snapshot: all of them, or none.
    pub async fn fork(&self, tag: &Tag, n: u32) -> Result<Vec<Arc<Sandbox>>, OperationError> {
        let fork_one = async |_| -> Result<Arc<Sandbox>, OperationError> {
            let snapshot = self.store.snapshot(tag)?;
            require_rootfs(&snapshot.manifest)?;
            let Config { firecracker, run_dir, .. } = &self.config;
            Ok(Arc::new(Sandbox::fork(firecracker, run_dir, snapshot).await?))
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
    ) -> Result<crate::api::Branch, OperationError> {
        let sandbox = self.sandbox(id)?;
        let tag = match tag {
            Some(tag) => tag,
            // Hexadecimal digits and dashes are a tag.
            None => format!("branch-{}", unique::hex(6)).parse().expect("a generated tag is valid"),
        };
        let plan = Plan { tag, mode, data_path: data_path.unwrap_or(self.config.data_path), durable };
        Ok(branch::branch(&self.store, &self.config.firecracker.version, sandbox, plan).await?)
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
