//! `cargo xtask setup`: installs what the demo and the tests need, and says what it does first.

mod debian;
mod firecracker;
mod toolchain;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::{ebpf, host};

/// Install what the demo and the tests need: Debian packages and a Firecracker binary.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only report, one line per item; the exit code is 1 when something is missing.
    #[arg(long)]
    check: bool,
}

/// What is being set up for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Running microVMs and tracing them.
    Run,
    /// The same in a machine of the lab.
    Lab,
    /// Both, and checking the source, which includes building the eBPF programs from it.
    Test,
}

/// One line of the report: where the item was found, or what to do about its absence.
struct Item {
    name: String,
    found: Result<String, String>,
}

/// The command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if !arguments.check {
        ensure(Purpose::Test)?;
    }
    let items = survey();
    let missing = items.iter().filter(|item| item.found.is_err()).count();
    for Item { name, found } in items {
        match found {
            Ok(place) => println!("ok       {name:<16} {place}"),
            Err(remedy) => println!("missing  {name:<16} {remedy}"),
        }
    }
    if missing == 0 {
        println!("nothing is missing");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{missing} missing");
    Ok(ExitCode::FAILURE)
}

/// Installs what is missing for `purpose`; does and prints nothing when all is there.
pub fn ensure(purpose: Purpose) -> Result<()> {
    let mut packages = debian::missing();
    if purpose != Purpose::Run {
        packages.extend(debian::missing_for_lab());
    }
    if purpose == Purpose::Test && ebpf::compiler().is_none() {
        packages.extend(ebpf::DEBIAN_PACKAGES);
    }
    install_with_firecracker(packages)
}

/// Installs these packages, and Firecracker where there is none.
fn install_with_firecracker(mut packages: Vec<&str>) -> Result<()> {
    let fetches_firecracker = firecracker::find()?.is_none();
    if fetches_firecracker && !debian::has_pip() {
        packages.push(debian::PIP);
    }
    if !packages.is_empty() {
        debian::install(&packages)?;
    }
    if fetches_firecracker {
        firecracker::fetch()?;
    }
    Ok(())
}

/// Installs Debian packages, or fails with the command that would.
pub fn install_packages(packages: &[&str]) -> Result<()> {
    debian::install(packages)
}

/// Fails with what to install, or installs it, where this host cannot boot a machine of the lab.
pub fn ensure_lab() -> Result<()> {
    match debian::missing_for_lab() {
        packages if packages.is_empty() => Ok(()),
        packages => debian::install(&packages).context("the lab cannot boot a machine here"),
    }
}

/// The same, where microVMs are to run in that machine: it takes Firecracker from this host.
pub fn ensure_lab_with_microvms() -> Result<()> {
    install_with_firecracker(debian::missing_for_lab()).context("the lab cannot run microVMs here")
}

/// The Firecracker binary that everything here runs.
pub fn firecracker() -> Result<PathBuf> {
    let found = firecracker::find()?.context("no firecracker binary: run `cargo xtask setup`")?;
    Ok(found.path)
}

/// Fails unless cargo can run rustfmt and clippy.
pub fn require_rustfmt_and_clippy() -> Result<()> {
    let missing: Vec<String> = toolchain::survey().into_iter().filter_map(|item| item.found.err()).collect();
    if !missing.is_empty() {
        bail!("{}", missing.join("; "));
    }
    Ok(())
}

fn survey() -> Vec<Item> {
    let mut items = toolchain::survey();
    items.extend(debian::survey());
    items.push(ebpf_compiler());
    items.push(firecracker::survey());
    items.extend(host::NEEDS.map(|need| Item {
        name: host::name(need).to_owned(),
        found: host::missing(need).map_or_else(|| Ok("yes".to_owned()), Err),
    }));
    items
}

fn ebpf_compiler() -> Item {
    let found = ebpf::compiler().map(|(rustc, _)| format!("{} and its library's sources", rustc.display()));
    Item {
        name: "eBPF compiler".to_owned(),
        found: found.ok_or_else(|| debian::remedy(&ebpf::DEBIAN_PACKAGES)),
    }
}
