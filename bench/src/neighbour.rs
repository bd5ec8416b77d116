//! Load on the file system that is measured, as another tenant of the host would make it.
//!
//! A process of its own (`forkd-bench neighbour`), so that its threads and its memory are not the measurement's.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::str::FromStr;

use rustix::fs::{Advice, fadvise};

/// What the neighbour does, without a pause, to one file of [`FILE_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Neighbour {
    /// There is none.
    None,
    /// Overwrites it from begin to end, and leaves the rest to the kernel's writeback.
    Write,
    /// Overwrites 4 KiB somewhere in it and waits until they are on disk.
    Fsync,
    /// Reads it from begin to end, from the disk and not from memory.
    Read,
}

/// Size of the neighbour's file.
pub const FILE_BYTES: u64 = 64 << 20;
const CHUNK: usize = 1 << 20;
const PAGE: usize = 4096;

impl Neighbour {
    const ALL: [Self; 4] = [Self::None, Self::Write, Self::Fsync, Self::Read];

    /// Its name in cells, files and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Write => "write",
            Self::Fsync => "fsync",
            Self::Read => "read",
        }
    }

    /// Does it in the file `path` until that fails, which it does when the file system is full or gone. Begins
    /// with a file that is whole, and then calls `ready`.
    pub fn work(self, path: &Path, ready: impl FnOnce()) -> io::Error {
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path);
        let file = match open.and_then(|file| fill(&file).map(|()| file)) {
            Ok(file) => file,
            Err(error) => return error,
        };
        ready();
        let mut random = fastrand::Rng::with_seed(FILE_BYTES);
        loop {
            let done = match self {
                Self::None => Err(io::Error::new(io::ErrorKind::InvalidInput, "this neighbour does nothing")),
                Self::Write => fill(&file),
                Self::Fsync => sync_a_page(&file, &mut random),
                Self::Read => read_from_disk(&file),
            };
            if let Err(error) = done {
                return error;
            }
        }
    }
}

impl FromStr for Neighbour {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|neighbour| neighbour.name() == name);
        found.ok_or_else(|| format!("no neighbour is called '{name}': use one of {known}"))
    }
}

fn fill(file: &File) -> io::Result<()> {
    let chunk = vec![0x5a; CHUNK];
    (0..FILE_BYTES).step_by(CHUNK).try_for_each(|at| file.write_all_at(&chunk, at))
}

fn sync_a_page(file: &File, random: &mut fastrand::Rng) -> io::Result<()> {
    let at = random.u64(..FILE_BYTES / PAGE as u64) * PAGE as u64;
    file.write_all_at(&[random.u8(..); PAGE], at)?;
    file.sync_data()
}

fn read_from_disk(file: &File) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    (0..FILE_BYTES).step_by(CHUNK).try_for_each(|at| file.read_exact_at(&mut chunk, at))?;
    // Only clean pages can be dropped; all are, once the first fill has been written back.
    Ok(fadvise(file, 0, None, Advice::DontNeed)?)
}

#[cfg(test)]
mod tests {
    use super::{FILE_BYTES, Neighbour};

    #[test]
    fn a_neighbour_reads_back_from_its_name() {
        for neighbour in Neighbour::ALL {
            assert_eq!(neighbour.name().parse(), Ok(neighbour));
        }
        assert!("noisy".parse::<Neighbour>().unwrap_err().contains("none, write, fsync, read"));
    }

    #[test]
    fn it_begins_with_a_whole_file_and_says_why_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("neighbour");
        let mut length = 0;
        let error = Neighbour::None.work(&path, || length = std::fs::metadata(&path).unwrap().len());
        assert_eq!((length, error.to_string().as_str()), (FILE_BYTES, "this neighbour does nothing"));
        let nowhere = Neighbour::Write.work(&folder.path().join("no/such"), || {});
        assert_eq!(nowhere.kind(), std::io::ErrorKind::NotFound);
    }
}
