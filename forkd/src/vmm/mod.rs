//! One Firecracker process: its start and end, its API and its serial console.

pub mod api;
pub mod boot;
pub mod cgroup;
pub(crate) mod cgroup_mounts;
pub mod confine;
pub mod console;
pub mod control;
pub(crate) mod detach;
pub mod firecracker;
pub mod identity;
pub mod netns;
pub mod process;
pub mod support;

use std::io;
use std::path::PathBuf;

use crate::http_client::CallError;
use crate::snapshot::store::StoreError;

/// Why a microVM could not be started or spoken to.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// The process could not be started, or its files not made.
    #[error("cannot {what} {}: {source}", path.display())]
    Start {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It did not open its API socket in time.
    #[error("Firecracker did not open its API socket within {waited_ms} ms: {log}")]
    NotListening {
        /// How long it was given.
        waited_ms: u128,
        /// The end of its log.
        log: String,
    },
    /// It ended.
    #[error("Firecracker ended ({status}): {log}")]
    Ended {
        /// Its exit status, as far as it is known.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// It refused a call, or did not answer.
    #[error("Firecracker: {step}: {source}")]
    Call {
        /// What was asked of it.
        step: &'static str,
        /// What came back.
        source: CallError,
    },
    /// The drive of a paused guest could not be copied.
    #[error(transparent)]
    Drive(StoreError),
    /// The guest never said that it was ready.
    #[error("the guest did not print {expected:?} within {waited_ms} ms; its console ends in {tail:?}")]
    GuestNotReady {
        /// What was waited for.
        expected: String,
        /// How long.
        waited_ms: u128,
        /// The end of its output.
        tail: String,
    },
}
