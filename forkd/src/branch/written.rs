//! The files that Firecracker writes during the pause: in memory, or in the staging directory.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, memfd_create};

use super::ahead::{allocate, free_unwritten};
use super::staging_memory::{StagingReservation, host_swaps};
use crate::api::BranchMode;
use crate::snapshot::extents::{Extent, data_extents, total_bytes};
use crate::snapshot::staging::Staging;

/// Where Firecracker writes one snapshot.
#[derive(Debug)]
pub struct Written {
    /// The path of guest memory, for Firecracker.
    pub memory_path: PathBuf,
    /// The path of device and CPU state, for Firecracker.
    pub vmstate_path: PathBuf,
    memfds: Option<Memfds>,
}

#[derive(Debug)]
struct Memfds {
    memory: File,
    vmstate: File,
    reservation: StagingReservation,
}

impl Written {
    /// In the staging directory, on its disk.
    pub fn on_disk(staging: &Staging, mode: BranchMode) -> Self {
        let memory_path = match mode {
            BranchMode::Full => staging.memory_path(),
            BranchMode::Diff => staging.diff_path(),
        };
        Self { memory_path, vmstate_path: staging.vmstate_path(), memfds: None }
    }

    /// In fresh memfds of this process, which Firecracker opens through `/proc`. The pages of `guess`
    /// are allocated now, so that the pause does not pay for them; a page that is then not written stays a hole. On a host that swaps nothing is allocated: see [`host_swaps`].
    pub fn in_memory(
        memory_bytes: u64,
        guess: &[Extent],
        mut reservation: StagingReservation,
    ) -> io::Result<Self> {
        let memory = File::from(memfd_create("forkd-memory", MemfdFlags::CLOEXEC)?);
        memory.set_len(memory_bytes)?;
        if !host_swaps() {
            allocate(&memory, guess)?;
        }
        reservation.note_allocated(held_bytes(&memory)?);
        let vmstate = File::from(memfd_create("forkd-vmstate", MemfdFlags::CLOEXEC)?);
        let path =
            |file: &File| PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
        let (memory_path, vmstate_path) = (path(&memory), path(&vmstate));
        Ok(Self { memory_path, vmstate_path, memfds: Some(Memfds { memory, vmstate, reservation }) })
    }

    /// Whether it is in memory.
    pub fn is_in_memory(&self) -> bool {
        self.memfds.is_some()
    }

    /// Guest memory as it was written.
    pub fn memory(&self) -> io::Result<File> {
        match &self.memfds {
            Some(memfds) => memfds.memory.try_clone(),
            None => File::open(&self.memory_path),
        }
    }

    /// What Firecracker wrote, after it has: the extents of guest memory, and their bytes.
    ///
    /// Gives back the memory that was allocated ahead and not written, and its part of the reservation.
    pub fn measure(&mut self) -> io::Result<Measured> {
        let extents = data_extents(self.memory()?)?;
        let Some(memfds) = &mut self.memfds else {
            let physical_bytes = std::fs::metadata(&self.memory_path)?.blocks() * 512;
            return Ok(Measured { extents, physical_bytes, staged_bytes: 0 });
        };
        // With the pages that were allocated ahead and not written: they were held all through the pause.
        let staged_bytes = held_bytes(&memfds.memory)? + held_bytes(&memfds.vmstate)?;
        free_unwritten(&memfds.memory, memfds.memory.metadata()?.len(), &extents)?;
        memfds.reservation.shrink_to(held_bytes(&memfds.memory)? + held_bytes(&memfds.vmstate)?);
        let physical_bytes = total_bytes(&extents);
        Ok(Measured { extents, physical_bytes, staged_bytes })
    }

    /// Copies device and CPU state to where it belongs, where it is not there already.
    pub fn write_vmstate(&self, staging: &Staging) -> io::Result<()> {
        let Some(memfds) = &self.memfds else { return Ok(()) };
        let mut destination = File::options().write(true).create_new(true).open(staging.vmstate_path())?;
        io::copy(
            &mut File::open(format!("/proc/self/fd/{}", memfds.vmstate.as_raw_fd()))?,
            &mut destination,
        )?;
        Ok(())
    }
}

/// Memory or disk space that a file takes.
fn held_bytes(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.blocks() * 512)
}

/// The size of what Firecracker wrote.
#[derive(Debug)]
pub struct Measured {
    /// The parts of guest memory that it wrote.
    pub extents: Vec<Extent>,
    /// Their bytes in memory, or the disk space they take.
    pub physical_bytes: u64,
    /// The most memory that was held for them, for state, and for pages that were allocated ahead.
    pub staged_bytes: u64,
}
