//! Where a report goes.

use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::NamedTempFile;

use super::BadInput;

/// An opened destination.
#[derive(Debug)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// A file beside the one named, which takes its place once it is whole.
    File {
        /// What is written to.
        staged: NamedTempFile,
        /// Where it goes.
        path: PathBuf,
    },
}

impl Output {
    /// Standard output, or a new file beside `path`.
    pub fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::Stdout) };
        if path.is_dir() {
            return Err(
                BadInput(format!("{} is a directory: name a file to write to", path.display())).into()
            );
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let staged =
            tempfile::Builder::new().prefix(".forkd-probe-").tempfile_in(folder).map_err(|error| {
                BadInput(format!(
                    "cannot write into {}: {error}; name a folder that exists with -o",
                    folder.display()
                ))
            })?;
        Ok(Self::File { staged, path: path.to_owned() })
    }

    /// Writes everything. A reader of standard output that has had enough is no error.
    pub fn write(self, bytes: &[u8]) -> anyhow::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
                    Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                        Err(error).context("writing the report")
                    }
                    _ => Ok(()),
                }
            }
            Self::File { mut staged, path } => {
                let context = || format!("writing the report to {}", path.display());
                staged.write_all(bytes).with_context(context)?;
                // Temporary files are private; a report is as readable as any other new file.
                let mode = 0o666 & !umask();
                staged.as_file().set_permissions(PermissionsExt::from_mode(mode)).with_context(context)?;
                staged.as_file().sync_all().with_context(context)?;
                staged.persist(&path).map_err(|error| error.error).with_context(context)?;
                Ok(())
            }
        }
    }
}

/// The mask for new files. Reading it means setting it; nothing else here makes files meanwhile.
fn umask() -> u32 {
    let mask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(mask);
    mask.bits()
}
