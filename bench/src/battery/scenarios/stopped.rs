//! SIGSTOP, and the freezer, in the middle of the window.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

use probes::monotonic_ns;

use crate::Error;
use crate::battery::host::cgroup::{Controller, Group};
use crate::battery::host::process::Stopped;
use crate::battery::scenario::{
    BranchOf, Expected, Injection, Place, Scenario, Scene, Subject, common_ns, share,
};

/// How long it stands still: a multiple of what the rest of the window takes on a busy host.
const STOPPED: Duration = Duration::from_millis(1500);
/// Between two looks at whether the window has begun.
const LOOK: Duration = Duration::from_micros(300);

/// A guest large enough for its snapshot to be seen under way.
pub const LARGE: BranchOf = BranchOf::full(Place::Memory, 256);

/// By a signal.
pub const BY_SIGNAL: Scenario = Scenario {
    name: "sigstop",
    expected: Expected::OneOf(&["stopped"]),
    subject: Subject::Branch(LARGE),
    quick: true,
    names: &[],
    inject: |scene| Ok(Box::new(Interlude::stop(Begun::Memory, scene, STOPPED))),
};

/// By the freezer of cgroups.
pub const BY_FREEZER: Scenario = Scenario {
    name: "freezer",
    expected: Expected::OneOf(&["stopped"]),
    subject: Subject::Branch(LARGE),
    quick: true,
    names: &[],
    inject: |scene| {
        let mut group = Group::make(Controller::Freezer)?;
        group.take_in(scene.pid)?;
        Ok(Box::new(Interlude::wait_for(Begun::Memory, scene.root, move || {
            group.freeze(true)?;
            sleep(STOPPED);
            group.freeze(false)
        })))
    },
};

/// What Firecracker has begun to write: first its state, then its memory.
#[derive(Clone, Copy, Debug)]
pub enum Begun {
    /// The state's file is there.
    State,
    /// The memory image is there, and has its size.
    Memory,
}

impl Begun {
    fn is_seen(self, root: &Path) -> bool {
        let (name, least) = match self {
            Self::State => ("vmstate.bin", 0),
            Self::Memory => ("memory.bin", 1),
        };
        let folders = std::fs::read_dir(root.join(".staging")).into_iter().flatten().flatten();
        let file = |folder: PathBuf| folder.join(name).metadata().is_ok_and(|file| file.len() >= least);
        folders.map(|folder| folder.path()).any(file)
    }
}

/// First nanosecond, and the one after the last, of CLOCK_MONOTONIC.
pub type Stretch = (u64, u64);

/// Something that is done once, when Firecracker has begun to write a snapshot.
pub struct Interlude {
    thread: Option<JoinHandle<Result<Option<Stretch>, Error>>>,
    given_up: Arc<AtomicBool>,
}

impl Interlude {
    /// Stops Firecracker by a signal, for as long.
    pub fn stop(begun: Begun, scene: &Scene<'_>, length: Duration) -> Self {
        let pid = scene.pid;
        Self::wait_for(begun, scene.root, move || {
            let stopped = Stopped::stop(pid)?;
            sleep(length);
            drop(stopped);
            Ok(())
        })
    }

    /// Waits, on a thread of its own, until what has `begun` appears among the snapshots of `root` that are being made,
    /// and does `work` then.
    pub fn wait_for(
        begun: Begun,
        root: &Path,
        work: impl FnOnce() -> Result<(), Error> + Send + 'static,
    ) -> Self {
        let (root, given_up) = (root.to_owned(), Arc::new(AtomicBool::new(false)));
        let over = Arc::clone(&given_up);
        let thread = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if begun.is_seen(&root) {
                    let begun_ns = monotonic_ns();
                    work()?;
                    return Ok(Some((begun_ns, monotonic_ns())));
                }
                sleep(LOOK);
            }
            Ok(None)
        });
        Self { thread: Some(thread), given_up }
    }

    /// When it was; `None` where it came too late.
    pub fn stretch(&mut self) -> Result<Option<Stretch>, Error> {
        self.given_up.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(done)) => done,
            _ => Ok(None),
        }
    }
}

impl Drop for Interlude {
    fn drop(&mut self) {
        self.given_up.store(true, Ordering::Relaxed);
        // What it has stopped must run again before anybody goes on.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Injection for Interlude {
    fn known_shares(&mut self, window: (u64, u64)) -> Result<Vec<f64>, Error> {
        let took_ns = self.stretch()?.map_or(0, |took| common_ns(took, window));
        Ok(vec![share(took_ns, window)])
    }
}
