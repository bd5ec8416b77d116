//! How long work on files gives way to other work.

use std::io;

/// Asked between two pieces of a long copy or of a digest.
pub trait Pace {
    /// Waits until the next piece may be done. An error ends the work.
    fn next_piece(&self) -> io::Result<()>;

    /// Whether somebody waits for the end of it.
    fn is_urgent(&self) -> bool;
}

/// Work that somebody waits for: it gives way to nothing.
#[derive(Clone, Copy, Debug)]
pub struct Urgent;

impl Pace for Urgent {
    fn next_piece(&self) -> io::Result<()> {
        Ok(())
    }

    fn is_urgent(&self) -> bool {
        true
    }
}
