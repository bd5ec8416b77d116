//! Probes that are attached and never armed, by a `forkd-probe attend` of the bench's own.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use probes::attend::Answer;

use crate::Error;

/// The process that holds them. Dropping it detaches them.
#[derive(Debug)]
pub(super) struct Attached {
    child: Child,
    /// It ends when its input does.
    input: Option<ChildStdin>,
}

impl Attached {
    /// Attaches the probes that a daemon would.
    pub fn start(probe: &Path) -> Result<Self, Error> {
        let mut command = Command::new(probe);
        command.arg("attend").stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(Error::file("run", probe))?;
        let (input, Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("it is piped");
        };
        let attached = Self { child, input };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).map_err(Error::file("read", probe))?;
        match serde_json::from_str(&line) {
            Ok(Answer::Ready) => Ok(attached),
            Ok(Answer::Refused { reason }) => Err(Error::Missing(format!("needs to trace: {reason}"))),
            _ => {
                let reason = format!("said '{}' and not that it is ready", line.trim_end());
                Err(Error::Tool { program: "forkd-probe attend".to_owned(), reason })
            }
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}
