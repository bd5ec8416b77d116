//! What the host has of what the daemon needs or can use, and the command that mends what it lacks.

mod files;
mod machine;
mod memory;
pub(crate) mod parse;
mod tracing;
mod vmm;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What is looked at.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the snapshots.
    pub snapshot_root: PathBuf,
    /// Directory of running microVMs.
    pub run_dir: PathBuf,
    /// The Firecracker binary; the first on PATH when absent.
    pub firecracker: Option<PathBuf>,
}

/// How one check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// The daemon works; something of it does not, or works worse.
    Warn,
    /// The daemon cannot work.
    Missing,
}

/// One property of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it came out.
    pub level: Level,
    /// What was found, in one line.
    pub found: String,
    /// The command that mends it, or what to do where no command does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Check {
    fn ok(name: &str, found: impl Into<String>) -> Self {
        Self { name: name.to_owned(), level: Level::Ok, found: found.into(), mend: None }
    }

    fn warn(name: &str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        let mend = Some(mend.into());
        Self { name: name.to_owned(), level: Level::Warn, found: found.into(), mend }
    }

    fn missing(name: &str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Missing, ..Self::warn(name, found, mend) }
    }
}

/// All that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examination {
    /// Whether the daemon can serve here.
    pub can_serve: bool,
    /// Every check, in the order in which people read them.
    pub checks: Vec<Check>,
}

/// Looks at everything. Changes nothing that stays: directories that are not there are not made, and what is
/// written to try a file system is deleted at once.
pub fn examine(options: &Options) -> Examination {
    let mut checks = vec![machine::kernel()];
    checks.extend(vmm::checks(options.firecracker.as_deref()));
    checks.extend(files::checks(&options.snapshot_root, &options.run_dir));
    checks.extend(memory::checks());
    checks.extend(machine::checks());
    checks.extend(tracing::checks());
    let can_serve = checks.iter().all(|check| check.level != Level::Missing);
    Examination { can_serve, checks }
}

/// Bytes for people: one decimal, the largest unit that leaves a number of at least 1.
fn human(bytes: u64) -> String {
    let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn sizes_are_for_people() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1 << 10, "1.0 KiB"), (3 << 29, "1.5 GiB"), (5 << 20, "5.0 MiB")]
        {
            assert_eq!(human(bytes), text);
        }
    }
}
