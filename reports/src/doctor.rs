//! What a host offers the probe.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::format::{self, Format, RenderError};
use crate::text::wrap;
use crate::units::duration;

/// The `schema` of [`Doctor`]: the number grows with every change that a reader could trip over.
pub const SCHEMA: &str = "forkd.probe-doctor/1";

/// What was tried, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doctor {
    /// [`SCHEMA`].
    pub schema: String,
    /// The kernel's release.
    pub kernel: String,
    /// Each command, started as it would be for a recording, and ended at once.
    pub commands: Vec<Trial>,
    /// Each way of attaching a program, tried with one that does nothing.
    pub attach: Vec<Trial>,
    /// What decides over the rest, as `name: value`.
    pub settings: Vec<Setting>,
}

/// One trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// What was tried.
    pub name: String,
    /// It worked.
    pub works: bool,
    /// How long it took, in nanoseconds.
    pub took_ns: u64,
    /// Why it did not work, and what would help; or what is less than whole where it did.
    pub note: Option<String>,
}

/// One setting of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Draws `report` as a table or as JSON.
///
/// # Errors
/// [`RenderError::NoStacks`] for a form that shows stacks.
pub fn render(report: &Doctor, format: Format) -> Result<Vec<u8>, RenderError> {
    match format {
        Format::Table => Ok(table(report).into_bytes()),
        Format::Json => format::json(report),
        Format::Folded | Format::Svg => Err(RenderError::NoStacks),
    }
}

fn table(report: &Doctor) -> String {
    let mut out = format!("Linux {}\n\ncommands\n", report.kernel);
    trials(&mut out, &report.commands);
    out.push_str("\nways of attaching a BPF program\n");
    trials(&mut out, &report.attach);
    out.push_str("\nsettings\n");
    for setting in &report.settings {
        out.push_str(&wrap(&format!("  {}: {}", setting.name, setting.value), " ", "    "));
    }
    out
}

fn trials(out: &mut String, trials: &[Trial]) {
    for trial in trials {
        let mut line = format!("  {:<15} ", trial.name);
        let works = if trial.works { "works" } else { "refused" };
        write!(line, "{works}, after {}", duration(trial.took_ns)).expect("a String takes every write");
        if let Some(note) = &trial.note {
            write!(line, ": {note}").expect("a String takes every write");
        }
        out.push_str(&wrap(&line, " ", "                  "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Doctor {
        let trial = |name: &str, works, note: Option<&str>| Trial {
            name: name.to_owned(),
            works,
            took_ns: 1_500_000,
            note: note.map(str::to_owned),
        };
        Doctor {
            schema: SCHEMA.to_owned(),
            kernel: "6.18.0".to_owned(),
            commands: vec![trial("offcpu", true, None), trial("oncpu", false, Some(&"why ".repeat(40)))],
            attach: vec![trial("kprobe", false, Some("no such file"))],
            settings: vec![Setting { name: "lockdown".to_owned(), value: "[none] integrity".to_owned() }],
        }
    }

    #[test]
    fn what_is_refused_says_why_in_80_columns() {
        let table = table(&report());
        assert!(table.contains("  offcpu          works, after 1.50 ms\n"), "{table}");
        assert!(table.contains("refused, after 1.50 ms: no such file"), "{table}");
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    }

    #[test]
    fn there_are_no_stacks_to_draw() {
        assert!(matches!(render(&report(), Format::Svg), Err(RenderError::NoStacks)));
        assert!(render(&report(), Format::Json).is_ok());
    }
}
