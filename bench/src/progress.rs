//! How far a run is: a bar on a terminal, a line a BRANCH anywhere else. All on standard error.

use std::fmt::Display;
use std::io::{Write, stderr, stdout};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reports::sweep::Sample;

/// Prints a line on standard error. Where nobody reads that any more, a run goes on and cleans up all the same.
pub fn say(line: impl Display) {
    let _ = writeln!(stderr(), "{line}");
}

/// Prints text on standard output, under the same rule as [`say`].
pub fn print(text: impl Display) {
    let _ = write!(stdout(), "{text}");
}

/// Shows progress until it is dropped.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Progress towards `branches` BRANCHes in all.
    pub fn new(branches: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(branches), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{elapsed_precise} [{bar:24}] {pos}/{len} {wide_msg}");
        // Only a malformed template is refused, and then the default style does.
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Self { bar }
    }

    /// Says what is being done now.
    pub fn step(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    /// Counts one BRANCH.
    pub fn measured(&self, sample: &Sample) {
        self.bar.inc(1);
        if self.bar.is_hidden() {
            let (cell, trial, index) = (&sample.cell, sample.trial, sample.branch_idx);
            say(format_args!("{cell}, trial {trial}, BRANCH {index}: pause {:.1} ms", sample.pause_ms));
        }
    }

    /// Counts `branches` that were there before.
    pub fn skip(&self, branches: u64) {
        self.bar.inc(branches);
    }

    /// Counts one BRANCH, without a line of its own.
    pub fn advance(&self) {
        self.bar.inc(1);
    }

    /// Prints a line that stays.
    pub fn note(&self, line: &str) {
        self.bar.suspend(|| say(line));
    }

    /// Takes the bar off the terminal.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
