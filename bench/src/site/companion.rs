//! The neighbour's process.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::daemon::end_with_parent;
use crate::Error;
use crate::neighbour::Neighbour;
use crate::work::{Recorded, Work};

/// A neighbour at work. Dropping it ends it.
#[derive(Debug)]
pub struct Companion {
    child: Child,
}

impl Companion {
    /// Starts `neighbour` on a file in `folder`, and waits until its file is whole; nothing for
    /// [`Neighbour::None`].
    ///
    /// Call it on the process's main thread: the kernel ends the neighbour with the thread that started it.
    pub fn start(work: &Work, neighbour: Neighbour, folder: &Path) -> Result<Option<Self>, Error> {
        if neighbour == Neighbour::None {
            return Ok(None);
        }
        let program = env::current_exe().map_err(Error::file("find", Path::new("/proc/self/exe")))?;
        let mut command = Command::new(&program);
        command.args(["neighbour", neighbour.name()]).arg(folder.join("neighbour.bin"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        end_with_parent(&mut command);
        let mut child = command.spawn().map_err(Error::file("run", &program))?;
        let ready = child.stdout.take().map(|output| BufReader::new(output).lines().next().is_some());
        let companion = Self { child };
        work.record(companion.child.id())?;
        match ready {
            Some(true) => Ok(Some(companion)),
            _ => Err(Error::Tool {
                program: "the neighbour".to_owned(),
                reason: format!("it ended before its file in {} was whole", folder.display()),
            }),
        }
    }

    /// Whether it still works: one that ended made the load of a part of a trial only.
    pub fn works(&self) -> bool {
        Recorded::of(self.child.id()).is_some()
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        // It has nothing to put in order, and may be in a write that takes long: no need to ask.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
