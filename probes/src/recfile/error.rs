//! Why a file is no recording that can be reported on.

use std::io;

use thiserror::Error;

use super::container::VERSION;

/// Why a file cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// It does not begin as a recording does.
    #[error("it does not begin as a recording of `forkd-probe record` does")]
    NotARecording,
    /// A later forkd-probe wrote it.
    #[error(
        "it has version {0} and this forkd-probe reads up to version {VERSION}: use the one that wrote it, or a later one"
    )]
    Version(u32),
    /// Its bytes are not what was written.
    #[error("it is damaged at byte {offset}: {what}; get the file again from where it was recorded")]
    Damaged {
        /// Where the block begins in the file.
        offset: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// It ends inside a block.
    #[error(
        "it ends inside the block at byte {offset}: get the whole file, or read what is before with --partial"
    )]
    Cut {
        /// Where the block begins in the file.
        offset: u64,
    },
    /// It ends before anything was recorded.
    #[error("it ends at byte {0}, before the recording began")]
    Empty(u64),
    /// What a report needs was not recorded.
    #[error(
        "it was recorded with {option} {recorded}, and this report needs {option} {needed}: record again with that"
    )]
    Lacks {
        /// The option of `record` that says what is recorded.
        option: &'static str,
        /// What the recording holds.
        recorded: &'static str,
        /// What the report needs.
        needed: &'static str,
    },
    /// It holds events of devices alone.
    #[error(
        "it holds no switches of threads, and this report is made of them: record again with `forkd-probe record`"
    )]
    NoSwitches,
    /// The system refused.
    #[error("reading it: {0}")]
    Io(#[from] io::Error),
}
