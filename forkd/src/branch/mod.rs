//! BRANCH: pause, snapshot, resume, register the snapshot under a tag.

pub mod boot;
pub mod destination;
pub mod pause;
pub mod phases;

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use probes_common::BranchPhase;
use tokio::task::{JoinHandle, spawn_blocking};

use self::destination::Destination;
use self::pause::{PauseError, with_guest_paused};
use self::phases::PhaseLog;
use crate::api::{Branch, BranchMode, DataPath};
use crate::clock::{self, monotonic_ns};
use crate::sandbox::{DiffBase, Sandbox};
use crate::snapshot::manifest::{Manifest, SCHEMA};
use crate::snapshot::staging::Staging;
use crate::snapshot::store::{Store, StoreError, at};
use crate::snapshot::tag::Tag;
use crate::vmm::VmmError;

/// What a BRANCH is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Name of the new snapshot.
    pub tag: Tag,
    /// What Firecracker writes.
    pub mode: BranchMode,
    /// How it gets to disk.
    pub data_path: DataPath,
    /// Whether it is synced before it becomes visible.
    pub durable: bool,
}

/// Why there is no new snapshot.
#[derive(Debug, thiserror::Error)]
pub enum BranchError {
    /// One BRANCH of a sandbox at a time.
    #[error("sandbox '{0}' is being branched: wait for that BRANCH to end")]
    Busy(String),
    /// Firecracker is gone.
    #[error("sandbox '{id}' is dead: {source}")]
    Dead {
        /// The sandbox.
        id: String,
        /// What is known of its end.
        source: VmmError,
    },
    /// Somebody else paused the guest; it is left as it is.
    #[error("sandbox '{id}' is {state}, not running: resume it first")]
    NotRunning {
        /// The sandbox.
        id: String,
        /// What Firecracker says it is.
        state: String,
    },
    /// Firecracker refused before the pause.
    #[error(transparent)]
    Vmm(#[from] VmmError),
    /// The snapshot could not be written or published.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The pause, the snapshot or the resume failed.
    #[error(transparent)]
    Pause(#[from] PauseError),
    /// Copying the base or laying the diff over it failed.
    #[error("cannot {what} the memory image: {source}")]
    Image {
        /// `copy` or `merge`.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl BranchError {
    /// Whether the disk, or the user's share of it, is full.
    pub fn is_out_of_space(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            Self::Store(error) => error.is_out_of_space(),
            Self::Image { source, .. } => matches!(source.kind(), StorageFull | QuotaExceeded),
            // Firecracker hands the system's words on, and not the error number.
            Self::Pause(PauseError::Failed(error)) => {
                let text = error.to_string();
                text.contains("os error 28") || text.contains("os error 122")
            }
            _ => false,
        }
    }
}

/// Takes a BRANCH of a running sandbox. The guest runs again when this returns, unless it says
/// [`PauseError::StuckPaused`]; the snapshot is there whole, and durable where the plan asks for it, or not at all.
///
/// Must run in a task of its own: dropping the future half-way leaves the guest paused.
pub async fn branch(
    store: &Store,
    firecracker: &str,
    sandbox: Arc<Sandbox>,
    plan: Plan,
) -> Result<Branch, BranchError> {
    let mut base = sandbox.diff_base.try_lock().map_err(|_| BranchError::Busy(sandbox.id.clone()))?;
    require_running(&sandbox).await?;
    let mut work = Work { log: PhaseLog::default(), warnings: Vec::new(), sandbox: &sandbox };
    let mode = work.mode_that_can_be_had(plan.mode, base.is_some());

    let prepare_start_ns = monotonic_ns();
    let staging = store.stage(plan.tag.clone())?;
    let destination = work.prepare(&staging, plan.data_path).await?;
    let copying = match (mode, base.as_ref()) {
        (BranchMode::Diff, Some(base)) => Some(copy_beside(&destination, base)?),
        _ => None,
    };
    work.log.record(BranchPhase::Prepare, prepare_start_ns, monotonic_ns());

    // Whatever happens from here on, Firecracker's record of dirty pages no longer fits the old base.
    let old_base = base.take();
    let written = match mode {
        BranchMode::Full => staging.memory_path(),
        BranchMode::Diff => staging.diff_path(),
    };
    let snapshot = work.snapshot_paused(mode, &staging, &written).await;
    // Awaited on every way out: the staging directory must not go while it is being written to.
    let copied = match copying {
        Some(copying) => work.finish_copy(copying).await,
        None => Ok(()),
    };
    snapshot?;
    copied?;
    if mode == BranchMode::Diff {
        work.merge(&destination, &written).await?;
    }
    let diff_physical_bytes = physical_bytes(&written)?;
    let manifest = work.manifest(&plan, mode, firecracker);
    let parent_tag = old_base.map(|base| base.tag);
    tracing::debug!(tag = %plan.tag, parent = parent_tag, "publishing");
    let memory = work.publish(staging, manifest).await?;
    *base = Some(DiffBase { memory, tag: plan.tag.to_string() });
    sandbox.count_branch();
    Ok(work.report(&plan, mode, diff_physical_bytes))
}

/// Refuses a source that is dead or that somebody else has paused; also opens the API connection, so that
/// the pause does not pay for it.
async fn require_running(sandbox: &Sandbox) -> Result<(), BranchError> {
    let dead = || sandbox.obituary().map(|source| BranchError::Dead { id: sandbox.id.clone(), source });
    if let Some(error) = dead() {
        return Err(error);
    }
    let state =
        sandbox.api.instance().await.map_err(|error| dead().unwrap_or(BranchError::Vmm(error)))?.state;
    match state.as_str() {
        "Running" => Ok(()),
        _ => Err(BranchError::NotRunning { id: sandbox.id.clone(), state: state.to_lowercase() }),
    }
}

/// Starts copying the base into the destination, on a thread of its own, beside the pause.
fn copy_beside(destination: &Destination, base: &DiffBase) -> Result<JoinHandle<Copied>, BranchError> {
    let image = |source| BranchError::Image { what: "copy", source };
    let destination = destination.try_clone().map_err(image)?;
    let memory = base.memory.try_clone().map_err(image)?;
    Ok(spawn_blocking(move || {
        let start_ns = monotonic_ns();
        let result = destination.overlay(&memory);
        Copied { start_ns, end_ns: monotonic_ns(), result }
    }))
}

struct Copied {
    start_ns: u64,
    end_ns: u64,
    result: io::Result<u64>,
}

/// One BRANCH under way: what it has found out so far.
struct Work<'a> {
    log: PhaseLog,
    warnings: Vec<String>,
    sandbox: &'a Sandbox,
}

impl Work<'_> {
    fn mode_that_can_be_had(&mut self, wanted: BranchMode, has_base: bool) -> BranchMode {
        if wanted == BranchMode::Diff && !has_base {
            self.warn("full instead of diff: a BRANCH before this one failed, and the record of dirty pages with it");
            return BranchMode::Full;
        }
        wanted
    }

