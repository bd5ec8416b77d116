//! Files that are either whole or not there.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::Error;

/// Writes `folder/name` beside its place and renames it there; gives its path.
pub fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf, Error> {
    let path = folder.join(name);
    let temporary = tempfile::Builder::new()
        .prefix(&format!(".{name}."))
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(folder);
    let mut temporary = temporary.map_err(Error::file("write", &path))?;
    temporary.write_all(bytes).map_err(Error::file("write", &path))?;
    temporary.as_file().sync_data().map_err(Error::file("write", &path))?;
    temporary.persist(&path).map_err(|error| Error::file("write", &path)(error.error))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::write;

    #[test]
    fn a_file_is_replaced_and_nothing_stays_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "a.csv", b"old").unwrap();
        let path = write(folder.path(), "a.csv", b"new").unwrap();
        assert_eq!(std::fs::read(path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
