//! Images made ahead of need, in the background.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use super::images::Images;
use super::store::Store;
use super::tag::Tag;

/// Layers that wait for an image. Of more the oldest are passed over: they get theirs when they are forked.
const MAX_WAITING: usize = 64;

/// Whether a layer gets its memory image as soon as it is published, and not when it is first forked from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImagesAhead {
    /// Never.
    Never,
    /// Where the file system shares blocks, so that an image costs no more than the layer's own pages.
    #[default]
    Reflink,
    /// Always: each BRANCH then writes the whole of guest memory to the disk once, after it is answered.
    Always,
}

impl ImagesAhead {
    const ALL: [Self; 3] = [Self::Never, Self::Reflink, Self::Always];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Reflink => "reflink",
            Self::Always => "always",
        }
    }
}

impl fmt::Display for ImagesAhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ImagesAhead {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|mode| mode.name() == name);
        found.ok_or_else(|| format!("'{name}' is none of never, reflink, always"))
    }
}

/// Lets work that nobody waits for stand still while BRANCHes are under way.
#[derive(Debug, Default)]
pub struct Yielding {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    branches: usize,
    stopping: bool,
}

impl Yielding {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can leave the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no BRANCH is under way, or `urgent` says that this no longer counts. An error when the
    /// daemon stops.
    pub fn wait(&self, urgent: impl Fn() -> bool) -> io::Result<()> {
        let mut state = self.lock();
        while state.branches > 0 && !state.stopping && !urgent() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.stopping && !urgent() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "the daemon is stopping"));
        }
        Ok(())
    }

    /// Makes whoever waits look again.
    pub fn wake(&self) {
        drop(self.lock());
        self.changed.notify_all();
    }

    fn stop(&self) {
        self.lock().stopping = true;
        self.changed.notify_all();
    }
}

/// While it lives, work that nobody waits for stands still.
#[derive(Debug)]
pub struct HoldBack(Arc<Yielding>);

impl HoldBack {
    /// One more BRANCH is under way.
    pub fn new(yielding: &Arc<Yielding>) -> Self {
        yielding.lock().branches += 1;
        Self(Arc::clone(yielding))
    }
}

impl Drop for HoldBack {
    fn drop(&mut self) {
        self.0.lock().branches -= 1;
        self.0.changed.notify_all();
    }
}

/// The thread that makes images ahead. Dropping it ends the work, whose unfinished file is deleted.
#[derive(Debug)]
pub struct Ahead {
    queue: Arc<Queue>,
    yielding: Arc<Yielding>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Queue {
    /// `None` once the thread is to end.
    tags: Mutex<Option<VecDeque<Tag>>>,
    changed: Condvar,
}

impl Ahead {
    /// Starts the thread, where `mode` and the file system ask for images ahead.
    pub fn start(mode: ImagesAhead, store: &Arc<Store>, images: &Arc<Images>) -> io::Result<Self> {
        let wanted = match mode {
            ImagesAhead::Never => false,
            ImagesAhead::Reflink => images.share_blocks(),
            ImagesAhead::Always => true,
        };
        let queue = Arc::new(Queue { tags: Mutex::new(wanted.then(VecDeque::new)), ..Queue::default() });
        let (taken, store, images) = (Arc::clone(&queue), Arc::clone(store), Arc::clone(images));
        let yielding = Arc::clone(images.yielding());
        let work = move || {
            while let Some(tag) = taken.next() {
                if let Err(error) = images.make_ahead(&store, &tag) {
                    tracing::info!(%tag, %error, "no image was made ahead");
                }
            }
        };
        let thread = wanted.then(|| std::thread::Builder::new().name("forkd-images".to_owned()).spawn(work));
        Ok(Self { queue, yielding, thread: thread.transpose()? })
    }

    /// A layer has been published: its image is made when nothing else is under way.
    pub fn published(&self, tag: &Tag) {
        if let Some(tags) = self.queue.lock().as_mut() {
            tags.retain(|waiting| waiting != tag);
            tags.push_back(tag.clone());
            if tags.len() > MAX_WAITING {
                tags.pop_front();
            }
        }
        self.queue.changed.notify_one();
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        *self.queue.lock() = None;
        self.queue.changed.notify_one();
        self.yielding.stop();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by its own hook.
            let _ = thread.join();
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Option<VecDeque<Tag>>> {
        self.tags.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a tag; `None` when there will be none. The newest first: it is the likeliest to be forked.
    fn next(&self) -> Option<Tag> {
        let mut tags = self.lock();
        loop {
            match tags.as_mut()?.pop_back() {
                Some(tag) => return Some(tag),
                None => tags = self.changed.wait(tags).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::{HoldBack, ImagesAhead, Yielding};

    #[test]
    fn names_and_modes_are_turned_into_each_other() {
        for mode in ImagesAhead::ALL {
            assert_eq!(mode.name().parse(), Ok(mode));
        }
        assert!("sometimes".parse::<ImagesAhead>().is_err());
    }

    #[test]
    fn work_stands_still_during_a_branch_until_that_ends_or_somebody_waits() {
        for by_urgency in [false, true] {
            let yielding = Arc::new(Yielding::default());
            let urgent = Arc::new(AtomicBool::new(false));
            let branch = HoldBack::new(&yielding);
            let waiting = {
                let (yielding, urgent) = (Arc::clone(&yielding), Arc::clone(&urgent));
                thread::spawn(move || yielding.wait(|| urgent.load(Ordering::SeqCst)))
            };
            thread::sleep(Duration::from_millis(50));
            assert!(!waiting.is_finished());
            if by_urgency {
                urgent.store(true, Ordering::SeqCst);
                yielding.wake();
                waiting.join().unwrap().unwrap();
                drop(branch);
            } else {
                drop(branch);
                waiting.join().unwrap().unwrap();
            }
        }
    }

    #[test]
    fn work_that_nobody_waits_for_ends_when_the_daemon_stops() {
        let yielding = Yielding::default();
        yielding.stop();
        assert!(yielding.wait(|| false).is_err());
        assert!(yielding.wait(|| true).is_ok());
    }
}
