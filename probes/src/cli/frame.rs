//! What every recording command has in common: whom, how long, in what form and where to.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use probes::launch::{self, Launched};
use probes::recording::{Options, SwitchRung};
use probes::target::Target;

use super::BadInput;
use super::ending::{Ending, Endings};
use super::messages;
use super::output::Output;

/// The window of a process that is already there, unless another is asked for.
const DEFAULT: Duration = Duration::from_secs(10);
/// A window that ends by its processes only.
const UNLIMITED: Duration = Duration::MAX;

/// The arguments.
#[derive(Debug, Args)]
pub struct Frame {
    #[command(flatten)]
    whom: Whom,
    #[command(flatten)]
    shape: Shape,
}

/// Whom, and how long.
#[derive(Debug, Args)]
pub struct Whom {
    /// A process to watch, all of its threads; repeat it for several
    #[arg(long = "pid", value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pids: Vec<u32>,
    /// Report on this thread only; repeat it for several. Its process is watched
    #[arg(long = "tid", value_name = "TID", value_parser = clap::value_parser!(u32).range(1..))]
    tids: Vec<u32>,
    /// How long; Ctrl-C ends it earlier, and so does the end of the processes [default: 10s; with a COMMAND
    /// until it ends]
    #[arg(long, value_parser = duration)]
    duration: Option<Duration>,
    /// Start this program, and watch it from its first instruction
    #[arg(last = true, value_name = "COMMAND", conflicts_with_all = ["pids", "tids"])]
    command: Vec<OsString>,
}

/// In what form, and where to.
#[derive(Debug, Args)]
pub struct Shape {
    /// How to show it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Write to this file, whole or not at all, in place of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Shape {
    /// The form of the report.
    pub fn format(&self) -> reports::Format {
        self.format.into()
    }

    /// Opens the destination.
    pub fn open(&self) -> anyhow::Result<Output> {
        Output::open(self.output.as_deref())
    }
}

/// How BPF records: how switches are seen, how much room events have until they are read, and what is told of it.
#[derive(Debug, Args)]
pub struct Bpf {
    /// See switches in this way only: tp_btf, raw_tracepoint, tracepoint, fentry or kprobe [default: the first of
    /// these that the kernel takes]
    #[arg(long, value_name = "RUNG")]
    attach: Option<SwitchRung>,
    /// Size of the ring buffer in MiB, a power of two: for events that come faster than they are read
    #[arg(long, value_name = "MIB", default_value = "8", value_parser = ring_mib)]
    ring_mib: u32,
    /// Tell on standard error what the BPF programs say of themselves: the first event of each CPU, and the first
    /// loss of each kind
    #[arg(long)]
    log_bpf: bool,
}

impl Bpf {
    /// As the library takes it. From now on messages are told, where that is asked for.
    pub fn options(&self) -> Options {
        if self.log_bpf {
            messages::to_standard_error();
        }
        let (ring_bytes, rung, log_bpf) = (self.ring_mib << 20, self.attach, self.log_bpf);
        Options { ring_bytes, rung, log_bpf, ..Options::default() }
    }

    /// The same for `command`, which sees no switches, and refuses to be told how.
    pub fn options_without_switches(&self, command: &str, hooks: &str) -> anyhow::Result<Options> {
        match self.attach {
            None => Ok(self.options()),
            Some(rung) => Err(BadInput(format!(
                "--attach {rung} is for switches, and {command} sees none: it sees {hooks} in one way only; leave \
                 --attach out"
            ))
            .into()),
        }
    }
}

/// Whether a report ends with what the recording cost.
#[derive(Debug, Args)]
pub struct Stats {
    /// Report what the recording itself cost: time to attach, memory, and the kernel's run-time statistics
    /// of the BPF programs, which slow every BPF program on the host a little while they are counted
    #[arg(long)]
    pub stats: bool,
}

/// A power of two that the kernel's 32 bits can hold in bytes.
fn ring_mib(text: &str) -> Result<u32, String> {
    let mib: u32 = text.parse().map_err(|_| "a number of MiB".to_owned())?;
    if mib.is_power_of_two() && mib <= 1024 {
        Ok(mib)
    } else {
        Err("a power of two from 1 to 1024".to_owned())
    }
}

/// Forms of a report.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Format {
    /// Text for a terminal
    Table,
    /// One line a stack, for flame graph tools
    Folded,
    /// A flame graph
    Svg,
    /// Everything, for programs
    Json,
}

/// A recording's surroundings, once everything that can be refused beforehand has been.
#[derive(Debug)]
pub struct Stage {
    output: Output,
    scene: Scene,
}

/// The part of it that does not depend on what becomes of the recording.
#[derive(Debug)]
pub struct Scene {
    endings: Endings,
    launched: Option<Launched>,
    duration: Duration,
}

