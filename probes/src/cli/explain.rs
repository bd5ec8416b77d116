//! `forkd-probe explain`.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, ValueEnum};
use probes::explain::{Explainer, FunctionWindows, Opened, Options, Window};
use probes::recording;
use probes::symbolize::functions;
use probes::target::Target;
use reports::explain::{Explain, Form, one_line, render};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::BadInput;
use super::ending::{Ending, Endings};
use super::frame::{Bpf, duration};
use super::output::Output;

/// The window of a process without another, unless another length is asked for.
const DEFAULT: Duration = Duration::from_secs(10);
/// How long is waited for Ctrl-C, or the end of the process, at each look.
const GLANCE: Duration = Duration::from_millis(1);

/// The arguments.
#[derive(Debug, Args)]
pub struct ExplainCommand {
    /// The process
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pid: u32,
    /// A window is a call of this function of the process, named as its source does: vmm::persist::create_snapshot
    #[arg(long, value_name = "SYMBOL", conflicts_with = "window_signal")]
    window_fn: Option<String>,
    /// A window opens when forkd-probe gets this signal, and closes when it gets it again
    #[arg(long, value_name = "SIGNAL", value_enum)]
    window_signal: Option<WindowSignal>,
    /// How long. Without a function or a signal, this is the window [default: 10s]; with one, windows are looked
    /// for that long [default: until Ctrl-C or the end of the process]
    #[arg(long, value_parser = duration)]
    duration: Option<Duration>,
    /// End after this many windows
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    windows: Option<u64>,
    /// The thread to follow. With a function it is the one that is in it; else the process's first
    #[arg(long, value_name = "TID", value_parser = clap::value_parser!(u32).range(1..))]
    tid: Option<u32>,
    /// Report on this many of the windows, the slowest
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = clap::value_parser!(u64).range(1..))]
    slowest: u64,
    /// How to show it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Write to this file, whole or not at all, in place of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    bpf: Bpf,
}

/// Forms of an explanation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Text for a terminal
    Text,
    /// Everything, for programs; a list where more than one window is asked for
    Json,
    /// The critical path as a flame graph, of the slowest window
    Svg,
    /// The critical path as a timeline for ui.perfetto.dev, of the slowest window
    Perfetto,
}

/// Signals that mean nothing else to this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
enum WindowSignal {
    /// SIGUSR1
    Usr1,
    /// SIGUSR2
    Usr2,
}

/// The slowest windows so far, the slowest first.
struct Slowest {
    kept: Vec<Explain>,
    most: usize,
    seen: u64,
}

impl Slowest {
    fn add(&mut self, explain: Explain) {
        eprintln!("{}", one_line(&explain));
        self.seen += 1;
        let at = self.kept.partition_point(|known| known.window_ns >= explain.window_ns);
        self.kept.insert(at, explain);
        self.kept.truncate(self.most);
    }
}

/// Records windows, explains each, and writes the slowest.
pub fn run(command: &ExplainCommand) -> anyhow::Result<()> {
    let target = Target::find(command.pid, false)?;
    if let Some(tid) = command.tid.filter(|tid| !target.has_thread(*tid)) {
        return Err(
            BadInput(format!("{tid} is no thread of process {}: see /proc/PID/task", command.pid)).into()
        );
    }
    // Servers may be asked for symbols: meanwhile Ctrl-C ends this process, which has no file yet to leave behind.
    let place = command.window_fn.as_ref().map(|name| functions::find(command.pid, name));
    let place = place.transpose().map_err(|error| BadInput(error.to_string()))?;
    let output = Output::open(command.output.as_deref())?;
    let endings = Endings::watch()?;
    let recording::Options { ring_bytes, rung, log_bpf, .. } = command.bpf.options();
    let options = Options { ring_bytes, rung, log_bpf, ..Options::default() };
    let explainer = Explainer::attach(&options)?;
    let mut slowest = Slowest { kept: Vec::new(), most: command.slowest as usize, seen: 0 };
    match (&place, command.window_signal) {
        (Some(function), _) => {
            let windows = FunctionWindows::attach(
                &explainer,
                command.pid,
                &function.file,
                function.offset,
                &function.name,
            )?;
            by_function(command, &target, &endings, windows, &mut slowest)?;
        }
        (None, Some(signal)) => by_signal(command, &target, &endings, &explainer, signal, &mut slowest)?,
        (None, None) => by_time(command, &target, &endings, &explainer, &mut slowest)?,
    }
    if slowest.kept.is_empty() {
        return Err(BadInput(never_opened(command)).into());
    }
    output.write(&draw(&slowest.kept, command.format)?)
}

fn never_opened(command: &ExplainCommand) -> String {
    match (&command.window_fn, command.window_signal) {
        (Some(name), _) => format!(
            "no window opened: process {} did not call {name} while it was watched; make it do so, or watch longer \
             with --duration",
            command.pid
        ),
        _ => {
            "no window opened: the signal did not come; send it to forkd-probe, and again to close the window"
                .to_owned()
        }
    }
}

