//! One microVM that the daemon runs, and what a diff BRANCH of it builds on.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex;

use crate::api::{Sandbox as Info, SandboxState};
use crate::branch::ahead::LastDiff;
use crate::clock;
use crate::snapshot::digest::Digest;
use crate::snapshot::drives::Drive;
use crate::snapshot::images::Image;
use crate::snapshot::manifest::Manifest;
use crate::snapshot::store::Opened;
use crate::snapshot::tag::Tag;
use crate::unique;
use crate::vmm::VmmError;
use crate::vmm::api::Api;
use crate::vmm::boot::{BootSource, Readiness};
use crate::vmm::cgroup::Limits;
use crate::vmm::confine::Confinement;
use crate::vmm::console::Console;
use crate::vmm::control::Control;
use crate::vmm::firecracker::Firecracker;
use crate::vmm::process::Process;

/// In the run directory of a sandbox whose user has paused it.
pub const PAUSED_BY_USER_FILE: &str = "paused-by-user";

/// A process that was killed may be noticed to have ended only after the call to it has failed.
const OBITUARY_WAIT: Duration = Duration::from_millis(200);

/// What a diff BRANCH builds on: the snapshot that holds everything the guest had not dirtied since. The pages
/// of the next diff laid over its memory are the guest's memory.
#[derive(Debug)]
pub struct DiffBase {
    /// Its tag.
    pub tag: Tag,
    /// Its identity, which tells it from a later snapshot of the same name.
    pub identity: Digest,
    /// Its memory image, where there is one; kept open, so that deleting the tag does not take it away.
    pub image: Option<File>,
}

/// A microVM to be booted.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// What it runs on.
    pub firecracker: &'a Firecracker,
    /// The directory of all run directories.
    pub run_dir: &'a Path,
    /// What it boots.
    pub source: &'a BootSource,
    /// When its guest counts as ready.
    pub boot_wait_ms: Option<u64>,
}

/// A child to be forked.
#[derive(Debug)]
pub struct Child {
    /// Its id, of [`new_id`].
    pub id: String,
    /// The snapshot.
    pub snapshot: Opened,
    /// The snapshot's memory.
    pub image: Image,
    /// Its root drive, where the guest writes to one.
    pub drive: Option<Drive>,
    /// Where it runs and what it may use.
    pub confinement: Confinement,
    /// CLOCK_MONOTONIC when it was asked for.
    pub requested_ns: u64,
}

/// An id that no sandbox has.
pub fn new_id() -> String {
    format!("sb-{}", unique::hex(6))
}

/// A microVM and its Firecracker process.
#[derive(Debug)]
pub struct Sandbox {
    /// Its id, which is also the name of its run directory.
    pub id: String,
    /// The manifest of the snapshot it was forked from; of the microVM itself where it was booted.
    pub origin: Manifest,
    /// Firecracker's API.
    pub api: Api,
    /// The guest's serial console.
    pub console: Console,
    /// What the next diff BRANCH builds on; `None` where only a full one is right. Locked over a whole
    /// BRANCH, so that there is one at a time.
    pub diff_base: Mutex<Option<DiffBase>>,
    last_diff: std::sync::Mutex<LastDiff>,
    process: Process,
    /// The root drive that the guest writes to; deleted with the sandbox.
    pub drive: Option<Drive>,
    limits: Limits,
    netns: Option<String>,
    running_after_ns: u64,
    created_at_unix: u64,
    branches: AtomicU64,
    branching: AtomicBool,
    stuck_paused: AtomicBool,
    killed: AtomicBool,
    paused_by_user: AtomicBool,
    /// Held while the guest is paused or resumed for its user, and while a BRANCH begins.
    pub user_turn: std::sync::Mutex<()>,
}

