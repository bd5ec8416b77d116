//! What a Firecracker is confined to from before its first instruction.

use std::io;
use std::sync::Arc;

use tokio::process::Command;

use super::cgroup::Cgroup;
use super::netns::Netns;

/// Where one Firecracker runs and what it may use; the default is what the daemon has itself.
#[derive(Clone, Debug, Default)]
pub struct Confinement {
    /// The network namespace that it is started in.
    pub netns: Option<Arc<Netns>>,
    /// The control group that it is started in; deleted when the process has ended.
    pub cgroup: Option<Arc<Cgroup>>,
}

impl Confinement {
    /// Sees to it that the child which `command` starts is confined before it executes the program.
    pub fn apply(&self, command: &mut Command) {
        if self.netns.is_none() && self.cgroup.is_none() {
            return;
        }
        let Self { netns, cgroup } = self.clone();
        let enter = move || -> io::Result<()> {
            if let Some(cgroup) = &cgroup {
                cgroup.enter()?;
            }
            netns.as_ref().map_or(Ok(()), |netns| netns.enter())
        };
        // SAFETY: between fork and exec the closure only makes system calls, write(2) and setns(2), on files that
        // are open; it neither allocates nor takes a lock, also where one of them fails.
        unsafe { command.pre_exec(enter) };
    }

    /// Why the process ended, where that is the doing of its limits.
    pub fn cause_of_death(&self) -> Option<String> {
        let cgroup = self.cgroup.as_ref()?;
        let limit_mib = cgroup.limits().memory_mib?;
        (cgroup.oom_kills() > 0).then(|| {
            format!("killed by the kernel: it needed more memory than its memory_limit_mib, {limit_mib} MiB")
        })
    }
}
