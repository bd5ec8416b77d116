//! What can go wrong, and the exit code that says which kind it was.

use std::io;
use std::path::{Path, PathBuf};

use forkd::http_client::CallError;

/// Exit codes, for `--help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    all samples were taken and all files written
  1    a failure on the way; what was measured before it is written
  2    wrong usage
  3    the host lacks something (root, /dev/kvm, firecracker, a tool, space)
  130  interrupted by SIGINT, SIGTERM or SIGHUP; what was measured is written";

/// Why a benchmark stopped: one line that says what, why, and where it helps what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The host lacks something.
    #[error("{0}")]
    Missing(String),
    /// A signal asked for the end.
    #[error("interrupted by {0}")]
    Interrupted(&'static str),
    /// The system refused an operation on a file.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// The operation, as a verb.
        doing: &'static str,
        /// Its object.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A program of the host failed.
    #[error("{program} failed: {reason}")]
    Tool {
        /// The program.
        program: String,
        /// Its last line on standard error, or how it ended.
        reason: String,
    },
    /// The daemon did not start, or is gone.
    #[error("the daemon {what}; the end of its log: {log}")]
    Daemon {
        /// What happened to it.
        what: String,
        /// The last line it logged.
        log: String,
    },
    /// The daemon refused a call or did not answer it.
    #[error("cannot {doing}: {source}")]
    Call {
        /// The operation, as a verb and its object.
        doing: String,
        /// What the daemon said.
        source: CallError,
    },
    /// The guest answered a command with something else than its protocol has.
    #[error("the guest answered '{command}' with '{answer}'")]
    Guest {
        /// The command.
        command: String,
        /// The answer, or what came instead.
        answer: String,
    },
    /// The off-CPU recording could not begin or end.
    #[error("cannot record off-CPU time: {0}")]
    OffCpu(String),
    /// A window was not accounted for.
    #[error("a window was not accounted for: {0}")]
    NoAccount(String),
    /// Verdicts of the battery that were not the right ones.
    #[error("{0} of the battery's verdicts were not the right ones")]
    Verdicts(u32),
    /// A file to be written could not be rendered.
    #[error("cannot render {file}: {reason}")]
    Render {
        /// The file.
        file: String,
        /// What the renderer said.
        reason: String,
    },
}

impl Error {
    /// The process exit code for this error; see [`EXIT_CODES`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Missing(_) => 3,
            Self::Interrupted(_) => 130,
            _ => 1,
        }
    }

    /// For `map_err` on an operation on `path`.
    pub fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { doing, path: path.to_owned(), source }
    }
}