fn by_function(
    command: &ExplainCommand,
    target: &Target,
    endings: &Endings,
    mut windows: FunctionWindows<'_>,
    slowest: &mut Slowest,
) -> anyhow::Result<()> {
    let deadline = command.duration.and_then(|duration| Instant::now().checked_add(duration));
    let is_followed = |opened: &Opened| command.tid.is_none_or(|tid| tid == opened.window.tid);
    let is_enough = |slowest: &Slowest| command.windows.is_some_and(|most| slowest.seen >= most);
    eprintln!("watching {} of process {}", command.window_fn.as_deref().unwrap_or_default(), command.pid);
    while !is_enough(slowest) && deadline.is_none_or(|deadline| Instant::now() < deadline) {
        for opened in windows.look()?.iter().filter(|opened| is_followed(opened)) {
            if !is_enough(slowest) {
                slowest.add(opened.recorded.explain(&opened.window)?);
            }
        }
        if endings.wait(vec![target.process()], GLANCE)? != Ending::Elapsed {
            break;
        }
    }
    for opened in windows.finish()?.iter().filter(|opened| is_followed(opened)) {
        if !is_enough(slowest) {
            slowest.add(opened.recorded.explain(&opened.window)?);
        }
    }
    Ok(())
}

fn by_time(
    command: &ExplainCommand,
    target: &Target,
    endings: &Endings,
    explainer: &Explainer,
    slowest: &mut Slowest,
) -> anyhow::Result<()> {
    let length = command.duration.unwrap_or(DEFAULT);
    let armed = explainer.arm(&[command.pid])?;
    let start_ns = probes::monotonic_ns();
    endings.wait(vec![target.process()], length)?;
    let end_ns = probes::monotonic_ns();
    let label = humantime::format_duration(length).to_string();
    let window = Window { start_ns, end_ns, tid: command.tid.unwrap_or(command.pid), label, clamped: false };
    slowest.add(armed.disarm()?.explain(&window)?);
    Ok(())
}

fn by_signal(
    command: &ExplainCommand,
    target: &Target,
    endings: &Endings,
    explainer: &Explainer,
    signal: WindowSignal,
    slowest: &mut Slowest,
) -> anyhow::Result<()> {
    let (number, label) = match signal {
        WindowSignal::Usr1 => (signal_hook::consts::SIGUSR1, "SIGUSR1"),
        WindowSignal::Usr2 => (signal_hook::consts::SIGUSR2, "SIGUSR2"),
    };
    let (signals, writer) = UnixStream::pair().context("opening a socket pair for signals")?;
    signal_hook::low_level::pipe::register(number, writer).context("catching the signal")?;
    explainer.prepare(&[command.pid])?;
    let deadline = command.duration.and_then(|duration| Instant::now().checked_add(duration));
    eprintln!("send {label} to process {} to open a window, and again to close it", std::process::id());
    let tid = command.tid.unwrap_or(command.pid);
    while command.windows.is_none_or(|most| slowest.seen < most) {
        if !wait_for(&signals, target, endings, deadline)? {
            break;
        }
        let armed = explainer.arm(&[command.pid])?;
        let start_ns = probes::monotonic_ns();
        let has_closed = wait_for(&signals, target, endings, deadline)?;
        let end_ns = probes::monotonic_ns();
        let window = Window { start_ns, end_ns, tid, label: label.to_owned(), clamped: !has_closed };
        slowest.add(armed.disarm()?.explain(&window)?);
        if !has_closed {
            break;
        }
    }
    Ok(())
}

/// Waits for the signal; false where something else ends the recording first.
fn wait_for(
    mut signals: &UnixStream,
    target: &Target,
    endings: &Endings,
    deadline: Option<Instant>,
) -> anyhow::Result<bool> {
    /// How often the other endings are looked for.
    const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    loop {
        let mut fds = [PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&LOOK)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => {
                signals.read_exact(&mut [0]).context("reading that the signal came")?;
                return Ok(true);
            }
            Err(error) => return Err(error).context("waiting for the signal"),
        }
        let is_over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if is_over || endings.wait(vec![target.process()], GLANCE)? != Ending::Elapsed {
            return Ok(false);
        }
    }
}

fn draw(kept: &[Explain], format: Format) -> anyhow::Result<Vec<u8>> {
    match (format, kept) {
        (Format::Text, many) => {
            let mut text = Vec::new();
            for (number, explain) in many.iter().enumerate() {
                if number > 0 {
                    text.extend(format!("\n{}\n\n", "=".repeat(80)).bytes());
                }
                text.extend(render(explain, Form::Text)?);
            }
            Ok(text)
        }
        (Format::Json, [one]) => Ok(render(one, Form::Json)?),
        (Format::Json, many) => {
            let mut json = serde_json::to_vec_pretty(many)?;
            json.push(b'\n');
            Ok(json)
        }
        (Format::Svg, many) => Ok(render(&many[0], Form::Svg)?),
        (Format::Perfetto, many) => Ok(render(&many[0], Form::Perfetto)?),
    }
}
