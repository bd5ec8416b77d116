//! What the daemon holds: the snapshots, the sandboxes, and the operations on them.

mod adoption;
mod attributed;
mod branches;
mod error;
mod packs;
mod sandboxes;
mod snapshots;
mod watch;

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use self::adoption::adopt_all;
use self::branches::Failures;
pub use self::error::{OperationError, StartError};
pub use self::sandboxes::ForkOptions;
use crate::admission::Admission;
use crate::api::{DataPath, SandboxState};
use crate::attribution::{self, Attribution};
use crate::audit::AuditLog;
use crate::branch::staging_memory::StagingMemory;
use crate::events::{self, Events};
use crate::history::{self, History};
use crate::metrics::{Metrics, State};
use crate::sandbox::Sandbox;
use crate::snapshot::ahead::{Ahead, ImagesAhead};
use crate::snapshot::digest::Digest;
use crate::snapshot::drives::Drives;
use crate::snapshot::images::Images;
use crate::snapshot::origin::Origin;
use crate::snapshot::store::Store;
use crate::trend::Pauses;
use crate::vmm::cgroup::Cgroups;
use crate::vmm::firecracker::Firecracker;
use crate::watchdog::Watchdog;

/// How long microVMs that were just killed are given to be gone, before their cgroups are left to the next start.
const KILLED_WAIT: Duration = Duration::from_secs(1);

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
    /// Directory of the history of BRANCHes.
    pub data_dir: PathBuf,
    /// BRANCHes that the history remembers.
    pub history_keep: u64,
    /// BRANCHes that may be under way at once.
    pub max_branches: u64,
    /// BRANCHes that may be taken of one sandbox, where that is limited.
    pub max_branches_per_source: Option<u64>,
    /// The cgroup below which limited sandboxes get theirs, as `/proc/self/cgroup` writes it; the daemon's own
    /// when absent.
    pub cgroup_root: Option<PathBuf>,
    /// How long a pause may be before the watchdog looks after it.
    pub pause_lease: Duration,
    /// How pauses are accounted for.
    pub attribution: attribution::Options,
    /// Added to the environment of the watchdog, for its log.
    pub watchdog_environment: Vec<(&'static str, String)>,
}

/// The daemon's state.
#[derive(Debug)]
pub struct Daemon {
    config: Config,
    store: Arc<Store>,
    images: Arc<Images>,
    images_ahead: Ahead,
    drives: Drives,
    cgroups: Cgroups,
    /// What snapshots that are taken here depend on.
    origin: Origin,
    staging_memory: StagingMemory,
    sandboxes: Mutex<BTreeMap<String, Arc<Sandbox>>>,
    failures: Failures,
    admission: Admission,
    pauses: Pauses,
    events: Arc<Events>,
    metrics: Metrics,
    history: History,
    watchdog: Watchdog,
    attribution: Attribution,
    audit_log: OnceLock<Arc<AuditLog>>,
    /// Held for reading by each BRANCH, to its very end.
    under_way: tokio::sync::RwLock<()>,
    _run_dir_lock: File,
    _data_dir_lock: File,
}

