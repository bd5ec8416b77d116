//! Which parts of a sparse file hold data, by SEEK_DATA and SEEK_HOLE.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Extents begin and end on multiples of this: a guest page.
const PAGE_BYTES: u64 = 4096;

/// A stretch of guest memory, or of the file that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extent {
    /// Where it begins, in bytes.
    pub start: u64,
    /// Its length in bytes, more than 0.
    pub bytes: u64,
}

impl Extent {
    /// The first byte behind it.
    pub const fn end(self) -> u64 {
        self.start + self.bytes
    }
}

/// How many bytes these extents cover together.
pub fn total_bytes(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| extent.bytes).sum()
}

/// The extents of `file` that hold data: whole pages, in order, none touching the next.
///
/// The file system decides what counts as data. A hole is never reported as data on ext4, xfs, btrfs and
/// tmpfs, written zeros are; blocks that were allocated and not written count as a hole (lseek(2); for
/// tmpfs and memfds, which go by whether a page is up to date, `folio_seek_hole_data` in mm/filemap.c).
/// Moves the file's offset.
pub fn data_extents(file: impl AsFd) -> io::Result<Vec<Extent>> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut position = 0;
    loop {
        let data = match seek(&file, SeekFrom::Data(position)) {
            Ok(data) => data,
            // No data at or behind `position`.
            Err(Errno::NXIO) => return Ok(extents),
            Err(error) => return Err(error.into()),
        };
        position = seek(&file, SeekFrom::Hole(data))?;
        let (start, end) = (data - data % PAGE_BYTES, position.next_multiple_of(PAGE_BYTES));
        match extents.last_mut() {
            // Blocks smaller than a page can have a hole inside of one.
            Some(last) if last.end() >= start => last.bytes = end - last.start,
            _ => extents.push(Extent { start, bytes: end - start }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};

    use super::{Extent, data_extents};

    #[test]
    fn written_ranges_are_found_and_holes_are_not() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        assert_eq!(data_extents(&file).unwrap(), []);
        file.write_all_at(&[1; 4096], 65536).unwrap();
        file.write_all_at(&[0; 4096], 65536 + 4096).unwrap();
        file.write_all_at(&[2; 4096], (1 << 20) - 4096).unwrap();
        let expected =
            [Extent { start: 65536, bytes: 8192 }, Extent { start: (1 << 20) - 4096, bytes: 4096 }];
        assert_eq!(data_extents(&file).unwrap(), expected);
    }

    #[test]
    fn an_empty_file_has_none() {
        assert_eq!(data_extents(tempfile::tempfile().unwrap()).unwrap(), []);
    }

    #[test]
    fn pages_of_a_memfd_that_were_allocated_and_not_written_are_a_hole() {
        let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(1 << 20).unwrap();
        fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 19).unwrap();
        file.write_all_at(&[0; 4096], 8192).unwrap();
        assert_eq!(data_extents(&file).unwrap(), [Extent { start: 8192, bytes: 4096 }]);
    }
}
