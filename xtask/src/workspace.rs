//! Where things lie: the repository, its build directory, and what is kept in it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository's root directory.
pub fn root() -> &'static Path {
    // The manifest directory is <root>/xtask, fixed when xtask is compiled.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Cargo's build directory: `$CARGO_TARGET_DIR`, relative to where cargo was called, else `target`.
pub fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(named) if !named.is_empty() => std::path::absolute(&named).unwrap_or_else(|_| named.into()),
        _ => root().join("target"),
    }
}

/// Programs that `setup` fetched.
pub fn tools_dir() -> PathBuf {
    target_dir().join("tools")
}

/// One directory for each run of the demo, and `latest`.
pub fn reports_dir() -> PathBuf {
    target_dir().join("reports")
}

/// The cargo that runs this command, in the repository's root.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    if env::var_os("CARGO_TARGET_DIR").is_some() {
        // Absolute, because cargo takes a relative one from the directory that it runs in.
        cargo.env("CARGO_TARGET_DIR", target_dir());
    }
    cargo
}
