//! `cargo xtask demo`: sets up what is missing, builds, and runs the main job on this host, or in the lab where this host
//! runs no microVMs.

mod in_lab;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use testkit::Need;

use crate::setup::{self, Purpose};
use crate::{host, process, utc, workspace};

/// BRANCH real microVMs on ext4 and on tmpfs, trace the slowest cell, and draw both. Without root or /dev/kvm this
/// happens in an emulated machine (`cargo xtask lab`).
#[derive(clap::Args)]
pub struct Arguments {}

const SWEEP: [&str; 14] = [
    "sweep",
    "--cell",
    "naive@ext4-loop,fallocate@ext4-loop,stage@ext4-loop,naive@tmpfs",
    "--branches",
    "6",
    "--gap-ms",
    "3000",
    "--dirty-pages",
    "4096",
    "--mem-mib",
    "512",
    "--trials",
    "1",
    "--offcpu-slowest",
];

/// The command.
pub fn run(_: &Arguments) -> Result<ExitCode> {
    let lacks: Vec<String> = [Need::Root, Need::Kvm].into_iter().filter_map(host::missing).collect();
    if !lacks.is_empty() {
        return in_lab::run(&lacks);
    }
    // What setup cannot install comes first: without it there is no use in installing the rest.
    require(&[Need::Btf])?;
    setup::ensure(Purpose::Run)?;
    require(&[Need::LoopExt4])?;
    let firecracker = setup::firecracker()?;
    build()?;

    let run_dir = new_run_dir(&workspace::reports_dir())?;
    let mut sweep = Command::new(workspace::target_dir().join("release/forkd-bench"));
    sweep.current_dir(workspace::root()).args(SWEEP);
    sweep.arg("--firecracker").arg(&firecracker).arg("--out").arg(&run_dir);
    let ended = process::run_interruptible(&mut sweep)?;
    if let Some(signal) = ended.interrupted_by {
        eprintln!("interrupted by {signal}; what was measured until then is in {}", run_dir.display());
        return Ok(ExitCode::from(crate::INTERRUPTED));
    }
    if !ended.status.success() {
        bail!("the sweep {}; what it wrote is in {}", process::ending(ended.status), run_dir.display());
    }
    point_latest_at(&run_dir)?;
    announce(&run_dir)?;
    Ok(ExitCode::SUCCESS)
}

fn require(needs: &[Need]) -> Result<()> {
    let missing: Vec<String> = needs.iter().filter_map(|need| host::missing(*need)).collect();
    for line in &missing {
        eprintln!("{line}");
    }
    if !missing.is_empty() {
        bail!("the demo cannot run on this host, for the reasons above");
    }
    Ok(())
}

fn build() -> Result<()> {
    let binaries = ["--bin", "forkd", "--bin", "forkd-probe", "--bin", "forkd-bench"];
    process::run(workspace::cargo().args(["build", "--release", "--locked"]).args(binaries))
}

/// Makes the directory of this run, named by the time, under `reports`.
fn new_run_dir(reports: &Path) -> Result<PathBuf> {
    fs::create_dir_all(reports).with_context(|| format!("cannot create {}", reports.display()))?;
    let name = utc::name_of_now();
    for attempt in 1_u32.. {
        let run_dir = reports.join(if attempt == 1 { name.clone() } else { format!("{name}-{attempt}") });
        match fs::create_dir(&run_dir) {
            Ok(()) => return Ok(run_dir),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot create {}", run_dir.display())),
        }
    }
    bail!("no free directory name under {}", reports.display())
}

/// Replaces the link `latest` beside the run's directory in one step, so that it always leads to a run.
fn point_latest_at(run_dir: &Path) -> Result<()> {
    let (Some(reports), Some(name)) = (run_dir.parent(), run_dir.file_name()) else {
        bail!("{} is no directory of a run", run_dir.display());
    };
    let staged = reports.join(format!(".latest-{}", std::process::id()));
    let latest = reports.join("latest");
    symlink(name, &staged)
        .and_then(|()| fs::rename(&staged, &latest))
        .with_context(|| format!("cannot point {} at {}", latest.display(), run_dir.display()))
}

fn announce(run_dir: &Path) -> Result<()> {
    println!("\nreports: {} ({})", run_dir.display(), workspace::reports_dir().join("latest").display());
    let mut files: Vec<PathBuf> =
        fs::read_dir(run_dir)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    for (kind, extensions) in [("picture", ["png", "svg"]), ("data", ["csv", "json"])] {
        let of_kind =
            |path: &&PathBuf| extensions.iter().any(|end| path.extension().is_some_and(|e| e == *end));
        for file in files.iter().filter(of_kind) {
            println!("{kind:>8}: {}", file.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latest_leads_to_the_last_run() {
        let reports = tempfile::tempdir().unwrap();
        let first = new_run_dir(reports.path()).unwrap();
        let second = new_run_dir(reports.path()).unwrap();
        assert_ne!(first, second);
        for run_dir in [&first, &second] {
            point_latest_at(run_dir).unwrap();
            let latest = fs::canonicalize(reports.path().join("latest")).unwrap();
            assert_eq!(latest, fs::canonicalize(run_dir).unwrap());
        }
        // Two runs and the link, nothing staged left.
        assert_eq!(fs::read_dir(reports.path()).unwrap().count(), 3);
    }
}
