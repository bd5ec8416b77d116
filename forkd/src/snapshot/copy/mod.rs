//! Moves guest memory between files, data only: holes cost nothing and stay holes.

mod buffer;
mod direct;
mod kernel;
mod uring;

use std::fs::File;
use std::io;

use super::extents::{Extent, data_extents};
use super::pace::Pace;

/// Between two pieces of at most this much, work that nobody waits for looks whether it may go on.
const PIECE_BYTES: u64 = 8 << 20;

/// One call or request moves at most this much.
const CHUNK_BYTES: usize = 1 << 20;

/// How bytes are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The kernel copies, through the page cache (copy_file_range(2), else read and write).
    Kernel,
    /// Read and written past the page cache (O_DIRECT) where the file system can, so that no dirty pages pile up.
    Direct,
    /// Several reads and writes in flight at once (io_uring).
    Uring,
}

/// `bytes` bytes at `from` in the source, to be written at `to` in the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Offset in the source.
    pub from: u64,
    /// Offset in the destination.
    pub to: u64,
    /// Length.
    pub bytes: u64,
}

/// Writes the data of `source` over the same offsets of `destination` and returns how many bytes that was.
///
/// Where `source` has a hole, `destination` keeps what it has: over an empty or preallocated file this is a
/// copy, over an image it lays the pages of a diff on it. `destination` is never truncated, so blocks that
/// it was given beforehand are the ones that are used.
pub fn overlay(method: Method, source: &File, destination: &File) -> io::Result<u64> {
    let moves: Vec<Move> = data_extents(source)?
        .into_iter()
        .map(|Extent { start, bytes }| Move { from: start, to: start, bytes })
        .collect();
    apply(method, source, destination, &moves)
}

/// As [`overlay`], giving way as `pace` says: past the page cache while nobody waits, so that the disk sees the
/// priority of this thread and not that of the kernel's writeback, and through it from the moment somebody does.
pub fn overlay_paced(source: &File, destination: &File, pace: &dyn Pace) -> io::Result<()> {
    let moves = data_extents(source)?.into_iter();
    let moves = moves.map(|Extent { start, bytes }| Move { from: start, to: start, bytes });
    apply_paced(source, destination, moves, pace)
}

/// As [`unpack`], giving way as [`overlay_paced`] does.
pub fn unpack_paced(layer: &File, extents: &[Extent], destination: &File, pace: &dyn Pace) -> io::Result<()> {
    let moves = packed(extents).map(|(at, extent)| Move { from: at, to: extent.start, bytes: extent.bytes });
    apply_paced(layer, destination, moves, pace)
}

fn apply_paced(
    source: &File,
    destination: &File,
    moves: impl Iterator<Item = Move>,
    pace: &dyn Pace,
) -> io::Result<()> {
    let mut batch = Batch { moves: Vec::new(), bytes: 0 };
    for piece in moves.flat_map(|one| pieces(one, PIECE_BYTES)) {
        if batch.bytes + piece.bytes > PIECE_BYTES {
            batch.apply(source, destination, pace)?;
        }
        batch.bytes += piece.bytes;
        batch.moves.push(piece);
    }
    batch.apply(source, destination, pace)
}

/// Moves of at most [`PIECE_BYTES`] together.
struct Batch {
    moves: Vec<Move>,
    bytes: u64,
}

impl Batch {
    fn apply(&mut self, source: &File, destination: &File, pace: &dyn Pace) -> io::Result<()> {
        pace.next_piece()?;
        let method = if pace.is_urgent() { Method::Kernel } else { Method::Direct };
        apply(method, source, destination, &self.moves)?;
        self.moves.clear();
        self.bytes = 0;
        Ok(())
    }
}

/// Writes `extents` of `source` one after another to `layer`, from its beginning.
pub fn pack(source: &File, extents: &[Extent], layer: &File) -> io::Result<u64> {
    let packed = packed(extents).map(|(at, extent)| Move { from: extent.start, to: at, bytes: extent.bytes });
    apply(Method::Kernel, source, layer, &packed.collect::<Vec<_>>())
}

/// Writes what [`pack`] packed back to where it was.
pub fn unpack(layer: &File, extents: &[Extent], destination: &File) -> io::Result<u64> {
    let packed = packed(extents).map(|(at, extent)| Move { from: at, to: extent.start, bytes: extent.bytes });
    apply(Method::Kernel, layer, destination, &packed.collect::<Vec<_>>())
}

/// Each extent with its offset in a layer file.
fn packed(extents: &[Extent]) -> impl Iterator<Item = (u64, Extent)> {
    extents.iter().scan(0, |at, extent| {
        let here = *at;
        *at += extent.bytes;
        Some((here, *extent))
    })
}

