//! The log of writes that QEMU's `blklogwrites` keeps, and what a disk without power may have of them.
//!
//! The layout is that of the kernel's dm-log-writes: `Documentation/admin-guide/device-mapper/log-writes.rst` and
//! `drivers/md/dm-log-writes.c`. A super block, then for each request an entry and its data; each takes whole sectors.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};

/// `struct log_write_super`: magic, version, number of entries, sector size.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
/// Bits of an entry's flags.
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;

/// A logged request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it lies on the disk, in bytes.
    pub offset: u64,
    /// How many bytes it writes.
    pub length: u64,
    /// Where its data is in the log, in bytes; `None` where it discards.
    pub data_at: Option<u64>,
    /// Whether all that the guest had been told was written before it is on the disk.
    pub is_flush: bool,
}

/// Requests that a log may count and not have: QEMU counts a request before it has written it down (block/blklogwrites.c),
/// and its queue has room for no more.
const MOST_UNWRITTEN: u64 = 256;

/// All requests of a log that it has whole, in the order in which they were made. Those that were being written down as QEMU
/// was killed, at the log's end, had not been answered.
pub fn read(log: &File) -> Result<Vec<Entry>> {
    let word = |at: u64| -> io::Result<u64> {
        let mut bytes = [0; 8];
        log.read_exact_at(&mut bytes, at)?;
        Ok(u64::from_le_bytes(bytes))
    };
    ensure!(word(0)? == MAGIC, "it is no log of writes");
    ensure!(word(8)? == VERSION, "it has version {}, and {VERSION} is read here", word(8)?);
    let (count, sector) = (word(16)?, word(24)? & 0xffff_ffff);
    ensure!(sector.is_power_of_two() && sector >= 512, "its sectors have {sector} bytes");
    let end = log.metadata()?.len();
    let mut entries = Vec::new();
    let mut at = sector;
    for index in 0..count {
        if at + sector > end {
            break;
        }
        let entry = (|| Ok::<_, io::Error>([word(at)?, word(at + 8)?, word(at + 16)?]))();
        let [first, sectors, flags] = entry.with_context(|| format!("entry {index} of {count}"))?;
        at += sector;
        let is_discard = flags & DISCARD != 0;
        let (offset, length) = (first * sector, sectors * sector);
        if !is_discard && at + length > end {
            break;
        }
        entries.push(Entry {
            offset,
            length,
            data_at: (!is_discard).then_some(at),
            is_flush: flags & FLUSH != 0,
        });
        if !is_discard {
            at += length;
        }
    }
    let unwritten = count - entries.len() as u64;
    ensure!(unwritten <= MOST_UNWRITTEN, "it ends {unwritten} entries before the {count} that it counts");
    Ok(entries)
}

/// How many requests, from the first on, the last flush covers; those after them are in flight.
pub fn flushed(entries: &[Entry]) -> usize {
    entries.iter().rposition(|entry| entry.is_flush).map_or(0, |last| last + 1)
}

/// What a disk whose cache lost power may hold: all up to the last flush, and of the rest those that `survives` picks.
pub fn surviving(entries: &[Entry], mut survives: impl FnMut() -> bool) -> Vec<Entry> {
    let (flushed, in_flight) = entries.split_at(flushed(entries));
    let survivors = in_flight.iter().filter(|_| survives());
    flushed.iter().chain(survivors).cloned().collect()
}

/// Writes these requests to a disk, in order.
pub fn replay(log: &File, entries: &[Entry], disk: &File) -> Result<()> {
    for entry in entries {
        let mut bytes = vec![0; usize::try_from(entry.length)?];
        if let Some(at) = entry.data_at {
            log.read_exact_at(&mut bytes, at).context("the log ends within an entry")?;
        }
        disk.write_all_at(&bytes, entry.offset).context("cannot write to the disk")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTOR: usize = 512;

    /// A log of requests: first sector, bytes, flags.
    fn log(requests: &[(u64, &[u8], u64)]) -> File {
        let mut bytes = Vec::new();
        let mut put = |words: &[u64]| {
            let start = bytes.len();
            for word in words {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
            bytes.resize(start + SECTOR, 0);
        };
        put(&[MAGIC, VERSION, requests.len() as u64, SECTOR as u64]);
        let mut all = std::mem::take(&mut bytes);
        for (first, data, flags) in requests {
            for word in [*first, data.len().div_ceil(SECTOR) as u64, *flags, 0] {
                all.extend_from_slice(&word.to_le_bytes());
            }
            all.resize(all.len().next_multiple_of(SECTOR), 0);
            if flags & DISCARD == 0 {
                all.extend_from_slice(data);
                all.resize(all.len().next_multiple_of(SECTOR), 0);
            }
        }
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&all, 0).unwrap();
        file
    }

    fn disk_after(log: &File, survives: impl FnMut() -> bool) -> Vec<u8> {
        let disk = tempfile::tempfile().unwrap();
        disk.write_all_at(&[b'-'; 4 * SECTOR], 0).unwrap();
        replay(log, &surviving(&read(log).unwrap(), survives), &disk).unwrap();
        let mut bytes = vec![0; 4 * SECTOR];
        disk.read_exact_at(&mut bytes, 0).unwrap();
        (0..4).map(|sector| bytes[sector * SECTOR]).collect()
    }

    #[test]
    fn what_was_flushed_is_there_and_of_the_rest_what_survived() {
        let (a, b, c) = ([b'a'; SECTOR], [b'b'; SECTOR], [b'c'; SECTOR]);
        let log = log(&[(0, &a, 0), (0, &[], FLUSH), (1, &b, 0), (2, &c, 0)]);
        assert_eq!(flushed(&read(&log).unwrap()), 2);
        assert_eq!(disk_after(&log, || false), b"a---");
        assert_eq!(disk_after(&log, || true), b"abc-");
        let mut turn = false;
        let every_second = || {
            turn = !turn;
            !turn
        };
        assert_eq!(disk_after(&log, every_second), b"a-c-");
    }

    #[test]
    fn a_discard_has_no_data_in_the_log_and_leaves_zeros() {
        let (a, zeros, b) = ([b'a'; SECTOR], [0; SECTOR], [b'b'; SECTOR]);
        let log = log(&[(0, &a, 0), (0, &zeros, DISCARD), (1, &b, FLUSH)]);
        assert_eq!(disk_after(&log, || false), b"\0b--");
    }

    #[test]
    fn what_is_no_log_is_refused_and_one_that_is_cut_ends_with_its_last_whole_request() {
        let no_log = tempfile::tempfile().unwrap();
        no_log.set_len(4096).unwrap();
        assert_eq!(read(&no_log).unwrap_err().to_string(), "it is no log of writes");
        let cut = log(&[(0, &[b'a'; SECTOR], 0), (1, &[b'b'; SECTOR], 0)]);
        let whole = read(&cut).unwrap();
        for sectors in [4, 3] {
            cut.set_len(sectors * SECTOR as u64).unwrap();
            assert_eq!(read(&cut).unwrap(), whole[..1], "{sectors} sectors");
        }
        cut.write_all_at(&1000_u64.to_le_bytes(), 16).unwrap();
        let error = read(&cut).unwrap_err().to_string();
        assert_eq!(error, "it ends 999 entries before the 1000 that it counts");
    }
}