impl Sandbox {
    /// Boots a microVM and waits until its guest is ready. `manifest` says what it is.
    pub async fn boot(
        Boot { firecracker, run_dir, source, boot_wait_ms }: Boot<'_>,
        (id, drive): (String, Option<Drive>),
        manifest: Manifest,
    ) -> Result<Self, VmmError> {
        let (vcpus, mem_mib) = (manifest.vcpus, manifest.mem_mib);
        let unconfined = (id, Confinement::default());
        let sandbox = Self::start(firecracker, run_dir, unconfined, drive, manifest, None).await?;
        let built_in = run_dir.join(&sandbox.id).join("guest.elf");
        let kernel = match source {
            BootSource::Kernel { kernel, .. } => kernel,
            BootSource::BuiltIn => {
                std::fs::write(&built_in, guest::IMAGE).map_err(|source| VmmError::Start {
                    what: "write",
                    path: built_in.clone(),
                    source,
                })?;
                &built_in
            }
        };
        sandbox.api.boot(source, kernel, vcpus, mem_mib).await?;
        sandbox.wait_until_ready(source.readiness(boot_wait_ms)).await?;
        Ok(sandbox)
    }

    /// Forks a microVM from a snapshot and its memory image; the guest goes on where it was paused.
    pub async fn fork(firecracker: &Firecracker, run_dir: &Path, child: Child) -> Result<Self, VmmError> {
        let Child { id, snapshot, image, drive, confinement, requested_ns } = child;
        // Through the files that are open here: the tag may be deleted, or taken again, meanwhile.
        let vmstate = open_path(&snapshot.vmstate);
        let memory = open_path(&image.file);
        let tag = snapshot.manifest.tag.parse().ok();
        let identity = snapshot.manifest.identity;
        let base = tag.map(|tag| DiffBase { tag, identity, image: Some(image.file) });
        let mut sandbox =
            Self::start(firecracker, run_dir, (id, confinement), drive, snapshot.manifest, base).await?;
        if let Err(error) = sandbox.api.load_snapshot(&vmstate, &memory).await {
            // What ended it says more than the call that failed for it.
            return Err(sandbox.process.ended_within(OBITUARY_WAIT).await.unwrap_or(error));
        }
        sandbox.running_after_ns = clock::monotonic_ns().saturating_sub(requested_ns);
        Ok(sandbox)
    }

    async fn start(
        firecracker: &Firecracker,
        run_dir: &Path,
        (id, confinement): (String, Confinement),
        drive: Option<Drive>,
        origin: Manifest,
        base: Option<DiffBase>,
    ) -> Result<Self, VmmError> {
        let limits = confinement.cgroup.as_ref().map(|cgroup| cgroup.limits()).unwrap_or_default();
        let netns = confinement.netns.as_ref().map(|netns| netns.name().to_owned());
        let (process, console) = Process::start(firecracker, run_dir, &id, confinement).await?;
        if let Some(drive) = &drive {
            let dir = run_dir.join(&id);
            let what = "put a link to the drive into";
            drive.link_into(&dir).map_err(|source| VmmError::Start { what, path: dir, source })?;
        }
        Ok(Self {
            id,
            origin,
            api: Api::new(&process.api_socket()),
            console,
            diff_base: Mutex::new(base),
            last_diff: std::sync::Mutex::default(),
            process,
            drive,
            limits,
            netns,
            running_after_ns: 0,
            created_at_unix: clock::unix_seconds(),
            branches: AtomicU64::new(0),
            branching: AtomicBool::new(false),
            stuck_paused: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            paused_by_user: AtomicBool::new(false),
            user_turn: std::sync::Mutex::default(),
        })
    }

    async fn wait_until_ready(&self, readiness: Readiness) -> Result<(), VmmError> {
        let (expected, wait) = match readiness {
            Readiness::Line(line, wait) => (Some(line), wait),
            Readiness::Wait(wait) => (None, wait),
        };
        let said = self.console.exchange(b"", expected.map(str::as_bytes), wait).await;
        if !self.process.is_alive() {
            return Err(self.process.obituary());
        }
        match (expected, said) {
            (Some(expected), Ok(exchange)) if !exchange.matched => Err(VmmError::GuestNotReady {
                expected: expected.to_owned(),
                waited_ms: wait.as_millis(),
                tail: self.console.tail(200),
            }),
            _ => Ok(()),
        }
    }

