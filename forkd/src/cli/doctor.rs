//! `forkd doctor`

use std::path::PathBuf;

use anstyle::{AnsiColor, Style};
use clap::Args;
use forkd::doctor::{Check, Examination, Level, examine};

use super::DEFAULT_SNAPSHOT_ROOT;
use super::exit::{Exit, Failure};
use super::options::Options;
use super::output::Output;

/// The terminal that this is laid out for.
const COLUMNS: usize = reports::text::COLUMNS;
/// Where what was found begins.
const INDENT: usize = 31;

/// Check what this host has of what the daemon needs, and name the command that mends each lack
#[derive(Args, Debug)]
pub struct Doctor {
    /// Directory of the snapshots
    #[arg(long, value_name = "DIR", default_value = DEFAULT_SNAPSHOT_ROOT)]
    snapshot_root: PathBuf,
    /// Directory of sockets and logs of running microVMs
    #[arg(long, value_name = "DIR", default_value = "/run/forkd/vms")]
    run_dir: PathBuf,
    /// Firecracker binary; the first on PATH when absent
    #[arg(long, value_name = "PATH", env = "FORKD_FIRECRACKER")]
    firecracker: Option<PathBuf>,
}

impl Doctor {
    /// Prints every check; fails where the daemon cannot serve.
    pub fn run(self, options: &Options) -> anyhow::Result<()> {
        let Self { snapshot_root, run_dir, firecracker } = self;
        let examination = examine(&forkd::doctor::Options { snapshot_root, run_dir, firecracker });
        Output::new(options.json, options.color).result(&examination, || table(&examination))?;
        if examination.can_serve {
            return Ok(());
        }
        let missing = examination.checks.iter().filter(|check| check.level == Level::Missing);
        let missing: Vec<&str> = missing.map(|check| check.name.as_str()).collect();
        let message = format!("a daemon cannot serve here, for want of: {}", missing.join(", "));
        Err(Failure::new(Exit::Host, message).into())
    }
}

fn table(examination: &Examination) -> String {
    let mut text: String = examination.checks.iter().map(lines).collect();
    let count = |level| examination.checks.iter().filter(|check| check.level == level).count();
    let (warnings, missing) = (count(Level::Warn), count(Level::Missing));
    let verdict =
        if examination.can_serve { "a daemon can serve here" } else { "a daemon cannot serve here" };
    text.push_str(&format!("\n{verdict}: {missing} missing, {warnings} to look at\n"));
    text
}

fn lines(check: &Check) -> String {
    let (word, color) = match check.level {
        Level::Ok => ("ok", AnsiColor::Green),
        Level::Warn => ("warn", AnsiColor::Yellow),
        Level::Missing => ("missing", AnsiColor::Red),
    };
    let style = Style::new().fg_color(Some(color.into()));
    let mut text = format!("{style}{word:<8}{style:#}{:<23}{}\n", check.name, wrapped(&check.found));
    if let Some(mend) = &check.mend {
        text.push_str(&format!("{:INDENT$}{}\n", "", wrapped(&format!("-> {mend}"))));
    }
    text
}

/// Broken between words, so that with its indent it fits the terminal. A word that is too long stays whole: it may be
/// a path to be copied.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().expect("there is always a line");
        if last.is_empty() {
            last.push_str(word);
        } else if last.chars().count() + 1 + word.chars().count() <= COLUMNS - INDENT {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines.join(&format!("\n{:INDENT$}", ""))
}

#[cfg(test)]
mod tests {
    use super::{COLUMNS, Examination, Level, table};
    use forkd::doctor::Check;

    fn examination(can_serve: bool) -> Examination {
        let check = |name: &str, level, found: &str, mend: Option<&str>| Check {
            name: name.into(),
            level,
            found: found.into(),
            mend: mend.map(Into::into),
        };
        Examination {
            can_serve,
            checks: vec![
                check("KVM", Level::Ok, "there", None),
                check("swap", Level::Warn, &"many words ".repeat(20), Some("swapoff -a")),
            ],
        }
    }

    #[test]
    fn every_line_fits_and_commands_stand_under_what_was_found() {
        let coloured = table(&examination(true));
        let text = anstream::adapter::strip_str(&coloured).to_string();
        assert!(coloured.contains("\x1b[33mwarn"), "{coloured}");
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
        assert!(text.starts_with("ok      KVM                    there\n"), "{text}");
        assert!(text.contains("\n                               -> swapoff -a\n"), "{text}");
        assert!(text.ends_with("a daemon can serve here: 0 missing, 1 to look at\n"), "{text}");
        assert!(table(&examination(false)).contains("cannot serve here"));
    }
}
