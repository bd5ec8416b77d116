//! BRANCH: pause, snapshot, resume, register the snapshot under a tag.

pub mod ahead;
pub mod boot;
pub mod destination;
mod in_flight;
pub mod pause;
pub mod phases;
pub mod staging_memory;
pub mod user_pause;
mod work;
pub mod written;

use std::fs::File;
use std::io;
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};

use probes_common::BranchPhase;
use tokio::task::spawn_blocking;

use self::destination::Destination;
use self::in_flight::InFlight;
use self::pause::PauseError;
use self::staging_memory::StagingMemory;
use self::work::Work;
pub(crate) use self::work::free_when_resumed;
use crate::api::{Branch, BranchMode, DataPath, SandboxState, SnapshotStatus};
use crate::attribution::Attribution;
use crate::clock::monotonic_ns;
use crate::events::Events;
use crate::sandbox::Sandbox;
use crate::snapshot::copy::Method;
use crate::snapshot::images::Images;
use crate::snapshot::manifest::{Manifest, Parent};
use crate::snapshot::store::{Reservation, Store, StoreError};
use crate::snapshot::tag::Tag;
use crate::vmm::VmmError;
use crate::vmm::control::Control;
use crate::watchdog::Watchdog;

/// Room in staging memory for device and CPU state.
const VMSTATE_BYTES: u64 = 1 << 20;

/// What a BRANCH is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its id in the history.
    pub id: String,
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
    /// A BRANCH before this one could not resume it.
    #[error(
        "sandbox '{0}' is stuck paused: a BRANCH could not resume it, and the daemon goes on trying; wait until \
         it runs, or end it"
    )]
    StuckPaused(String),
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
    /// It could not be written down that a BRANCH is under way.
    #[error("cannot note the BRANCH in the sandbox's run directory: {0}; the guest was not paused")]
    Record(io::Error),
    /// Copying the base or laying the diff over it failed.
    #[error("cannot {what} the memory image: {source}")]
    Image {
        /// `copy`, `merge` or `measure`.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl BranchError {
    /// The kind of failure, as metrics count it.
    pub fn kind(&self) -> &'static str {
        match self {
            _ if self.is_out_of_space() => "out_of_space",
            Self::Busy(_) => "busy",
            Self::Dead { .. } => "dead",
            Self::StuckPaused(_) => "stuck_paused",
            Self::NotRunning { .. } => "not_running",
            Self::Store(StoreError::Taken(_)) => "tag_taken",
            Self::Store(_) => "store",
            Self::Image { .. } => "image",
            Self::Record(_) => "record",
            Self::Pause(PauseError::StuckPaused(_)) => "stuck_paused",
            Self::Pause(PauseError::Panicked) => "panicked",
            Self::Pause(PauseError::NoThread(_)) => "no_thread",
            Self::Pause(PauseError::Failed(_) | PauseError::FailedLeftPaused(_)) | Self::Vmm(_) => {
                "firecracker"
            }
        }
    }

    /// Whether the disk, or the user's share of it, is full.
    pub fn is_out_of_space(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            Self::Store(error) => error.is_out_of_space(),
            Self::Image { source, .. } | Self::Record(source) => {
                matches!(source.kind(), StorageFull | QuotaExceeded)
            }
            // Firecracker hands the system's words on, and not the error number.
            Self::Pause(PauseError::Failed(error) | PauseError::FailedLeftPaused(error)) => {
                let text = error.to_string();
                text.contains("os error 28") || text.contains("os error 122")
            }
            _ => false,
        }
    }
}

/// A BRANCH that failed.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Failed {
    /// Why.
    pub error: BranchError,
    /// How far it came.
    pub reached: Box<Branch>,
}

/// What a BRANCH needs of the daemon.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Where snapshots are kept.
    pub store: &'a Store,
    /// Memory images of layers.
    pub images: &'a Images,
    /// Memory between the pause and the disk.
    pub staging_memory: &'a StagingMemory,
    /// Resumes the guest where this daemon cannot.
    pub watchdog: &'a Watchdog,
    /// Accounts for pauses.
    pub attribution: &'a Attribution,
    /// Where it is told of that a guest is stuck, and that it runs again.
    pub events: &'a Arc<Events>,
}

/// Staging memory that a BRANCH of such a guest reserves before the pause, in bytes.
pub fn staging_bytes_of(guest: &Manifest) -> u64 {
    guest.memory_bytes() + VMSTATE_BYTES
}

/// Takes a BRANCH of a sandbox. The guest runs again when this returns, unless it says
/// [`PauseError::StuckPaused`], or stays paused where its user had paused it; the snapshot is there whole, and
/// durable where the plan asks for it, or not at all. `resumed` is called with the report as it stands right after
/// the resume.
///
/// Waits for disks, all the way through but in the pause: call it on a thread that may wait.
pub fn branch(
    place: Place<'_>,
    sandbox: &Arc<Sandbox>,
    plan: &Plan,
    resumed: impl FnOnce(Branch),
) -> Result<Branch, Failed> {
    let mut work = Work::new(place, sandbox, plan);
    match take(place, sandbox, plan, &mut work, resumed) {
        Ok(()) => Ok(work.report(SnapshotStatus::Ready)),
        Err(error) => Err(Failed { error, reached: Box::new(work.report(SnapshotStatus::Failed)) }),
    }
}