impl Frame {
    /// Opens the destination, finds or starts the processes, and catches Ctrl-C.
    pub fn open(&self) -> anyhow::Result<(Stage, Vec<Target>)> {
        let (stage, targets) = self.open_or_machine()?;
        if targets.is_empty() {
            return Err(
                BadInput("nobody to watch: give --pid PID, --tid TID, or -- COMMAND".to_owned()).into()
            );
        }
        Ok((stage, targets))
    }

    /// The same for a command that is about the whole machine where nobody is named.
    pub fn open_or_machine(&self) -> anyhow::Result<(Stage, Vec<Target>)> {
        // What cannot be written should be known before, not after, ten seconds of recording.
        let output = self.shape.open()?;
        let (scene, targets) = self.whom.open()?;
        Ok((Stage { output, scene }, targets))
    }

    /// The threads to report on; empty for all.
    pub fn tids(&self) -> Vec<u32> {
        self.whom.tids.clone()
    }

    /// The form of the report.
    pub fn format(&self) -> reports::Format {
        self.shape.format()
    }
}

impl Whom {
    /// Finds or starts the processes, and catches Ctrl-C.
    pub fn open(&self) -> anyhow::Result<(Scene, Vec<Target>)> {
        let endings = Endings::watch()?;
        let launched = match self.command.as_slice() {
            [] => None,
            command => Some(Launched::start_held(command)?),
        };
        let targets = match &launched {
            Some(launched) => vec![Target::find(launched.pid(), false)?],
            None => self.targets()?,
        };
        let default = if launched.is_some() { UNLIMITED } else { DEFAULT };
        let duration = self.duration.unwrap_or(default);
        Ok((Scene { endings, launched, duration }, targets))
    }

    fn targets(&self) -> anyhow::Result<Vec<Target>> {
        let mut pids = self.pids.clone();
        pids.sort_unstable();
        pids.dedup();
        let mut targets =
            pids.into_iter().map(|pid| Target::find(pid, false)).collect::<Result<Vec<_>, _>>()?;
        for tid in &self.tids {
            if targets.iter().any(|target| target.has_thread(*tid)) {
                continue;
            }
            let owner = Target::of_thread(*tid)?;
            if !self.pids.is_empty() {
                let pid = owner.pid();
                return Err(BadInput(format!("{tid} is a thread of process {pid}: add --pid {pid}")).into());
            }
            targets.push(owner);
        }
        Ok(targets)
    }
}

impl Stage {
    /// See [`Scene::wait`].
    pub fn wait(&self, targets: &[Target]) -> anyhow::Result<Ending> {
        self.scene.wait(targets)
    }

    /// See [`Scene::close`].
    pub fn close(&mut self, ending: Ending, window_ns: u64) -> anyhow::Result<Vec<String>> {
        self.scene.close(ending, window_ns)
    }

    /// Writes the report.
    pub fn write(self, bytes: &[u8]) -> anyhow::Result<()> {
        self.output.write(bytes)
    }
}

impl Scene {
    /// Lets a started program run, and waits for the end of the recording.
    pub fn wait(&self, targets: &[Target]) -> anyhow::Result<Ending> {
        if let Some(launched) = &self.launched {
            launched.release()?;
        }
        self.endings.wait(targets.iter().map(Target::process).collect(), self.duration)
    }

    /// Ends what was started, and says what the reader of the report must know of the end.
    pub fn close(&mut self, ending: Ending, window_ns: u64) -> anyhow::Result<Vec<String>> {
        let after = humantime::format_duration(Duration::from_millis(window_ns / 1_000_000));
        let Some(launched) = self.launched.take() else {
            let early = ending == Ending::ProcessesEnded && self.duration != UNLIMITED;
            return Ok(tell(early.then(|| {
                format!("the process ended after {after}: the report holds what was gathered until then")
            })));
        };
        let (status, was_asked) = launched.end()?;
        let how = launch::describe(status);
        Ok(tell(Some(if was_asked {
            format!("the command still ran after {after}, was told to end, and ended with {how}")
        } else {
            format!("the command ended after {after} with {how}")
        })))
    }
}

fn tell(note: Option<String>) -> Vec<String> {
    if let Some(note) = &note {
        eprintln!("forkd-probe: {note}");
    }
    note.into_iter().collect()
}

/// A length of time that is not zero.
pub fn duration(text: &str) -> Result<Duration, String> {
    let parsed: Duration =
        humantime::parse_duration(text).map_err(|error| format!("{error}; write 500ms, 10s or 2min"))?;
    if parsed.is_zero() { Err("a window without length holds nothing".to_owned()) } else { Ok(parsed) }
}

impl From<Format> for reports::Format {
    fn from(format: Format) -> Self {
        match format {
            Format::Table => Self::Table,
            Format::Folded => Self::Folded,
            Format::Svg => Self::Svg,
            Format::Json => Self::Json,
        }
    }
}
