//! Past the page cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use rustix::fs::OFlags;

use super::buffer::Buffer;
use super::{CHUNK_BYTES, Move, chunks};

/// Copies with O_DIRECT on each side where the file system has it; through the page cache where not.
///
/// Offsets and lengths must be multiples of the device's block size; whole pages are.
pub(super) fn copy(source: &File, destination: &File, moves: &[Move]) -> io::Result<()> {
    let uncached_source = uncached(source, false);
    let uncached_destination = uncached(destination, true);
    let source = uncached_source.as_ref().unwrap_or(source);
    let destination = uncached_destination.as_ref().unwrap_or(destination);
    let mut buffer = Buffer::new(CHUNK_BYTES)?;
    chunks(moves).try_for_each(|chunk| {
        let bytes = &mut buffer.as_mut_slice()[..chunk.bytes as usize];
        source.read_exact_at(bytes, chunk.from)?;
        destination.write_all_at(bytes, chunk.to)
    })
}

/// The same file opened with O_DIRECT; `None` where its file system refuses that (tmpfs before Linux 6.6).
fn uncached(file: &File, write: bool) -> Option<File> {
    let flags = OFlags::DIRECT.bits().cast_signed();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    OpenOptions::new().read(!write).write(write).custom_flags(flags).open(path).ok()
}
