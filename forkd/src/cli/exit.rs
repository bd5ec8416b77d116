//! How a command of `forkd` ends: its exit code, and one line on standard error.

use anyhow::Error;
use forkd::http_client::CallError;
use forkd::pack::PackError;
use forkd::snapshot::store::StoreError;
use forkd::vmm::firecracker::HostError;

use super::config::ConfigError;
use super::output::plain;

/// The codes, for `--help` and the manual page.
pub const EXIT_CODES: &str = "\
Exit codes:
  0      done
  1      failed
  2      wrong usage, or a wrong option in the environment or the configuration file
  3      this host lacks something: a supported Firecracker, or /dev/kvm
  4      no daemon answers
  5      there is no such snapshot or sandbox
  6      refused as things stand: the tag is taken, layers lie on it, it is in use or damaged
  128+N  ended by signal N";

/// Why a command did not do what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Anything that the others are not.
    Failed,
    /// The command line asks for what cannot be asked for.
    Usage,
    /// The host lacks something.
    Host,
    /// No daemon answers.
    Unreachable,
    /// What was named is not there.
    NotFound,
    /// It cannot be done as things stand.
    Refused,
    /// A signal ended it.
    Signal(u8),
}

impl Exit {
    /// The process's exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Host => 3,
            Self::Unreachable => 4,
            Self::NotFound => 5,
            Self::Refused => 6,
            Self::Signal(signal) => 128 + signal,
        }
    }

    /// What `error` stands for: the first of its causes that says.
    pub fn of(error: &Error) -> Self {
        error
            .chain()
            .find_map(|cause| {
                cause
                    .downcast_ref()
                    .map(|failure: &Failure| failure.exit)
                    .or_else(|| cause.downcast_ref().map(|_: &HostError| Self::Host))
                    .or_else(|| cause.downcast_ref().map(|_: &ConfigError| Self::Usage))
                    .or_else(|| cause.downcast_ref().map(Self::of_call))
                    .or_else(|| cause.downcast_ref().map(Self::of_store))
                    .or_else(|| cause.downcast_ref().map(Self::of_pack))
            })
            .unwrap_or(Self::Failed)
    }

    /// What the failure of a call stands for.
    pub fn of_call(error: &CallError) -> Self {
        match error {
            CallError::Connect { .. } => Self::Unreachable,
            CallError::Refused { status, .. } => match status.as_u16() {
                400 | 413 => Self::Usage,
                404 => Self::NotFound,
                409 => Self::Refused,
                _ => Self::Failed,
            },
            _ => Self::Failed,
        }
    }

    fn of_pack(error: &PackError) -> Self {
        match error {
            PackError::Store(error) => Self::of_store(error),
            PackError::Refused { .. } | PackError::Conflict { .. } | PackError::NotDurable(_) => {
                Self::Refused
            }
            PackError::Read { .. } | PackError::Write(_) => Self::Failed,
        }
    }

    fn of_store(error: &StoreError) -> Self {
        match error {
            StoreError::NotFound(_) => Self::NotFound,
            StoreError::Io { .. } => Self::Failed,
            _ => Self::Refused,
        }
    }
}

/// A failure with its exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// How the process ends.
    pub exit: Exit,
    /// What was refused, why, and what to do, in one line.
    pub message: String,
}

impl Failure {
    /// A failure that ends the process with `exit`.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

/// Says in the command line's words that there is no such snapshot; leaves other errors as they are.
pub fn about_snapshot(tag: impl AsRef<str>) -> impl Fn(CallError) -> Error {
    move |error| match Exit::of_call(&error) {
        Exit::NotFound => no_snapshot(tag.as_ref()).into(),
        _ => error.into(),
    }
}

fn no_snapshot(tag: &str) -> Failure {
    Failure::new(
        Exit::NotFound,
        format!("no snapshot has the tag '{tag}': 'forkd images' lists those there are"),
    )
}

/// The same for a sandbox.
pub fn about_sandbox(id: impl AsRef<str>) -> impl Fn(CallError) -> Error {
    move |error| match Exit::of_call(&error) {
        Exit::NotFound => no_sandbox(id.as_ref()).into(),
        _ => error.into(),
    }
}

/// There is no such sandbox.
pub fn no_sandbox(id: &str) -> Failure {
    Failure::new(Exit::NotFound, format!("no sandbox has the id '{id}': 'forkd ls' lists those there are"))
}

/// `error` and its causes in one line, with what to do where no daemon answers.
pub fn line(error: &Error) -> String {
    let mut line = String::new();
    // An error of ours has its cause in its own words already.
    for said in error.chain().map(ToString::to_string) {
        if !line.contains(&said) {
            line.push_str(if line.is_empty() { "" } else { ": " });
            line.push_str(&said);
        }
    }
    if let Some(CallError::Connect { source, .. }) = error.chain().find_map(|cause| cause.downcast_ref()) {
        line.push_str(match source.kind() {
            std::io::ErrorKind::PermissionDenied => ": run this as the user who runs the daemon",
            _ => ": start a daemon with 'forkd serve', or name one with --socket or --url",
        });
    }
    plain(&line.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context;
    use forkd::http_client::{CallError, Endpoint};
    use forkd::snapshot::store::StoreError;
    use hyper::StatusCode;

    use super::{Exit, about_snapshot, line};

    fn refused(status: u16) -> CallError {
        CallError::Refused { status: StatusCode::from_u16(status).unwrap(), message: "no".to_owned() }
    }

    #[test]
    fn an_exit_code_follows_from_the_cause_however_deep_it_lies() {
        let codes = [400, 404, 409, 413, 500, 503, 507].map(|status| {
            let error = Err::<(), _>(refused(status)).context("asked").unwrap_err();
            Exit::of(&error).code()
        });
        assert_eq!(codes, [2, 5, 6, 2, 1, 1, 1]);
        assert_eq!(Exit::of(&StoreError::InUse("/root".into()).into()).code(), 6);
        assert_eq!(Exit::of(&anyhow::anyhow!("other")).code(), 1);
        assert_eq!(Exit::Signal(15).code(), 143);
    }

    #[test]
    fn an_error_is_one_line_that_says_what_to_do() {
        let endpoint = Endpoint::Unix("/run/x".into());
        let source = io::Error::from(io::ErrorKind::NotFound);
        let unreachable = anyhow::Error::from(CallError::Connect { endpoint, source });
        assert_eq!(Exit::of(&unreachable), Exit::Unreachable);
        assert!(
            line(&unreachable)
                .ends_with("start a daemon with 'forkd serve', or name one with --socket or --url")
        );
        assert_eq!(line(&unreachable).matches("entity not found").count(), 1);
        assert_eq!(line(&anyhow::anyhow!("one\n  two")), "one two");
        assert_eq!(line(&anyhow::anyhow!("one").context("two")), "two: one");
        assert!(line(&about_snapshot("x")(refused(404))).contains("'forkd images' lists"));
        assert_eq!(line(&about_snapshot("x")(refused(409))), "no");
    }
}