fn apply(method: Method, source: &File, destination: &File, moves: &[Move]) -> io::Result<u64> {
    match method {
        Method::Kernel => moves.iter().try_for_each(|one| kernel::copy(source, destination, *one))?,
        Method::Direct => direct::copy(source, destination, moves)?,
        Method::Uring => uring::copy(source, destination, moves)?,
    }
    Ok(moves.iter().map(|one| one.bytes).sum())
}

/// Cuts moves into pieces of at most [`CHUNK_BYTES`].
fn chunks(moves: &[Move]) -> impl Iterator<Item = Move> {
    moves.iter().flat_map(|one| pieces(*one, CHUNK_BYTES as u64))
}

fn pieces(one: Move, most: u64) -> impl Iterator<Item = Move> {
    (0..one.bytes.div_ceil(most)).map(move |piece| {
        let done = piece * most;
        Move { from: one.from + done, to: one.to + done, bytes: (one.bytes - done).min(most) }
    })
}

fn shrank() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the file shrank while it was copied")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use proptest::prelude::*;

    use super::{Extent, Method, Pace, data_extents, overlay, overlay_paced, pack, unpack, unpack_paced};

    const PAGES: u64 = 600;
    const METHODS: [Method; 3] = [Method::Kernel, Method::Direct, Method::Uring];

    /// Urgent at every second look, so that both ways of copying meet in one file.
    #[derive(Default)]
    struct ChangesItsMind(std::cell::Cell<bool>);

    impl Pace for ChangesItsMind {
        fn next_piece(&self) -> std::io::Result<()> {
            Ok(())
        }
        fn is_urgent(&self) -> bool {
            self.0.replace(!self.0.get())
        }
    }

    fn sparse(pages: &BTreeMap<u64, u8>) -> File {
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
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
        for method in METHODS {
            let destination = sparse(&BTreeMap::new());
            overlay(method, &sparse(&BTreeMap::from([(3, 7)])), &destination).unwrap();
            let written = [Extent { start: 3 * 4096, bytes: 4096 }];
            assert_eq!(data_extents(&destination).unwrap(), written, "{method:?}");
        }
    }

    #[test]
    fn a_memfd_and_a_file_on_a_disk_can_be_copied_both_ways() {
        let memfd = || {
            let file = File::from(rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
            file.set_len(PAGES * 4096).unwrap();
            file
        };
        let full: BTreeMap<u64, u8> = (0..PAGES).map(|page| (page, page as u8)).collect();
        for method in METHODS {
            let (there, back) = (sparse(&BTreeMap::new()), memfd());
            let original = memfd();
            original.write_all_at(&read(&sparse(&full)), 0).unwrap();
            overlay(method, &original, &there).unwrap();
            overlay(method, &there, &back).unwrap();
            assert!(read(&back) == read(&sparse(&full)), "{method:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn an_overlay_equals_the_base_with_the_written_pages_replaced(
            base in prop::collection::btree_map(0..PAGES, 0_u8.., 0..400),
            diff in prop::collection::btree_map(0..PAGES, 0_u8.., 0..100),
        ) {
            let mut expected = base.clone();
            expected.extend(diff.clone());
            let expected = read(&sparse(&expected));
            for method in METHODS {
                let destination = sparse(&BTreeMap::new());
                overlay(method, &sparse(&base), &destination).unwrap();
                let written = overlay(method, &sparse(&diff), &destination).unwrap();
                prop_assert_eq!(written, diff.len() as u64 * 4096);
                prop_assert!(read(&destination) == expected, "{:?}", method);
            }
        }

        #[test]
        fn what_is_packed_and_unpacked_over_an_image_equals_an_overlay(
            base in prop::collection::btree_map(0..PAGES, 0_u8.., 0..100),
            diff in prop::collection::btree_map(0..PAGES, 0_u8.., 0..100),
        ) {
            let source = sparse(&diff);
            let extents = data_extents(&source).unwrap();
            let layer = tempfile::tempfile().unwrap();
            pack(&source, &extents, &layer).unwrap();
            prop_assert_eq!(layer.metadata().unwrap().len(), diff.len() as u64 * 4096);
            let image = sparse(&base);
            unpack(&layer, &extents, &image).unwrap();
            let paced = sparse(&BTreeMap::new());
            let changing = ChangesItsMind::default();
            overlay_paced(&sparse(&base), &paced, &changing).unwrap();
            unpack_paced(&layer, &extents, &paced, &changing).unwrap();
            let mut expected = base;
            expected.extend(diff);
            prop_assert!(read(&image) == read(&sparse(&expected)));
            prop_assert!(read(&paced) == read(&sparse(&expected)));
        }
    }
}