    fn warn(&mut self, warning: &str) {
        tracing::warn!(sandbox = self.sandbox.id, "{warning}");
        self.warnings.push(warning.to_owned());
    }

    async fn prepare(&mut self, staging: &Staging, data_path: DataPath) -> Result<Destination, BranchError> {
        let path = staging.memory_path();
        let bytes = self.sandbox.origin.memory_bytes();
        let create = {
            let path = path.clone();
            move || Destination::create(&path, bytes, data_path)
        };
        let destination = blocking(create).await.map_err(at("create", &path))?;
        if let Some(reason) = &destination.not_preallocated {
            self.warn(reason);
        }
        Ok(destination)
    }

    async fn snapshot_paused(
        &mut self,
        mode: BranchMode,
        staging: &Staging,
        memory: &Path,
    ) -> Result<(), BranchError> {
        let sandbox = self.sandbox;
        let vmstate = staging.vmstate_path();
        sandbox.set_branching(true);
        let create = sandbox.api.create_snapshot(mode, &vmstate, memory);
        let outcome = with_guest_paused(&sandbox.api, &mut self.log, create).await;
        sandbox.set_branching(false);
        if let Err(error @ PauseError::StuckPaused(_)) = &outcome
            && sandbox.obituary().is_none()
        {
            tracing::error!(sandbox = sandbox.id, %error, "STUCK PAUSED");
            sandbox.set_stuck_paused();
        }
        match (outcome, sandbox.obituary()) {
            (Ok(()), _) => Ok(()),
            (Err(_), Some(source)) => Err(BranchError::Dead { id: sandbox.id.clone(), source }),
            (Err(error), None) => Err(error.into()),
        }
    }

