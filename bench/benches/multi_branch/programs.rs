//! The programs that are measured.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bench::host::tools;
use bench::site::Programs;

/// Builds the daemon as it is in this tree, and finds a Firecracker: the one that is named, or on `PATH`, or that
/// `cargo xtask setup` installed.
pub fn find() -> Result<Programs> {
    tools::check_host()?;
    let named = env::var_os("FORKD_FIRECRACKER").map(PathBuf::from);
    let installed = Some(target_dir()?.join("tools/firecracker")).filter(|path| path.is_file());
    let on_path = tools::find("firecracker", named.as_deref(), "install it (cargo xtask setup)");
    let firecracker = match (on_path, named, installed) {
        (Err(_), None, Some(installed)) => installed,
        (found, ..) => found?,
    };
    Ok(Programs { forkd: build_forkd()?, firecracker, serve_args: Vec::new() })
}

/// Where cargo builds, from where it put this program: `target/release/deps`.
pub fn target_dir() -> Result<PathBuf> {
    let profile_dir = profile_dir()?;
    let target = profile_dir.parent().context("this program lies in no target directory")?;
    Ok(target.to_owned())
}

/// Where cargo put what it built with this program's profile.
fn profile_dir() -> Result<PathBuf> {
    let program = env::current_exe().context("cannot find this program")?;
    let profile_dir = program.ancestors().nth(2).context("this program lies in no target directory")?;
    Ok(profile_dir.to_owned())
}

/// `cargo bench` builds the benchmark and not the daemon, and an old one would be measured as if it were this. Builds
/// it with this program's own profile.
fn build_forkd() -> Result<PathBuf> {
    let profile_dir = profile_dir()?;
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => "release",
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    // Of the whole workspace, as `cargo build --release` does it: of one package alone, what it depends on would be
    // built once more with fewer features.
    build.args(["build", "--bin", "forkd", "--profile", profile, "--manifest-path"]);
    build.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")).arg("--target-dir").arg(target_dir()?);
    let status = build.status().context("cannot run cargo to build the daemon")?;
    ensure!(status.success(), "the daemon could not be built: cargo build --profile {profile} -p forkd");
    Ok(profile_dir.join("forkd"))
}
