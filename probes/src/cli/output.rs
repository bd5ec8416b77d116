//! Where a report goes.

use std::fs::{File, OpenOptions};
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
    /// A device, a pipe or the like: it is written to, and stays what it is.
    Special {
        /// What is written to.
        file: File,
        /// Its name.
        path: PathBuf,
    },
}

impl Output {
    /// Standard output, a new file beside `path`, or what `path` is where that is no ordinary file.
    pub fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::Stdout) };
        if path.is_dir() {
            return Err(
                BadInput(format!("{} is a directory: name a file to write to", path.display())).into()
            );
        }
        // Through links, so that the file and not its link is replaced; /dev/null must not be replaced at all.
        let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if path.metadata().is_ok_and(|there| !there.is_file()) {
            let file = OpenOptions::new().write(true).open(path);
            let file = file.map_err(|error| {
                BadInput(format!("cannot write {}: {error}; name another", path.display()))
            })?;
            return Ok(Self::Special { file, path: path.clone() });
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let staged = tempfile::Builder::new().prefix(".forkd-probe-").tempfile_in(folder);
        // The error's text has the name of the file beside it, which nobody gave: its kind says enough.
        let staged = staged.map_err(|error| {
            let folder = folder.display();
            let why = match error.kind() {
                ErrorKind::NotFound => format!("there is no folder {folder}"),
                kind => format!("{kind} in {folder}"),
            };
            BadInput(format!("cannot write {}: {why}; name another place with -o", path.display()))
        })?;
        Ok(Self::File { staged, path: path.clone() })
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
                // Through the file itself, whose errors do not have its name, which is not the one to be told.
                staged.as_file_mut().write_all(bytes).with_context(context)?;
                // Temporary files are private; a report is as readable as any other new file.
                let mode = 0o666 & !umask();
                staged.as_file().set_permissions(PermissionsExt::from_mode(mode)).with_context(context)?;
                staged.as_file().sync_all().with_context(context)?;
                staged.persist(&path).map_err(|error| error.error).with_context(context)?;
                Ok(())
            }
            Self::Special { mut file, path } => {
                file.write_all(bytes).with_context(|| format!("writing the report to {}", path.display()))
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileTypeExt, symlink};

    use super::Output;

    #[test]
    fn a_device_behind_a_link_is_written_to_and_stays_a_device() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("null");
        symlink("/dev/null", &link).unwrap();
        Output::open(Some(&link)).unwrap().write(b"report").unwrap();
        assert!(link.is_symlink());
        assert!(fs::metadata(&link).unwrap().file_type().is_char_device());
    }

    #[test]
    fn a_folder_that_is_not_there_is_told_with_the_name_that_was_given() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing/report");
        let said = Output::open(Some(&path)).unwrap_err().to_string();
        assert!(said.starts_with(&format!("cannot write {}: there is no folder ", path.display())), "{said}");
        assert!(!said.contains(".forkd-probe-"), "{said}");
    }

    #[test]
    fn a_file_behind_a_link_is_replaced_and_the_link_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "old and longer").unwrap();
        symlink(&file, &link).unwrap();
        Output::open(Some(&link)).unwrap().write(b"new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");
    }
}
