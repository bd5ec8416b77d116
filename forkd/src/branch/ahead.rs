//! Which pages of the next diff are allocated ahead of the pause.
//!
//! Allocating a page takes Firecracker about as long as copying it does, and before the pause it costs the guest
//! nothing. Which pages they will be nobody knows; what the guest dirtied last is the best guess there is.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{FallocateFlags, fallocate};

use crate::snapshot::extents::{Extent, total_bytes};

/// A guess of more pieces than this is cut short: each is a system call.
const MAX_PIECES: usize = 4096;
/// A larger guest that moves on gets the pages of its last diff too, and not all of its memory: allocating that
/// takes longer than it saves.
const MAX_WHOLE_BYTES: u64 = 512 << 20;

/// What the diffs of one guest were like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastDiff {
    extents: Vec<Extent>,
    /// The diff before it would have been a bad guess: it missed more than a quarter of the bytes.
    moved_on: bool,
}

impl LastDiff {
    /// Learns from the next diff.
    pub fn learn(&mut self, extents: Vec<Extent>) {
        let bytes = total_bytes(&extents);
        let missed = bytes - common_bytes(&self.extents, &extents);
        self.moved_on = !self.extents.is_empty() && missed * 4 > bytes;
        self.extents = extents;
    }

    /// What to allocate for the next diff of a guest of `memory_bytes`: the pages of the last one, or, where the
    /// guest dirties other pages each time, all of its memory.
    pub fn guess(&self, memory_bytes: u64) -> Vec<Extent> {
        match self.moved_on && memory_bytes <= MAX_WHOLE_BYTES {
            true => vec![Extent { start: 0, bytes: memory_bytes }],
            false => self.extents.iter().take(MAX_PIECES).copied().collect(),
        }
    }
}

/// Allocates the pages of `guess` in a memfd; those that are then not written stay holes.
pub fn allocate(memfd: impl AsFd, guess: &[Extent]) -> io::Result<()> {
    for extent in guess {
        fallocate(&memfd, FallocateFlags::empty(), extent.start, extent.bytes)?;
    }
    Ok(())
}

/// Frees what was allocated and not written: all but `written`, which is in order.
pub fn free_unwritten(memfd: impl AsFd, memory_bytes: u64, written: &[Extent]) -> io::Result<()> {
    let mut from = 0;
    let end = Extent { start: memory_bytes, bytes: 0 };
    for extent in written.iter().chain([&end]) {
        if extent.start > from {
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(&memfd, punch, from, extent.start - from)?;
        }
        from = extent.end();
    }
    Ok(())
}

/// Bytes that are in both; each is in order and without overlap.
fn common_bytes(a: &[Extent], b: &[Extent]) -> u64 {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    let mut common = 0;
    while let (Some(left), Some(right)) = (a.peek(), b.peek()) {
        let (start, end) = (left.start.max(right.start), left.end().min(right.end()));
        common += end.saturating_sub(start);
        if left.end() <= right.end() {
            a.next();
        } else {
            b.next();
        }
    }
    common
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs::File;
    use std::os::unix::fs::{FileExt, MetadataExt};

    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::{Extent, LastDiff, allocate, common_bytes, free_unwritten};
    use crate::snapshot::extents::data_extents;

    const PAGE: u64 = 4096;

    fn extent(page: u64, pages: u64) -> Extent {
        Extent { start: page * PAGE, bytes: pages * PAGE }
    }

    #[test]
    fn a_guest_that_comes_back_gets_its_last_pages_and_one_that_moves_on_gets_all() {
        let memory_bytes = 1000 * PAGE;
        let mut last = LastDiff::default();
        assert_eq!(last.guess(memory_bytes), []);
        for pages in [extent(10, 100), extent(12, 100)] {
            last.learn(vec![extent(10, 100)]);
            last.learn(vec![pages]);
            assert_eq!(last.guess(memory_bytes), [pages]);
        }
        last.learn(vec![extent(500, 100)]);
        assert_eq!(last.guess(memory_bytes), [extent(0, 1000)]);
        // A guest too large for that gets what there is.
        assert_eq!(last.guess(4 << 30), [extent(500, 100)]);
        last.learn(Vec::new());
        last.learn(vec![extent(1, 1)]);
        assert_eq!(last.guess(memory_bytes), [extent(1, 1)]);
    }

    #[test]
    fn what_was_allocated_and_not_written_is_given_back_and_what_was_written_stays() {
        let memfd = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
        memfd.set_len(100 * PAGE).unwrap();
        allocate(&memfd, &[extent(0, 100)]).unwrap();
        let written = [extent(0, 1), extent(7, 2), extent(99, 1)];
        for extent in written {
            memfd.write_all_at(&vec![3; extent.bytes as usize], extent.start).unwrap();
        }
        assert_eq!(memfd.metadata().unwrap().blocks() * 512, 100 * PAGE);
        free_unwritten(&memfd, 100 * PAGE, &written).unwrap();
        assert_eq!(memfd.metadata().unwrap().blocks() * 512, 4 * PAGE);
        assert_eq!(data_extents(&memfd).unwrap(), written);
        let mut page = [0; PAGE as usize];
        memfd.read_exact_at(&mut page, 8 * PAGE).unwrap();
        assert_eq!(page, [3; PAGE as usize]);
    }

    fn extents(pages: &BTreeSet<u64>) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        for page in pages {
            match extents.last_mut() {
                Some(last) if last.end() == page * PAGE => last.bytes += PAGE,
                _ => extents.push(extent(*page, 1)),
            }
        }
        extents
    }

    proptest! {
        #[test]
        fn common_bytes_are_those_of_the_intersection(
            a in prop::collection::btree_set(0..60_u64, 0..40),
            b in prop::collection::btree_set(0..60_u64, 0..40),
        ) {
            let common = a.intersection(&b).count() as u64 * PAGE;
            prop_assert_eq!(common_bytes(&extents(&a), &extents(&b)), common);
        }
    }
}
