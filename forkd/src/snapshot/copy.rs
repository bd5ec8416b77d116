//! Moves memory images between files, data only: holes cost nothing and stay holes.

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::copy_file_range;

use super::extents::data_extents;

/// One call copies at most this much, so that a copy can be told from a hang.
const CHUNK_BYTES: u64 = 16 << 20;

/// Writes the data of `source` over the same offsets of `destination` and returns how many bytes that was.
///
/// Where `source` has a hole, `destination` keeps what it has: over an empty or preallocated file this is a
/// copy, over an image it lays the pages of a diff on it. Neither file is truncated or extended beyond the
/// last byte written, so blocks that `destination` was given beforehand are the ones that are used.
pub fn overlay(source: &File, destination: &File) -> io::Result<u64> {
    data_extents(source)?.into_iter().try_fold(0, |copied, extent| {
        let bytes = extent.end - extent.start;
        copy_extent(source, destination, extent)?;
        Ok(copied + bytes)
    })
}

fn copy_extent(source: &File, destination: &File, extent: Range<u64>) -> io::Result<()> {
    let (mut from, mut to) = (extent.start, extent.start);
    while from < extent.end {
        let wanted = (extent.end - from).min(CHUNK_BYTES);
        // Advances both offsets. Source and destination lie on one file system, so the kernel copies through
        // the page cache where that file system has no copy of its own (copy_file_range(2)).
        let copied = copy_file_range(source, Some(&mut from), destination, Some(&mut to), wanted as usize)?;
        if copied == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file shrank while it was copied"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use proptest::prelude::*;

    use super::{data_extents, overlay};

    const PAGES: u64 = 64;

    fn sparse(pages: &BTreeMap<u64, u8>) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(PAGES * 4096).unwrap();
        for (page, value) in pages {
            file.write_all_at(&[*value; 4096], page * 4096).unwrap();
        }
        file
    }

    fn read(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; (PAGES * 4096) as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn a_hole_in_the_source_stays_a_hole() {
        let destination = sparse(&BTreeMap::new());
        overlay(&sparse(&BTreeMap::from([(3, 7)])), &destination).unwrap();
        let written = 3 * 4096..4 * 4096;
        assert_eq!(data_extents(&destination).unwrap(), std::slice::from_ref(&written));
    }

    proptest! {
        #[test]
        fn an_overlay_equals_the_base_with_the_written_pages_replaced(
            base in prop::collection::btree_map(0..PAGES, 0_u8.., 0..40),
            diff in prop::collection::btree_map(0..PAGES, 0_u8.., 0..40),
        ) {
            let destination = sparse(&BTreeMap::new());
            overlay(&sparse(&base), &destination).unwrap();
            let written = overlay(&sparse(&diff), &destination).unwrap();
            prop_assert_eq!(written, diff.len() as u64 * 4096);
            let mut expected = base;
            expected.extend(diff);
            prop_assert_eq!(read(&destination), read(&sparse(&expected)));
        }
    }
}
