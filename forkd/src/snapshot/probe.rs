//! What the file system below a directory can do, found by trying it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::ioctl_ficlone;
use rustix::io::Errno;

use super::extents::{Extent, data_extents};
use crate::unique;

const PAGE_BYTES: u64 = 4096;

/// Whether SEEK_DATA and SEEK_HOLE tell exactly which pages of a sparse file were written: writes one page of
/// data and one of zeros, and looks whether just these count as data.
pub fn tells_data_from_holes(dir: &Path) -> io::Result<bool> {
    let file = unnamed(dir)?;
    file.set_len(1024 * PAGE_BYTES)?;
    file.write_all_at(&[1; PAGE_BYTES as usize], 100 * PAGE_BYTES)?;
    file.write_all_at(&[0; PAGE_BYTES as usize], 600 * PAGE_BYTES)?;
    file.sync_all()?;
    let expected = [100, 600].map(|page| Extent { start: page * PAGE_BYTES, bytes: PAGE_BYTES });
    Ok(data_extents(&file)? == expected)
}

/// Whether two files can share blocks (FICLONE, ioctl_ficlonerange(2)).
pub fn shares_blocks(dir: &Path) -> io::Result<bool> {
    let (source, clone) = (unnamed(dir)?, unnamed(dir)?);
    source.write_all_at(&[1; PAGE_BYTES as usize], 0)?;
    match ioctl_ficlone(&clone, &source) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::XDEV | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A file that is gone when it is closed. O_TMPFILE would do, and is missing on some file systems.
fn unnamed(dir: &Path) -> io::Result<File> {
    let path = dir.join(format!(".probe-{}", unique::hex(8)));
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}
