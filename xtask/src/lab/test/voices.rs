//! What several machines say at once, line by line, each line with its machine's name before it.

use std::io::{self, Write};

use crate::lab::machine::Watcher;

/// Listens to one machine: keeps all that it says, and passes whole lines on.
pub struct Voice {
    name: &'static str,
    /// All that it said.
    pub said: Vec<u8>,
    /// How much of it was passed on.
    passed_on: usize,
}

impl Voice {
    /// Of the machine with this name.
    pub fn of(name: &'static str) -> Self {
        Self { name, said: Vec::new(), passed_on: 0 }
    }

    /// The lines that are whole and were not passed on yet, as they are shown.
    fn lines(&mut self) -> String {
        let rest = &self.said[self.passed_on..];
        let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else { return String::new() };
        let text = String::from_utf8_lossy(&rest[..=end]).into_owned();
        let shown = text.lines().map(|line| format!("{:<5}| {line}\n", self.name)).collect();
        self.passed_on += end + 1;
        shown
    }
}

impl Watcher for Voice {
    fn hear(&mut self, chunk: &[u8]) {
        self.said.extend_from_slice(chunk);
        let lines = self.lines();
        let mut stdout = io::stdout().lock();
        // Nobody may be listening any more; the tests go on.
        let _ = stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::Voice;

    #[test]
    fn lines_are_passed_on_once_and_whole() {
        let mut voice = Voice::of("6.1");
        voice.said.extend_from_slice(b"one\ntw");
        assert_eq!(voice.lines(), "6.1  | one\n");
        assert_eq!(voice.lines(), "");
        voice.said.extend_from_slice(b"o\n\nthree");
        assert_eq!(voice.lines(), "6.1  | two\n6.1  | \n");
        assert_eq!(voice.said, b"one\ntwo\n\nthree");
    }
}
