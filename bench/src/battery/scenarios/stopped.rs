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
    inject: |scene| {
        let pid = scene.pid;
        Ok(Box::new(Interlude::wait_for_snapshot(scene.root, move || {
            let stopped = Stopped::stop(pid)?;
            sleep(STOPPED);
            drop(stopped);
            Ok(())
        })))
    },
};

/// By the freezer of cgroups.
pub const BY_FREEZER: Scenario = Scenario {
    name: "freezer",
    expected: Expected::OneOf(&["stopped"]),
    subject: Subject::Branch(LARGE),
    quick: true,
    inject: |scene| {
        let mut group = Group::make(Controller::Freezer)?;
        group.take_in(scene.pid)?;
        Ok(Box::new(Interlude::wait_for_snapshot(scene.root, move || {
            group.freeze(true)?;
            sleep(STOPPED);
            group.freeze(false)
        })))
    },
};

/// First nanosecond, and the one after the last, of CLOCK_MONOTONIC.
type Stretch = (u64, u64);

/// Something that is done once, when Firecracker has begun to write a snapshot.
pub struct Interlude {
    thread: Option<JoinHandle<Result<Option<Stretch>, Error>>>,
    given_up: Arc<AtomicBool>,
}

impl Interlude {
    /// Waits, on a thread of its own, until a memory image appears among the snapshots of `root` that are being made,
    /// and does `work` then.
    pub fn wait_for_snapshot(root: &Path, work: impl FnOnce() -> Result<(), Error> + Send + 'static) -> Self {
        let (root, given_up) = (root.to_owned(), Arc::new(AtomicBool::new(false)));
        let over = Arc::clone(&given_up);
        let thread = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if image_under_way(&root) {
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

    /// The part of the window that it took; 0 where it came too late.
    pub fn share_of(&mut self, window: (u64, u64)) -> Result<f64, Error> {
        self.given_up.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(done)) => Ok(done?.map_or(0.0, |took| share(common_ns(took, window), window))),
            _ => Ok(0.0),
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
        Ok(vec![self.share_of(window)?])
    }
}

/// Whether Firecracker has created the memory image of a snapshot that is being made, and given it its size.
fn image_under_way(root: &Path) -> bool {
    let folders = std::fs::read_dir(root.join(".staging")).into_iter().flatten().flatten();
    let image = |folder: PathBuf| folder.join("memory.bin").metadata().is_ok_and(|file| file.len() > 0);
    folders.map(|folder| folder.path()).any(image)
}

/// As a scenario names it: nothing else of the scene is needed.
pub fn stop_in_snapshot(scene: &Scene<'_>, length: Duration) -> Interlude {
    let pid = scene.pid;
    Interlude::wait_for_snapshot(scene.root, move || {
        let stopped = Stopped::stop(pid)?;
        sleep(length);
        drop(stopped);
        Ok(())
    })
}
