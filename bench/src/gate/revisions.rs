//! Builds a revision of this repository without touching the files that are checked out.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::progress::say;
use crate::{Error, host::tools};

/// A git work tree. Dropping it removes it.
struct Checkout<'a>(&'a Path);

/// Builds the daemon of `revision` below `folder`, and puts it at `place`.
///
/// Revisions are built in turns in one target folder: what they share is compiled once.
pub fn build(revision: &str, folder: &Path, place: &Path) -> Result<(), Error> {
    let commit = resolve(revision)?;
    let checked_out = folder.join("checkout");
    let checkout = Checkout::add(&commit, &checked_out)?;
    say(format_args!("building {revision} ({commit})"));
    let target = folder.join("target");
    let mut cargo = Command::new("cargo");
    cargo.current_dir(checkout.0).args([
        "build",
        "--release",
        "--locked",
        "--quiet",
        "-p",
        "forkd",
        "--bin",
        "forkd",
    ]);
    cargo.arg("--target-dir").arg(&target);
    // Cargo of another work tree must not decide how this one is built.
    cargo.env_remove("CARGO_MANIFEST_DIR").stdin(Stdio::null());
    let status = cargo.status().map_err(|error| Error::Missing(format!("cannot run cargo: {error}")))?;
    if !status.success() {
        return Err(Error::Tool {
            program: format!("cargo build of {revision}"),
            reason: status.to_string(),
        });
    }
    let built = target.join("release/forkd");
    std::fs::copy(&built, place).map(drop).map_err(Error::file("copy", &built))
}

/// The commit that `revision` names.
fn resolve(revision: &str) -> Result<String, Error> {
    let commit = format!("{revision}^{{commit}}");
    let output =
        Command::new("git").args(["rev-parse", "--verify", "--quiet", "--end-of-options", &commit]).output();
    let output = output.map_err(|error| Error::Missing(format!("cannot run git: {error}")))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(Error::Usage(format!(
            "'{revision}' is no revision of the repository in the current folder: name a commit, tag or branch"
        ))),
    }
}

impl<'a> Checkout<'a> {
    fn add(commit: &str, folder: &'a Path) -> Result<Self, Error> {
        // A killed run leaves an entry whose folder is gone.
        let _ = tools::run(Command::new("git").args(["worktree", "prune"]), "git");
        tools::run(Command::new("git").args(["worktree", "add", "--detach"]).arg(folder).arg(commit), "git")?;
        Ok(Self(folder))
    }
}

impl Drop for Checkout<'_> {
    fn drop(&mut self) {
        let removed =
            tools::run(Command::new("git").args(["worktree", "remove", "--force"]).arg(self.0), "git");
        if let Err(error) = removed {
            say(format_args!("cannot remove the work tree {}: {error}", self.0.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::resolve;

    #[test]
    fn what_is_no_revision_is_refused_by_its_name() {
        let refused = resolve("no-such-revision").unwrap_err().to_string();
        assert!(refused.starts_with("'no-such-revision' is no revision of the repository"), "{refused}");
        // An option of git is no revision either.
        assert!(resolve("--all").is_err());
    }
}