/// The steps, in their order; what they find out is in `work`.
fn take(
    place: Place<'_>,
    sandbox: &Sandbox,
    plan: &Plan,
    work: &mut Work<'_>,
    resumed: impl FnOnce(Branch),
) -> Result<(), BranchError> {
    let mut base = {
        // A pause or resume by the user is over in a moment, and no BRANCH; it ends before this begins.
        let _turn = sandbox.user_turn.lock().unwrap_or_else(PoisonError::into_inner);
        sandbox.diff_base.try_lock().map_err(|_| BranchError::Busy(sandbox.id.clone()))?
    };
    let mut control = sandbox.control();
    let guest = guest_state(sandbox, &mut control)?;

    let prepare_start_ns = monotonic_ns();
    let staging = place.store.stage(plan.tag.clone())?;
    let lower = work.choose_mode_and_base(base.as_ref())?;
    let mut written = work.choose_where_firecracker_writes(&staging);
    let destination = work.create_destination(&staging, &written)?;
    // Before the pause: a later daemon must find that out too, and that it was a BRANCH that paused the guest.
    let in_flight = InFlight::begin(sandbox)?;
    let copying = match (&destination, &lower) {
        (Some(destination), Lower::Image(base)) => Some(copy_beside(work.method(), destination, base)?),
        _ => None,
    };
    work.write_back_drive();
    work.log.record(BranchPhase::Prepare, prepare_start_ns, monotonic_ns());

    // Whatever happens from here on, Firecracker's record of dirty pages no longer fits the old base.
    *base = None;
    let paused = work.snapshot_paused(guest, &mut control, (&written, &staging.drive_path()));
    // Waited for on every way out: the staging directory must not go while it is being written to.
    let copied = match copying {
        Some(copying) => work.finish_copy(copying),
        None => Ok(()),
    };
    paused?;
    work.measured = written.measure().map_err(|source| BranchError::Image { what: "measure", source })?;
    resumed(work.report(SnapshotStatus::Writing));
    copied?;
    work.merge(&staging, &written, destination)?;
    let published = work.publish(staging, written, &lower)?;
    if work.mode == BranchMode::Diff {
        sandbox.last_diff().learn(std::mem::take(&mut work.measured.extents));
    }
    in_flight.succeed(&published);
    *base = Some(published);
    Ok(())
}

/// What lies under the pages that Firecracker writes.
#[derive(Debug)]
enum Lower {
    /// Nothing: it writes all of guest memory.
    Nothing,
    /// An image that is copied.
    Image(File),
    /// A snapshot that the new one is a layer on; not deleted while it is pinned.
    Parent { parent: Parent, _pin: Reservation },
}

/// What the guest of a source does before a BRANCH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GuestState {
    /// It runs.
    Running,
    /// Its user has paused it, and wants it to stay so.
    PausedByUser,
}

/// Refuses a source that is dead, or that somebody else has paused; also opens the connection to its Firecracker,
/// so that the pause does not pay for it.
fn guest_state(sandbox: &Sandbox, control: &mut Control) -> Result<GuestState, BranchError> {
    let dead = || sandbox.obituary().map(|source| BranchError::Dead { id: sandbox.id.clone(), source });
    if let Some(error) = dead() {
        return Err(error);
    }
    if sandbox.state() == SandboxState::StuckPaused {
        return Err(BranchError::StuckPaused(sandbox.id.clone()));
    }
    let instance = control.instance().map_err(|error| dead().unwrap_or(BranchError::Vmm(error)))?;
    match instance.state.as_str() {
        // Also where somebody else has resumed it since its user paused it.
        "Running" => Ok(GuestState::Running),
        "Paused" if sandbox.is_paused_by_user() => Ok(GuestState::PausedByUser),
        state => Err(BranchError::NotRunning { id: sandbox.id.clone(), state: state.to_lowercase() }),
    }
}

/// Starts copying the base into the destination, on a thread of its own, beside the pause.
fn copy_beside(
    method: Method,
    destination: &Destination,
    base: &File,
) -> Result<JoinHandle<Copied>, BranchError> {
    let image = |source| BranchError::Image { what: "copy", source };
    let destination = destination.try_clone().map_err(image)?;
    let base = base.try_clone().map_err(image)?;
    let copy = move || {
        let start_ns = monotonic_ns();
        let result = destination.overlay(method, &base);
        Copied { start_ns, end_ns: monotonic_ns(), result }
    };
    thread::Builder::new().name("forkd-copy".to_owned()).spawn(copy).map_err(image)
}

struct Copied {
    start_ns: u64,
    end_ns: u64,
    result: io::Result<u64>,
}

/// Runs work that waits for a disk, or for a guest, on a thread that may wait.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is being shut down, and this task with it: it is not polled again.
            Err(_cancelled) => std::future::pending().await,
        },
    }
}
