//! What a process's threads were seen at, again and again, without tracing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::folded::{self, Caption, Line};
use crate::format::{self, Format, RenderError};
use crate::process::{Process, headline};

mod table;

/// The `schema` of [`Stacks`]: the number grows with every change that a reader could trip over.
pub const SCHEMA: &str = "forkd.stacks/1";

/// Looks at threads through `/proc`. A count is a number of looks, not a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stacks {
    /// [`SCHEMA`].
    pub schema: String,
    /// The processes that were watched.
    pub processes: Vec<Process>,
    /// From the first look to the last, in nanoseconds of CLOCK_MONOTONIC.
    pub window_ns: u64,
    /// Time between looks that was asked for.
    pub interval_ns: u64,
    /// Rounds of looks at all threads.
    pub rounds: u64,
    /// Rounds that began later than they should have, by more than half the interval.
    pub late_rounds: u64,
    /// Where kernel frames came from.
    pub source: Source,
    /// What the reader must know before trusting the figures, one sentence each.
    pub warnings: Vec<String>,
    /// Every thread that was seen, by process and role.
    pub threads: Vec<Thread>,
}

/// Where kernel frames came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// `/proc/PID/task/TID/stack`: whole stacks.
    Stack,
    /// `/proc/PID/task/TID/wchan`: the one function that a thread sleeps in.
    Wchan,
    /// Neither was shown.
    Nothing,
}

/// One thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// Its process.
    pub pid: u32,
    /// Thread id as `/proc` shows it.
    pub tid: u32,
    /// Its name, as last seen.
    pub comm: String,
    /// What it is for, where its name tells: `vCPU 0`; else its name.
    pub role: String,
    /// Looks at it.
    pub looks: u64,
    /// What was seen, most often first.
    pub seen: Vec<Seen>,
}

/// What looks at a thread agreed in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seen {
    /// How often.
    pub looks: u64,
    /// The letter of `/proc/PID/task/TID/stat`: `R`, `S`, `D`, `T` and so on.
    pub state: char,
    /// The system call that it was in.
    pub call: Option<String>,
    /// Kernel frames, innermost first.
    pub kernel: Vec<String>,
}

/// Draws `report`: the whole file as bytes. The same report gives the same bytes.
///
/// # Errors
/// [`RenderError`], for a flame graph of nothing above all.
pub fn render(report: &Stacks, format: Format) -> Result<Vec<u8>, RenderError> {
    let title =
        || format!("Where {} was seen, each look taken for one interval", headline(&report.processes));
    match format {
        Format::Table => Ok(table::render(report).into_bytes()),
        Format::Folded => Ok(folded::render(&lines(report)).into_bytes()),
        Format::Svg => {
            let (window_ns, hooks, losses) = (report.window_ns, &[], &BTreeMap::new());
            folded::flame_graph(Caption { title: &title(), window_ns, hooks, losses }, &lines(report))
        }
        Format::Json => format::json(report),
    }
}

/// `comm-tid;[role];kernel frames_[k];[state]`, each look for one interval.
fn lines(report: &Stacks) -> Vec<Line> {
    let mut lines = Vec::new();
    for thread in &report.threads {
        for seen in &thread.seen {
            let mut frames = vec![format!("{}-{}", thread.comm, thread.tid)];
            frames.extend(seen.call.iter().map(|call| format!("{call}()")));
            frames.extend(seen.kernel.iter().rev().map(|frame| format!("{frame}_[k]")));
            frames.push(format!("[{}]", table::state(seen.state)));
            lines.push(Line { frames, ns: seen.looks * report.interval_ns });
        }
    }
    lines
}
