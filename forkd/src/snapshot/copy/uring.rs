//! Several reads and writes in flight.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::types::Fd;
use io_uring::{IoUring, opcode};

use super::buffer::Buffer;
use super::{CHUNK_BYTES, Move, chunks, shrank};

/// Chunks in flight, each with a buffer of its own.
const IN_FLIGHT: usize = 8;

/// One buffer, and how far its chunk has come.
struct Slot {
    buffer: Buffer,
    chunk: Move,
    /// Bytes of the chunk that the current half, the read or the write, has done.
    done: u64,
    writing: bool,
}

pub(super) fn copy(source: &File, destination: &File, moves: &[Move]) -> io::Result<()> {
    let mut pending: VecDeque<Move> = chunks(moves).collect();
    let mut ring = IoUring::new(IN_FLIGHT as u32)?;
    let mut slots = Vec::new();
    while slots.len() < IN_FLIGHT
        && let Some(chunk) = pending.pop_front()
    {
        slots.push(Slot { buffer: Buffer::new(CHUNK_BYTES)?, chunk, done: 0, writing: false });
    }
    let mut copy = Copy { source, destination, ring: &mut ring, in_flight: 0 };
    let outcome = copy.run(&mut slots, &mut pending);
    // The kernel writes to the buffers of requests in flight: they must outlive those, also after an error.
    if let Err(error) = copy.wait_for_all() {
        // It cannot be known when the kernel is done with them.
        std::mem::forget(slots);
        return Err(error);
    }
    outcome
}

struct Copy<'a> {
    source: &'a File,
    destination: &'a File,
    ring: &'a mut IoUring,
    in_flight: usize,
}

impl Copy<'_> {
    fn run(&mut self, slots: &mut [Slot], pending: &mut VecDeque<Move>) -> io::Result<()> {
        for (index, slot) in slots.iter_mut().enumerate() {
            self.submit(index, slot)?;
        }
        while self.in_flight > 0 {
            self.wait_for_one()?;
            while let Some((index, moved)) = self.completed()? {
                let slot = &mut slots[index];
                if slot.advance(moved) || slot.take_next(pending) {
                    self.submit(index, slot)?;
                }
            }
        }
        Ok(())
    }

    fn submit(&mut self, index: usize, slot: &mut Slot) -> io::Result<()> {
        let (left, done) = ((slot.chunk.bytes - slot.done) as u32, slot.done);
        // SAFETY: `done` is at most the chunk's length, which is at most the buffer's.
        let at = unsafe { slot.buffer.as_mut_ptr().add(done as usize) };
        let entry = match slot.writing {
            false => opcode::Read::new(Fd(self.source.as_raw_fd()), at, left)
                .offset(slot.chunk.from + done)
                .build(),
            true => opcode::Write::new(Fd(self.destination.as_raw_fd()), at, left)
                .offset(slot.chunk.to + done)
                .build(),
        };
        // SAFETY: the files outlive `self`, and `copy` keeps the buffer until no request is in flight; a slot
        // has one request at a time, so nobody else touches its buffer meanwhile.
        unsafe { self.ring.submission().push(&entry.user_data(index as u64)) }.map_err(io::Error::other)?;
        self.in_flight += 1;
        Ok(())
    }

    /// One request that has ended: its slot, and how many bytes it moved.
    fn completed(&mut self) -> io::Result<Option<(usize, u64)>> {
        let Some(entry) = self.ring.completion().next() else { return Ok(None) };
        self.in_flight -= 1;
        match entry.result() {
            0 => Err(shrank()),
            moved @ 1.. => Ok(Some((entry.user_data() as usize, moved as u64))),
            error => Err(io::Error::from_raw_os_error(-error)),
        }
    }

    fn wait_for_one(&mut self) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(1) {
                // A signal, or a debugger, or the freezer.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome.map(drop),
            }
        }
    }

    fn wait_for_all(&mut self) -> io::Result<()> {
        while self.in_flight > 0 {
            self.wait_for_one()?;
            self.in_flight -= self.ring.completion().count();
        }
        Ok(())
    }
}

impl Slot {
    /// Notes what a request did; whether the chunk needs another one.
    fn advance(&mut self, moved: u64) -> bool {
        self.done += moved;
        if self.done < self.chunk.bytes {
            return true;
        }
        self.done = 0;
        self.writing = !self.writing;
        self.writing
    }

    /// Goes on with another chunk, where there is one.
    fn take_next(&mut self, pending: &mut VecDeque<Move>) -> bool {
        pending.pop_front().is_some_and(|chunk| {
            self.chunk = chunk;
            true
        })
    }
}
