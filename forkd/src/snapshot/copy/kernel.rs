//! The kernel copies.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::copy_file_range;
use rustix::io::Errno;

use super::{CHUNK_BYTES, Move, chunks, shrank};

/// One call copies at most this much, so that a copy can be told from a hang.
const CALL_BYTES: u64 = 16 << 20;

pub(super) fn copy(source: &File, destination: &File, one: Move) -> io::Result<()> {
    let (mut from, mut to) = (one.from, one.to);
    let end = one.from + one.bytes;
    while from < end {
        let wanted = (end - from).min(CALL_BYTES) as usize;
        // Advances both offsets.
        match copy_file_range(source, Some(&mut from), destination, Some(&mut to), wanted) {
            Ok(0) => return Err(shrank()),
            Ok(_) => {}
            // Between file systems of two types, memfd and disk for one (copy_file_range(2)).
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return read_and_write(source, destination, Move { from, to, bytes: end - from });
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn read_and_write(source: &File, destination: &File, one: Move) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    chunks(&[one]).try_for_each(|chunk| {
        let buffer = &mut buffer[..chunk.bytes as usize];
        source.read_exact_at(buffer, chunk.from)?;
        destination.write_all_at(buffer, chunk.to)
    })
}