    async fn finish_copy(&mut self, copying: JoinHandle<Copied>) -> Result<(), BranchError> {
        let image = |source| BranchError::Image { what: "copy", source };
        let copied = copying.await.map_err(|panic| image(io::Error::other(panic)))?;
        self.log.record(BranchPhase::Copy, copied.start_ns, copied.end_ns);
        copied.result.map(drop).map_err(image)
    }

    async fn merge(&mut self, destination: &Destination, diff: &Path) -> Result<(), BranchError> {
        let image = |source| BranchError::Image { what: "merge", source };
        let destination = destination.try_clone().map_err(image)?;
        let diff = diff.to_owned();
        let merge = blocking(move || destination.overlay(&File::open(diff)?));
        self.log.time(BranchPhase::Merge, merge).await.map(drop).map_err(image)
    }

    fn manifest(&self, plan: &Plan, mode: BranchMode, firecracker: &str) -> Manifest {
        let origin = &self.sandbox.origin;
        Manifest {
            schema: SCHEMA.to_owned(),
            tag: plan.tag.to_string(),
            created_at_unix: clock::unix_seconds(),
            branched_from: Some(self.sandbox.id.clone()),
            parent: Some(origin.tag.clone()),
            mode,
            data_path: plan.data_path,
            durable: plan.durable,
            mem_mib: origin.mem_mib,
            vcpus: origin.vcpus,
            rootfs: origin.rootfs.clone(),
            firecracker: firecracker.to_owned(),
        }
    }

    /// Publishes the snapshot and opens its memory image, the base of the next diff.
    async fn publish(&mut self, staging: Staging, manifest: Manifest) -> Result<File, BranchError> {
        let publish = blocking(move || {
            let memory = File::open(staging.memory_path()).map_err(at("open", &staging.memory_path()))?;
            staging.publish(&manifest)?;
            Ok::<_, StoreError>(memory)
        });
        Ok(self.log.time(BranchPhase::Publish, publish).await?)
    }

    fn report(self, plan: &Plan, mode: BranchMode, diff_physical_bytes: u64) -> Branch {
        let pause_ns = self.log.pause_ns();
        Branch {
            tag: plan.tag.to_string(),
            branched_from: self.sandbox.id.clone(),
            mode,
            data_path: plan.data_path,
            pause_ns,
            pause_ms: to_ms(pause_ns),
            diff_ms: to_ms(self.log.ns(BranchPhase::Create)),
            diff_physical_bytes,
            phases: self.log.spans(),
            warnings: self.warnings,
        }
    }
}

fn to_ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

fn physical_bytes(path: &Path) -> Result<u64, StoreError> {
    std::fs::metadata(path).map(|metadata| metadata.blocks() * 512).map_err(at("read", path))
}

/// Runs work that waits for a disk on a thread that may wait.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(result) => result,
        // Cancelled only when the runtime shuts down, which waits for every BRANCH first: so it panicked.
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