impl Daemon {
    /// Takes the snapshot root and the run directory, and takes over the sandboxes that an earlier daemon left
    /// running there.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let store = Store::open(&config.snapshot_root)?;
        let run_dir_lock = take_run_dir(&config.run_dir)?;
        let failed = |source| StartError::RunDir { path: config.run_dir.clone(), source };
        let run_dir = config.run_dir.canonicalize().map_err(failed)?;
        if store.root().starts_with(&run_dir) {
            return Err(StartError::RootInRunDir { root: store.root().to_owned(), run_dir });
        }
        let data_dir_lock = take_data_dir(&config.data_dir)?;
        let metrics = Metrics::new(&config.firecracker.version);
        let history = open_history(&config, &store, &metrics)?;
        let images = Images::open(&store, config.images_bytes)?.noted_in(metrics.materialisations());
        let (drives, cgroups) =
            (Drives::open(&store)?, Cgroups::open(config.cgroup_root.as_deref(), &cgroup_name(&run_dir)));
        let watchdog = Watchdog::start(config.pause_lease, config.watchdog_environment.clone())
            .map_err(StartError::Watchdog)?;
        let events = Arc::new(Events::new(events::KEPT));
        let adopted = adopt_all(&config.run_dir, &drives, &cgroups, &events).await.map_err(failed)?;
        drives.delete_leftovers(&config.run_dir)?;
        cgroups.delete_leftovers(KILLED_WAIT, |id| adopted.iter().any(|sandbox| sandbox.id == id));
        let (store, images) = (Arc::new(store), Arc::new(images));
        let images_ahead = Ahead::start(config.images_ahead, &store, &images).map_err(StartError::Thread)?;
        let staging_memory = StagingMemory::new(config.staging_bytes);
        let admission = Admission::new(config.max_branches, config.staging_bytes);
        let origin = Origin::here(&config.firecracker);
        let attribution = Attribution::start(&config.attribution);
        let daemon = Self {
            config,
            store,
            images,
            images_ahead,
            drives,
            cgroups,
            origin,
            staging_memory,
            sandboxes: Mutex::default(),
            failures: Failures::default(),
            admission,
            pauses: Pauses::default(),
            events,
            metrics,
            history,
            watchdog,
            attribution,
            audit_log: OnceLock::new(),
            under_way: tokio::sync::RwLock::default(),
            _run_dir_lock: run_dir_lock,
            _data_dir_lock: data_dir_lock,
        };
        daemon.take_over(adopted);
        Ok(daemon)
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Has what came of attributions written to `log` as well. The first time counts.
    pub fn audit_to(&self, log: Arc<AuditLog>) {
        let _ = self.audit_log.set(log);
    }

    /// What happens in it.
    pub fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// The BRANCHes that were taken.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Its figures, as Prometheus reads them.
    pub fn render_metrics(&self) -> Result<String, OperationError> {
        let states = self.sandboxes().into_iter().map(|sandbox| sandbox.state());
        let (mut sandboxes_active, mut sandboxes_stuck_paused) = (0, 0);
        for state in states {
            sandboxes_active += u64::from(state != SandboxState::Dead);
            sandboxes_stuck_paused += u64::from(state == SandboxState::StuckPaused);
        }
        let (branches_waiting, branches_writing) = self.admission.under_way();
        Ok(self.metrics.render(State {
            snapshots: self.store.count()?,
            sandboxes_active,
            sandboxes_stuck_paused,
            staged_bytes: self.staging_memory.reserved_bytes(),
            staging_limit_bytes: self.staging_memory.limit_bytes(),
            branches_waiting,
            branches_writing,
        }))
    }
}

/// Opens the history; what an earlier daemon left `writing` is `ready` where its snapshot is listed.
fn open_history(config: &Config, store: &Store, metrics: &Metrics) -> Result<History, StartError> {
    let is_listed = |source: &str, tag: &str| {
        let snapshot = tag.parse().ok().and_then(|tag| store.snapshot(&tag).ok());
        snapshot.is_some_and(|snapshot| snapshot.manifest.branched_from.as_deref() == Some(source))
    };
    let path = config.data_dir.join(history::FILE);
    History::start(path, config.history_keep, metrics.history_lost(), is_listed)
        .map_err(|source| StartError::DataDir { path: config.data_dir.clone(), source })
}

fn take_data_dir(data_dir: &Path) -> Result<File, StartError> {
    let failed = |source| StartError::DataDir { path: data_dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(failed)?;
    let lock = File::create(data_dir.join("history.lock")).map_err(failed)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| StartError::DataDirInUse(data_dir.to_owned()))?;
    Ok(lock)
}

/// The name of this daemon's cgroup, which no daemon with another run directory has.
fn cgroup_name(run_dir: &Path) -> String {
    let digest = Digest::of(run_dir.as_os_str().as_bytes()).to_string();
    format!("forkd-{}", &digest[..8])
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
