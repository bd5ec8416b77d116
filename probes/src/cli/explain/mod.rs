//! `forkd-probe explain`.

mod slowest;
mod windows;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use probes::explain::{Explainer, Options};
use probes::recording;
use probes::symbolize::functions;
use probes::target::Target;

use self::slowest::Slowest;
use self::windows::Source;
use super::BadInput;
use super::ending::Endings;
use super::frame::{Bpf, duration};
use super::output::Output;

/// The arguments.
#[derive(Debug, Args)]
pub struct ExplainCommand {
    /// The process
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pid: u32,
    /// A window is a call of this function of the process, named as its source does: vmm::persist::create_snapshot;
    /// of several of that name the one at a place of its file: NAME@0x1a2b. A program that unwinds an exception or a
    /// panic through the function is aborted by that
    #[arg(long, value_name = "SYMBOL", value_parser = symbol, group = "bounds")]
    window_fn: Option<String>,
    /// A window opens when forkd-probe gets this signal, and closes when it gets it again
    #[arg(long, value_name = "SIGNAL", value_enum, group = "bounds")]
    window_signal: Option<WindowSignal>,
    /// How long. Without a function or a signal, this is the window [default: 10s]; with one, windows are looked
    /// for that long [default: until Ctrl-C or the end of the process]
    #[arg(long, value_parser = duration)]
    duration: Option<Duration>,
    /// End after this many windows
    #[arg(long, value_name = "COUNT", requires = "bounds", value_parser = clap::value_parser!(u64).range(1..))]
    windows: Option<u64>,
    /// The thread to follow, else the process's first. With a function: its windows alone, else those of all threads
    #[arg(long, value_name = "TID", value_parser = clap::value_parser!(u32).range(1..))]
    tid: Option<u32>,
    /// Report on this many of the windows, the slowest
    #[arg(long, value_name = "COUNT", default_value = "1", requires = "bounds", value_parser = clap::value_parser!(u64).range(1..))]
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
    /// Everything, for programs; a list where --slowest asks for more than one window
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
    let mut slowest = Slowest::new(command.slowest as usize);
    let source = Source { command, target: &target, endings: &endings, explainer: &explainer };
    let mut opened = 0;
    match (&place, command.window_signal) {
        (Some(function), _) => opened = source.by_function(function, &mut slowest)?,
        (None, Some(signal)) => source.by_signal(signal, &mut slowest)?,
        (None, None) => source.by_time(&mut slowest)?,
    }
    if slowest.seen() == 0 {
        let name = place.as_ref().map(|function| function.name.as_str());
        return Err(BadInput(never_opened(command.pid, name, command.tid, opened)).into());
    }
    output.write(&slowest.draw(command.format)?)
}

/// Why there is no window to report on, where `opened` had opened in threads that are not followed.
fn never_opened(pid: u32, function: Option<&str>, tid: Option<u32>, opened: u64) -> String {
    match (function, tid) {
        (Some(name), Some(tid)) if opened > 0 => {
            let times = if opened == 1 { "once".to_owned() } else { format!("{opened} times") };
            format!("no window opened: {name} was called {times}, never by thread {tid}: leave out --tid")
        }
        (Some(name), _) => format!(
            "no window opened: process {pid} did not call {name} while it was watched; make it do so, or watch longer \
             with --duration"
        ),
        (None, _) => {
            "no window opened: the signal did not come; send it to forkd-probe, and again to close the window"
                .to_owned()
        }
    }
}

/// A function's name.
fn symbol(name: &str) -> Result<String, String> {
    match name.trim() {
        "" => Err("the name is empty: give the function's, as its source spells it".to_owned()),
        name => Ok(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::never_opened;
    use crate::cli::Arguments;

    /// What is said of these options; empty where they will do.
    fn refusal(options: &[&str]) -> String {
        let arguments = ["forkd-probe", "explain", "--pid", "7"];
        let parsed = Arguments::try_parse_from(arguments.iter().chain(options));
        parsed.err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn options_of_windows_that_open_again_and_again_are_refused_where_there_is_one() {
        for option in ["--windows", "--slowest"] {
            assert!(refusal(&[option, "3"]).contains("--window-fn <SYMBOL>"), "{}", refusal(&[option, "3"]));
            assert_eq!(refusal(&[option, "3", "--window-fn", "f"]), "");
            assert_eq!(refusal(&[option, "3", "--window-signal", "USR1"]), "");
        }
        assert_eq!(refusal(&["--duration", "3s"]), "");
        let both = refusal(&["--window-fn", "f", "--window-signal", "USR1"]);
        assert!(both.contains("cannot be used with"), "{both}");
    }

    #[test]
    fn an_empty_name_is_called_so() {
        let said = refusal(&["--window-fn", ""]);
        assert!(said.contains("the name is empty"), "{said}");
    }

    #[test]
    fn calls_by_other_threads_are_no_calls_that_did_not_happen() {
        let said = |tid, opened| never_opened(7, Some("f"), tid, opened);
        assert!(said(Some(9), 12).contains("f was called 12 times, never by thread 9: leave out --tid"));
        assert!(said(Some(9), 1).contains("f was called once, never by thread 9"));
        assert!(said(Some(9), 0).contains("process 7 did not call f"));
        assert!(said(None, 0).contains("process 7 did not call f"));
        assert!(never_opened(7, None, None, 0).contains("the signal did not come"));
    }
}
