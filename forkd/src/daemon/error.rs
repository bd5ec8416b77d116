//! Why the daemon could not start, and why an operation failed.

use std::io;
use std::path::PathBuf;

use crate::admission::Crowded;
use crate::branch::BranchError;
use crate::history::HistoryError;
use crate::pack::PackError;
use crate::snapshot::store::StoreError;
use crate::vmm::VmmError;
use crate::vmm::cgroup::CgroupError;
use crate::vmm::netns::NetnsError;

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The snapshot root could not be taken.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system gave no thread.
    #[error("cannot start the thread that makes memory images: {0}")]
    Thread(io::Error),
    /// The data directory could not be taken.
    #[error("cannot use the data directory {}: {source}", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another daemon keeps its history there.
    #[error("{} is in use by another forkd: give this one a --data-dir of its own", .0.display())]
    DataDirInUse(PathBuf),
    /// The run directory could not be taken.
    #[error("cannot use the run directory {}: {source}", path.display())]
    RunDir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The snapshots would lie among what is deleted with each microVM.
    #[error("the snapshot root {} lies in the run directory {}: keep them apart", root.display(), run_dir.display())]
    RootInRunDir {
        /// The snapshot root.
        root: PathBuf,
        /// The run directory.
        run_dir: PathBuf,
    },
    /// Another daemon uses the run directory.
    #[error("{} is in use by another forkd: give this one a --run-dir of its own", .0.display())]
    RunDirInUse(PathBuf),
    /// A socket below it would have too long a name.
    #[error("the run directory {} is too long a name for sockets below it: use one of at most 70 bytes", .0.display())]
    RunDirTooLong(PathBuf),
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// No sandbox has that id.
    #[error("no sandbox has the id '{0}'; GET /v1/sandboxes lists those there are")]
    NoSandbox(String),
    /// What the snapshot was booted with is gone.
    #[error("snapshot '{tag}' needs its root file system {path}, and there is no such file")]
    RootfsGone {
        /// The snapshot.
        tag: String,
        /// The file.
        path: String,
    },
    /// The snapshot was taken on another Firecracker or CPU.
    #[error("snapshot '{tag}' is not restored here: {reason}; \"force\": true restores it all the same")]
    OtherOrigin {
        /// The snapshot.
        tag: String,
        /// What differs.
        reason: String,
    },
    /// There is no such network namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The limits cannot be set.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The snapshots said no.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A pack could not be written or taken.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// Firecracker said no.
    #[error(transparent)]
    Vmm(#[from] VmmError),
    /// Too many BRANCHes at this moment.
    #[error(transparent)]
    Crowded(#[from] Crowded),
    /// As many BRANCHes of this sandbox as there may be.
    #[error(
        "sandbox '{id}' has been branched {branches} times, as often as --max-branches-per-source allows: fork a \
         fresh sandbox from its last snapshot and go on with that one"
    )]
    BranchesUsedUp {
        /// The sandbox.
        id: String,
        /// How often.
        branches: u64,
    },
    /// No BRANCH has that id.
    #[error("no BRANCH in the history has the id '{0}'; GET /v1/branches lists those there are")]
    NoBranch(String),
    /// The history said no.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The BRANCH failed.
    #[error(transparent)]
    Branch(#[from] BranchError),
    /// The guest's console could not be used.
    #[error("the console of sandbox '{id}': {source}")]
    Console {
        /// The sandbox.
        id: String,
        /// What the system said.
        source: io::Error,
    },
}
