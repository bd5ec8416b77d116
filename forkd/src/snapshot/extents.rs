//! Which parts of a sparse file hold data, by SEEK_DATA and SEEK_HOLE.

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// The byte ranges of `file` that hold data, in order, none empty, none touching the next.
///
/// The file system decides what counts as data: a hole is never reported as data on ext4, xfs, btrfs and
/// tmpfs, written zeros are (lseek(2)). Moves the file's offset.
pub fn data_extents(file: impl AsFd) -> io::Result<Vec<Range<u64>>> {
    let mut extents = Vec::new();
    let mut position = 0;
    loop {
        let start = match seek(&file, SeekFrom::Data(position)) {
            Ok(start) => start,
            // No data at or behind `position`.
            Err(Errno::NXIO) => return Ok(extents),
            Err(error) => return Err(error.into()),
        };
        let end = seek(&file, SeekFrom::Hole(start))?;
        extents.push(start..end);
        position = end;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::data_extents;

    #[test]
    fn written_ranges_are_found_and_holes_are_not() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        assert_eq!(data_extents(&file).unwrap(), []);
        file.write_all_at(&[1; 4096], 65536).unwrap();
        file.write_all_at(&[0; 4096], 65536 + 4096).unwrap();
        file.write_all_at(&[2; 4096], (1 << 20) - 4096).unwrap();
        assert_eq!(data_extents(&file).unwrap(), [65536..65536 + 8192, (1 << 20) - 4096..1 << 20]);
    }

    #[test]
    fn an_empty_file_has_none() {
        assert_eq!(data_extents(tempfile::tempfile().unwrap()).unwrap(), []);
    }
}