    /// Process id of its Firecracker.
    pub fn pid(&self) -> u32 {
        self.process.identity().pid
    }

    /// What its diffs were like; a guest often dirties the same pages again.
    pub(crate) fn last_diff(&self) -> MutexGuard<'_, LastDiff> {
        // A guess that was left half-learnt is a worse guess, and no more.
        self.last_diff.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to its Firecracker for the thread that holds the guest paused; not open yet.
    pub fn control(&self) -> Control {
        Control::new(self.process.api_socket())
    }

    /// What it is doing, as far as the daemon knows.
    pub fn state(&self) -> SandboxState {
        if !self.process.is_alive() {
            SandboxState::Dead
        } else if self.stuck_paused.load(Ordering::Relaxed) {
            SandboxState::StuckPaused
        } else if self.branching.load(Ordering::Relaxed) {
            SandboxState::Branching
        } else if self.is_paused_by_user() {
            SandboxState::Paused
        } else {
            SandboxState::Running
        }
    }

    /// What the API says of it.
    pub fn info(&self) -> Info {
        Info {
            id: self.id.clone(),
            snapshot_tag: self.origin.tag.clone(),
            state: self.state(),
            pid: self.pid(),
            created_at_unix: self.created_at_unix,
            mem_mib: self.origin.mem_mib,
            branches: self.branches.load(Ordering::Relaxed),
            running_after_ns: self.running_after_ns,
            running_after_ms: self.running_after_ns as f64 / 1e6,
            netns: self.netns.clone(),
            memory_limit_mib: self.limits.memory_mib,
            cpu_quota: self.limits.cpus,
            dead_because: self.obituary().map(|error| error.to_string()),
        }
    }

    /// An error that says why its Firecracker is gone, where it is.
    pub fn obituary(&self) -> Option<VmmError> {
        (!self.process.is_alive()).then(|| self.process.obituary())
    }

    /// Completes when its Firecracker is gone.
    pub fn end(&self) -> impl Future<Output = ()> + Send + use<> {
        self.process.end()
    }

    /// BRANCHes taken of it that succeeded.
    pub fn branches(&self) -> u64 {
        self.branches.load(Ordering::Relaxed)
    }

    /// Whether it was [`Self::kill`] that ended it, or will have.
    pub fn was_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }

    /// Notes whether a BRANCH holds the guest.
    pub(crate) fn set_branching(&self, branching: bool) {
        self.branching.store(branching, Ordering::Relaxed);
    }

    /// Notes whether the guest stands still and could not be resumed.
    pub(crate) fn set_stuck_paused(&self, stuck: bool) {
        self.stuck_paused.store(stuck, Ordering::Relaxed);
    }

    /// Whether its user has paused the guest and not resumed it.
    pub fn is_paused_by_user(&self) -> bool {
        self.paused_by_user.load(Ordering::Relaxed)
    }

    /// Notes whether its user has paused the guest, also in its run directory: whoever resumes guests that a
    /// daemon left paused must leave this one as it is.
    pub(crate) fn set_paused_by_user(&self, paused: bool) -> Result<(), VmmError> {
        let path = self.process.dir().join(PAUSED_BY_USER_FILE);
        let (what, noted) = match paused {
            true => ("create", File::create(&path).map(drop)),
            false => ("delete", std::fs::remove_file(&path)),
        };
        self.paused_by_user.store(paused, Ordering::Relaxed);
        match noted {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(VmmError::Start { what, path, source })
            }
            _ => Ok(()),
        }
    }

    /// Counts a BRANCH that succeeded.
    pub(crate) fn count_branch(&self) {
        self.branches.fetch_add(1, Ordering::Relaxed);
    }

    /// Kills its Firecracker at once; what waits for it fails.
    pub async fn kill(&self) {
        self.killed.store(true, Ordering::Relaxed);
        self.process.kill().await;
    }
}

/// The path under which another process of the same user finds a file that this one has open.
fn open_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()))
}
