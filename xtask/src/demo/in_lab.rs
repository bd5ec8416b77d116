//! The demo where this host runs no microVMs: the same job, smaller, in a machine of the lab.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

use super::{announce, new_run_dir, point_latest_at};
use crate::setup::{self, Purpose};
use crate::{lab, workspace};

/// Emulation is slow: a small guest, and few BRANCHes.
const SWEEP: [&str; 16] = [
    "forkd-bench",
    "sweep",
    "--cell",
    "naive@ext4-loop,fallocate@ext4-loop,stage@ext4-loop,naive@tmpfs",
    "--branches",
    "4",
    "--gap-ms",
    "3000",
    "--dirty-pages",
    "4096",
    "--mem-mib",
    "128",
    "--trials",
    "1",
    "--offcpu-slowest",
    // The folder that is brought back.
    "--out=.",
];
/// Bytes a second that the machine's disk takes.
const DISK_BPS: u64 = 50_000_000;

/// Says why, boots, sweeps, and brings back the pictures.
pub fn run(why: &[String]) -> Result<ExitCode> {
    for line in why {
        println!("{line}");
    }
    println!(
        "So the demo runs in the lab: a real Linux kernel in software emulation, with Firecracker inside. It takes \
         minutes. What computes is 10 to 30 times slower there than here; the disk is one of exactly {} MB/s.",
        DISK_BPS / 1_000_000
    );
    setup::ensure(Purpose::Lab)?;
    let run_dir = new_run_dir(&workspace::reports_dir())?;
    match lab::run_with_microvms(&SWEEP, DISK_BPS, &run_dir)? {
        Some(0) => finish(&run_dir),
        Some(code) => bail!(
            "the sweep in the lab ended with exit code {code}; what it wrote is in {}",
            run_dir.display()
        ),
        None => Ok(ExitCode::from(crate::INTERRUPTED)),
    }
}

fn finish(run_dir: &Path) -> Result<ExitCode> {
    point_latest_at(run_dir)?;
    announce(run_dir)?;
    Ok(ExitCode::SUCCESS)
}
