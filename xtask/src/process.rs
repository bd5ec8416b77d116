//! Child processes: each is announced before it starts, and its failure is told in one line.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGINT, SIGTERM};

/// Prints `+ command`, runs it with this process's output, and fails when it does.
pub fn run(command: &mut Command) -> Result<()> {
    println!("+ {}", line(command));
    let status = command.status().with_context(|| format!("cannot start {}", program(command)))?;
    if !status.success() {
        bail!("`{}` {}", line(command), ending(status));
    }
    Ok(())
}

/// What a command prints on its standard output, or why there is none.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {}", program(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let why = if said.trim().is_empty() { String::new() } else { format!(": {}", said.trim()) };
        bail!("`{}` {}{why}", line(command), ending(output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// How a child ended that may have been interrupted.
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// The name of the signal that was passed on to it.
    pub interrupted_by: Option<&'static str>,
}

/// Runs a command in a process group of its own and passes SIGINT and SIGTERM on to it, once for each
/// that arrives, so that it can clean up; then waits for its end, however long that takes.
pub fn run_interruptible(command: &mut Command) -> Result<Ended> {
    println!("+ {}", line(command));
    let interrupts = Interrupts::watch().context("cannot watch for SIGINT and SIGTERM")?;
    // A group of its own: a Ctrl-C at the terminal must reach the child once, from here.
    let child = command.process_group(0).spawn();
    let mut child = child.with_context(|| format!("cannot start {}", program(command)))?;
    let mut interrupted_by = None;
    loop {
        if let Some((signal, name)) = interrupts.take() {
            eprintln!("\n{name}: passed on, waiting for {} to clean up", program(command));
            pass_on(&child, signal);
            interrupted_by = Some(name);
        }
        if let Some(status) = child.try_wait()? {
            return Ok(Ended { status, interrupted_by });
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// SIGINT and SIGTERM, noticed and not obeyed.
pub struct Interrupts {
    last: Arc<AtomicUsize>,
}

impl Interrupts {
    /// From now on they are only noted.
    pub fn watch() -> io::Result<Self> {
        let last = Arc::new(AtomicUsize::new(0));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register_usize(signal, Arc::clone(&last), signal as usize)?;
        }
        Ok(Self { last })
    }

    /// The last that came since it was asked, and its name.
    pub fn take(&self) -> Option<(Signal, &'static str)> {
        match self.last.swap(0, Ordering::SeqCst) as i32 {
            SIGINT => Some((Signal::INT, "SIGINT")),
            SIGTERM => Some((Signal::TERM, "SIGTERM")),
            _ => None,
        }
    }
}

fn pass_on(child: &Child, signal: Signal) {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(Err(error)) = group.map(|group| kill_process_group(group, signal))
        && error != rustix::io::Errno::SRCH
    {
        eprintln!("cannot pass the signal on to process {}: {error}", child.id());
    }
}

/// The command as one would type it, with the environment that it adds, `PATH` left out.
pub fn line(command: &Command) -> String {
    let quote = |word: &std::ffi::OsStr| {
        let word = word.to_string_lossy().replace(|c: char| c.is_control(), " ");
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=@,:+^%".contains(c);
        if !word.is_empty() && word.chars().all(plain) { word } else { format!("'{word}'") }
    };
    // A search path is long and tells the reader nothing.
    let added = command
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)))
        .filter(|(name, _)| *name != "PATH");
    let mut words: Vec<String> =
        added.map(|(name, value)| format!("{}={}", name.to_string_lossy(), quote(value))).collect();
    words.push(program(command));
    words.extend(command.get_args().map(quote));
    words.join(" ")
}

/// How a process ended, as the end of a sentence that names it.
pub fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}

fn program(command: &Command) -> String {
    let name = command.get_program().to_string_lossy();
    // Cargo is called by the full path of its toolchain: only its name tells the reader anything.
    if name.ends_with("/cargo") { "cargo".to_owned() } else { name.into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let mut command = Command::new("/opt/rust/bin/cargo");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["test", "--name", "two words"]);
        assert_eq!(line(&command), "DEBIAN_FRONTEND=noninteractive cargo test --name 'two words'");
    }

    #[test]
    fn a_failure_names_the_command_and_its_exit_code() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c 'exit 3'` ended with exit code 3");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = output(&mut Command::new("no-such-program")).unwrap_err();
        assert!(error.to_string().contains("cannot start no-such-program"), "{error}");
    }

    #[test]
    fn a_signal_reaches_the_child_which_ends_in_its_own_way() {
        // The child interrupts its parent, this process, and ends only when that comes back to it.
        let script = "trap 'exit 7' INT; kill -INT $PPID; while :; do sleep 0.01; done";
        let ended = run_interruptible(Command::new("sh").args(["-c", script])).unwrap();
        assert_eq!(ended.status.code(), Some(7));
        assert_eq!(ended.interrupted_by, Some("SIGINT"));
    }
}
