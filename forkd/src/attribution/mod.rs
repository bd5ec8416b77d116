//! Where the time of pauses goes: probes that are armed inside of pauses only, and the account of each.
//!
//! The probes are in a process of their own, `forkd-probe attend`, because they need rights that the daemon does
//! without, and because no BRANCH may depend on them. That process arms them when it is told to, right before a
//! pause, and accounts for the pause after it, while the BRANCH goes on. When the daemon ends, however it ends, it
//! reads the end of its input, ends too, and nothing stays attached. Where it cannot be started, is refused what
//! it needs, does not answer in time or dies, the BRANCH has its phases alone, and its record says why.

mod helper;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use probes::attend::Bounds;
use reports::explain::Explain;

use self::helper::Helper;
pub use self::helper::REFUSED;

/// Which pauses are accounted for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum When {
    /// None: no probe is attached.
    #[default]
    Off,
    /// One of several.
    Sampled,
    /// Every one.
    Always,
}

impl When {
    const ALL: [Self; 3] = [Self::Off, Self::Sampled, Self::Always];

    const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Sampled => "sampled",
            Self::Always => "always",
        }
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|when| when.name() == name);
        found.ok_or_else(|| "use off, sampled or always".to_owned())
    }
}

/// How pauses are accounted for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which.
    pub when: When,
    /// With [`When::Sampled`]: one of how many.
    pub every: u64,
    /// `forkd-probe`; beside the daemon or on `PATH` when absent.
    pub probe: Option<PathBuf>,
}

/// What came of one window.
#[derive(Debug)]
pub struct Attributed {
    /// The BRANCH's id in the history.
    pub branch: String,
    /// The account, or why there is none.
    pub outcome: Result<Box<Explain>, String>,
}

/// Is told of each window's account.
pub type Sink = Box<dyn Fn(Attributed) + Send + Sync>;

/// The daemon's side of the probes. Dropping it ends the process that holds them.
#[derive(Debug)]
pub struct Attribution {
    every: u64,
    pauses: AtomicU64,
    helper: Option<Helper>,
}

impl Attribution {
    /// Starts the process that holds the probes, where `options` ask for any. Does not wait for it.
    pub fn start(options: &Options) -> Self {
        let every = match options.when {
            When::Off => return Self { every: 1, pauses: AtomicU64::new(0), helper: None },
            When::Sampled => options.every.max(1),
            When::Always => 1,
        };
        Self { every, pauses: AtomicU64::new(0), helper: Some(Helper::start(options.probe.clone())) }
    }

    /// Says who is told of accounts. The first time counts.
    pub fn tell(&self, sink: impl FnOnce() -> Sink) {
        if let Some(helper) = &self.helper {
            helper.sink().get_or_init(sink);
        }
    }

    /// Arms the probes for a pause of the Firecracker `pid`, where its turn has come. Call it right before the
    /// pause: it waits until they are armed, and for a moment at most.
    pub fn arm(&self, branch: &str, pid: u32) -> Armed<'_> {
        let turn = self.pauses.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.every);
        let Some(helper) = self.helper.as_ref().filter(|_| turn) else { return Armed(None) };
        let armed = helper.arm(branch, vec![std::process::id(), pid]);
        if let Err(reason) = &armed {
            tracing::debug!(reason, "a pause is not accounted for");
            helper.tell(Attributed { branch: branch.to_owned(), outcome: Err(reason.clone()) });
        }
        Armed(armed.is_ok().then(|| (helper, branch.to_owned())))
    }
}

/// Armed probes. Dropping it disarms them.
#[derive(Debug)]
#[must_use = "dropping it disarms the probes"]
pub struct Armed<'a>(Option<(&'a Helper, String)>);

impl Armed<'_> {
    /// Disarms them after the pause, which is accounted for while the caller goes on.
    pub fn disarm(mut self, window: Option<Bounds>) {
        if let Some((helper, branch)) = self.0.take() {
            helper.disarm(&branch, window);
        }
    }
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        if let Some((helper, branch)) = self.0.take() {
            helper.disarm(&branch, None);
        }
    }
}

/// Where the sink is kept: it is not known yet when the process is started.
type SinkCell = Arc<OnceLock<Sink>>;
