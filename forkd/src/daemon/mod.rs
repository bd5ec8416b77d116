//! What the daemon holds: the snapshots, the sandboxes, and the operations on them.

mod branches;
mod error;
mod packs;
mod sandboxes;
mod snapshots;

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{FlockOperation, flock};

use self::branches::Failures;
pub use self::error::{OperationError, StartError};
use crate::api::DataPath;
use crate::branch::staging_memory::StagingMemory;
use crate::sandbox::Sandbox;
use crate::snapshot::ahead::{Ahead, ImagesAhead};
use crate::snapshot::images::Images;
use crate::snapshot::store::Store;
use crate::vmm::firecracker::Firecracker;
use crate::vmm::process::kill_leftovers;

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
    /// Whether layers get their memory images before they are forked from.
    pub images_ahead: ImagesAhead,
}

/// The daemon's state.
#[derive(Debug)]
pub struct Daemon {
    config: Config,
    store: Arc<Store>,
    images: Arc<Images>,
    images_ahead: Ahead,
    staging_memory: StagingMemory,
    sandboxes: Mutex<BTreeMap<String, Arc<Sandbox>>>,
    failures: Failures,
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
        let images = Arc::new(Images::open(&store, config.images_bytes)?);
        let store = Arc::new(store);
        let images_ahead = Ahead::start(config.images_ahead, &store, &images).map_err(StartError::Thread)?;
        let staging_memory = StagingMemory::new(config.staging_bytes);
        Ok(Self {
            config,
            store,
            images,
            images_ahead,
            staging_memory,
            sandboxes: Mutex::default(),
            failures: Failures::default(),
            under_way: tokio::sync::RwLock::default(),
            _run_dir_lock: run_dir_lock,
        })
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.config
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
