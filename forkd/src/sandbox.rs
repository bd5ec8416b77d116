//! One microVM that the daemon runs, and what a diff BRANCH of it builds on.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Mutex;

use crate::api::{Sandbox as Info, SandboxState};
use crate::clock;
use crate::snapshot::digest::Digest;
use crate::snapshot::extents::Extent;
use crate::snapshot::images::Image;
use crate::snapshot::manifest::Manifest;
use crate::snapshot::store::Opened;
use crate::snapshot::tag::Tag;
use crate::unique;
use crate::vmm::VmmError;
use crate::vmm::api::Api;
use crate::vmm::boot::{BootSource, Readiness};
use crate::vmm::console::Console;
use crate::vmm::control::Control;
use crate::vmm::firecracker::Firecracker;
use crate::vmm::process::Process;

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
    /// The parts of its memory that its last diff held; a guest often dirties the same ones again.
    pub last_diff: std::sync::Mutex<Vec<Extent>>,
    process: Process,
    created_at_unix: u64,
    branches: AtomicU64,
    branching: AtomicBool,
    stuck_paused: AtomicBool,
    killed: AtomicBool,
}

impl Sandbox {
    /// Boots a microVM and waits until its guest is ready. `manifest` says what it is.
    pub async fn boot(
        firecracker: &Firecracker,
        run_dir: &Path,
        source: &BootSource,
        boot_wait_ms: Option<u64>,
        manifest: Manifest,
    ) -> Result<Self, VmmError> {
        let (vcpus, mem_mib) = (manifest.vcpus, manifest.mem_mib);
        let sandbox = Self::start(firecracker, run_dir, manifest, None).await?;
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
    pub async fn fork(
        firecracker: &Firecracker,
        run_dir: &Path,
        snapshot: Opened,
        image: Image,
    ) -> Result<Self, VmmError> {
        // Through the files that are open here: the tag may be deleted, or taken again, meanwhile.
        let vmstate = open_path(&snapshot.vmstate);
        let memory = open_path(&image.file);
        let tag = snapshot.manifest.tag.parse().ok();
        let identity = snapshot.manifest.identity;
        let base = tag.map(|tag| DiffBase { tag, identity, image: Some(image.file) });
        let sandbox = Self::start(firecracker, run_dir, snapshot.manifest, base).await?;
        sandbox.api.load_snapshot(&vmstate, &memory).await?;
        Ok(sandbox)
    }

    async fn start(
        firecracker: &Firecracker,
        run_dir: &Path,
        origin: Manifest,
        base: Option<DiffBase>,
    ) -> Result<Self, VmmError> {
        let id = format!("sb-{}", unique::hex(6));
        let (process, console) = Process::start(firecracker, run_dir, &id).await?;
        Ok(Self {
            id,
            origin,
            api: Api::new(&process.api_socket()),
            console,
            diff_base: Mutex::new(base),
            last_diff: std::sync::Mutex::default(),
            process,
            created_at_unix: clock::unix_seconds(),
            branches: AtomicU64::new(0),
            branching: AtomicBool::new(false),
            stuck_paused: AtomicBool::new(false),
            killed: AtomicBool::new(false),
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
