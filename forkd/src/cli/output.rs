//! What commands print: text or one JSON document, in colours or without.

use std::io::{self, IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};
use rustix::termios::tcgetwinsize;
use serde::Serialize;

use super::options::Color;

/// Standard output and standard error, as the options want them.
#[derive(Debug)]
pub struct Output {
    /// Whether results are printed as JSON.
    pub json: bool,
    color: ColorChoice,
}

impl Output {
    /// Prints as the options say.
    pub fn new(json: bool, color: Color) -> Self {
        let color = match color {
            Color::Auto => ColorChoice::Auto,
            Color::Always => ColorChoice::Always,
            Color::Never => ColorChoice::Never,
        };
        Self { json, color }
    }

    /// Columns of the terminal that results go to; `None` where they go elsewhere, and nothing may be cut.
    pub fn columns(&self) -> Option<usize> {
        let stdout = io::stdout();
        let columns = || tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col)).filter(|n| *n > 0);
        stdout.is_terminal().then(|| columns().unwrap_or(reports::text::COLUMNS))
    }

    /// Prints a result: `value` as JSON where that is asked for, else the text.
    pub fn result<T: Serialize>(&self, value: &T, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        let text = if self.json { serde_json::to_string_pretty(value)? + "\n" } else { text() };
        self.print(&text)
    }

    /// Writes `text` to standard output, less its colours where those are not wanted.
    pub fn print(&self, text: &str) -> anyhow::Result<()> {
        write(AutoStream::new(io::stdout(), self.color), text.as_bytes())
    }

    /// One line on standard error, beside the result.
    pub fn note(&self, line: &str) {
        // Where standard error is closed, nobody can be told.
        let _ = writeln!(AutoStream::new(io::stderr(), self.color), "forkd: {}", plain(line));
    }
}

/// Writes bytes to standard output as they are.
pub fn write_all(bytes: &[u8]) -> anyhow::Result<()> {
    write(io::stdout(), bytes)
}

fn write(mut stdout: impl Write, bytes: &[u8]) -> anyhow::Result<()> {
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        // Whoever reads has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// `text` with control characters, such as a terminal's escape codes, made visible: names and messages come from
/// files and guests.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn an_escape_code_in_a_name_does_not_reach_the_terminal() {
        assert_eq!(plain("a\x1b[31mb\n"), "a\u{fffd}[31mb\u{fffd}");
    }
}
