//! Programs and rights that a run needs of the host.

use std::env;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Error;

/// Refuses a host on which no microVM can run or nothing can be mounted.
pub fn check_host() -> Result<(), Error> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::Missing("needs root, to mount file systems: run it with sudo".to_owned()));
    }
    OpenOptions::new().read(true).write(true).open("/dev/kvm").map(drop).map_err(|error| {
        Error::Missing(format!(
            "needs /dev/kvm ({error}): enable virtualisation, or nested virtualisation inside a VM"
        ))
    })
}

/// The program `name`: `named` where given, else beside our own executable, else on `PATH`.
pub fn find(name: &str, named: Option<&Path>, how_to_get: &str) -> Result<PathBuf, Error> {
    if let Some(path) = named {
        let path = path.to_owned();
        return path.is_file().then_some(path.clone()).ok_or_else(|| {
            Error::Missing(format!("{} is not a file: name {name} with --{name} PATH", path.display()))
        });
    }
    let own = env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned));
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = own.into_iter().chain(env::split_paths(&path));
    folders.map(|folder| folder.join(name)).find(|path| path.is_file()).ok_or_else(|| {
        Error::Missing(format!("no {name} found: {how_to_get}, or name one with --{name} PATH"))
    })
}

/// First line that `program --version` prints.
pub fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").stderr(Stdio::null()).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned())
}

/// Runs a tool of the system to its end; `package` is where Debian has it.
pub fn run(command: &mut Command, package: &str) -> Result<(), Error> {
    output(command, package).map(drop)
}

/// The same, and what it said on standard output.
pub fn output(command: &mut Command, package: &str) -> Result<String, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    // Not every user's PATH has sbin, and mkfs lives there.
    let path = env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let output = command.env("PATH", path).stdin(Stdio::null()).output();
    let output = output.map_err(|error| {
        Error::Missing(format!("cannot run {program} ({error}): apt-get install {package}"))
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    Err(Error::Tool { program, reason: last.map_or_else(|| output.status.to_string(), str::to_owned) })
}

/// Free bytes for root on the file system of `path`.
pub fn free_bytes(path: &Path) -> Result<u64, Error> {
    fs::create_dir_all(path).map_err(Error::file("create", path))?;
    let stat = rustix::fs::statvfs(path).map_err(|error| Error::file("stat", path)(error.into()))?;
    Ok(stat.f_bavail * stat.f_frsize)
}
