//! Explains windows of programs: attached once, armed right before a window, disarmed right after it, and then the
//! window is accounted for on whichever thread has the time.
//!
//! ```no_run
//! # fn pause() -> (u64, u64) { (0, 1) }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (daemon, firecracker, tid) = (1, 2, 3);
//! use probes::explain::{Explainer, Options, Window};
//!
//! let explainer = Explainer::attach(&Options::default())?;
//! let armed = explainer.arm(&[daemon, firecracker])?;
//! let (start_ns, end_ns) = pause();
//! let recorded = armed.disarm()?;
//! // Elsewhere:
//! let window = Window { start_ns, end_ns, tid, label: "BRANCH".to_owned(), clamped: false };
//! let explain = recorded.explain(&window)?;
//! println!("{}", explain.verdict.sentence);
//! # Ok(())
//! # }
//! ```

mod calls;
mod capture;
mod decoded;
mod devices;
mod function;
mod lookup;
mod quota;
mod readings;
mod return_probe;
mod state;
mod worker;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use thiserror::Error;

use crate::error::{AttachError, Fault};
use crate::load::SwitchRung;

pub use crate::attribute::Window;
use capture::Capture;
pub use function::{FunctionWindows, Opened, Place};
use state::State;
use worker::Worker;

#[cfg(any(test, feature = "fuzzing"))]
pub use quota::parse_all as parse_quota;

/// How often a running thread is looked at while a window is open, in nanoseconds of its CPU's time.
const SAMPLE_PERIOD_NS: u64 = 1_000_000;
/// How far from a look its stack still counts as evidence: two periods, because a look may be late by one.
const REACH_NS: u64 = 2 * SAMPLE_PERIOD_NS;

/// How to record.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The only way of seeing switches that will do; the first that the kernel takes where there is none.
    pub rung: Option<SwitchRung>,
    /// Size of the kernel's ring buffer in bytes: a power of two, and a multiple of the page size.
    pub ring_bytes: u32,
    /// The most bytes of one window's records that are kept. With the ring buffer that is all that grows with
    /// what happens in a window. Two windows, of which one is accounted for while the next is open, and the ring
    /// buffer are 32 MiB by default.
    pub window_bytes: usize,
    /// Hand what the programs say of themselves to the logger of the `log` crate.
    pub log_bpf: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { rung: None, ring_bytes: 8 << 20, window_bytes: 12 << 20, log_bpf: false }
    }
}

/// Why a window could not be recorded.
#[derive(Debug, Error)]
pub enum ExplainError {
    /// One window at a time is recorded.
    #[error("another window is being recorded: this one goes without an explanation")]
    Busy,
    /// The thread that explains has ended.
    #[error("the thread that explains windows has ended: it panicked")]
    Ended,
    /// The programs could not be attached, armed or read.
    #[error(transparent)]
    Attach(#[from] AttachError),
}

impl ExplainError {
    /// Whose fault it is.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Busy | Self::Ended => Fault::Internal,
            Self::Attach(error) => error.fault(),
        }
    }
}

/// The attached programs. Between windows each returns at its first load. Dropping it detaches them.
#[derive(Debug)]
pub struct Explainer {
    inner: Arc<Inner>,
    worker: Worker,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// Told when a window opens, and when everything ends.
    changed: Condvar,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked with it left at worst a window that is never read.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Explainer {
    /// Attaches, and records nothing yet.
    ///
    /// # Errors
    /// [`AttachError`] says what was refused, and what to do about it. Nothing is left attached.
    pub fn attach(options: &Options) -> Result<Self, AttachError> {
        let worker = Worker::start()?;
        let inner = Arc::new(Inner { state: Mutex::new(State::attach(options)?), changed: Condvar::new() });
        let read = Arc::clone(&inner);
        let reader = thread::Builder::new()
            .name("forkd-explain".to_owned())
            .spawn(move || state::read_while_armed(&read.state, &read.changed))
            .map_err(|source| AttachError::System {
                what: "starting the reader's thread".to_owned(),
                source,
            })?;
        Ok(Self { inner, worker, reader: Some(reader) })
    }

    /// Looks at what these processes have mapped, so that [`Explainer::arm`] has nothing to do but to arm.
    ///
    /// # Errors
    /// [`AttachError::Targets`] where they are more than can be watched.
    pub fn prepare(&self, pids: &[u32]) -> Result<(), ExplainError> {
        let spans = self.worker.look_at(pids)?;
        Ok(self.inner.state().watch(&spans)?)
    }

    /// Whether [`Explainer::arm`] has nothing to look at for these processes, which takes a while where a window is
    /// being accounted for.
    pub fn is_prepared(&self, pids: &[u32]) -> bool {
        self.inner.state().watches(pids)
    }

    /// Records the whole machine from now on, with the user stacks of these processes.
    ///
    /// # Errors
    /// [`ExplainError::Busy`] while another window is recorded.
    pub fn arm(&self, pids: &[u32]) -> Result<Armed, ExplainError> {
        if !self.is_prepared(pids) {
            self.prepare(pids)?;
        }
        self.inner.state().open(pids)?;
        self.inner.changed.notify_all();
        Ok(Armed { inner: Some(Arc::clone(&self.inner)), worker: self.worker.clone() })
    }
}

impl Drop for Explainer {
    fn drop(&mut self) {
        self.inner.state().end();
        self.inner.changed.notify_all();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// A window that is being recorded. Dropping it ends the recording, and forgets it.
#[derive(Debug)]
pub struct Armed {
    inner: Option<Arc<Inner>>,
    worker: Worker,
}

impl Armed {
    /// Ends the recording.
    ///
    /// # Errors
    /// [`AttachError`] where the programs could not be told, or their counters not be read.
    pub fn disarm(mut self) -> Result<Recorded, AttachError> {
        let Some(inner) = self.inner.take() else { return Err(AttachError::Missing("window")) };
        let capture = inner.state().close()?;
        Ok(Recorded { worker: self.worker.clone(), capture: Arc::new(capture), warning: None })
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            let _ = inner.state().close();
        }
    }
}

/// What was recorded while armed. It can be sent to the thread that has the time to explain it.
#[derive(Clone, Debug)]
pub struct Recorded {
    worker: Worker,
    capture: Arc<Capture>,
    /// What is known to be amiss with it.
    warning: Option<&'static str>,
}

impl Recorded {
    /// Accounts for one window inside of what was recorded. What it reaches beyond that is unexplained.
    ///
    /// # Errors
    /// [`ExplainError::Ended`] where the thread that does it is no more.
    pub fn explain(&self, window: &Window) -> Result<reports::explain::Explain, ExplainError> {
        self.worker.explain(Arc::clone(&self.capture), window, self.warning)
    }
}
