//! Windows that a function bounds: probes at its entry and its return.

use std::num::NonZeroU32;
use std::path::Path;

use aya::Ebpf;
use aya::programs::UProbe;
use aya::programs::uprobe::{UProbeAttachLocation, UProbeScope};

use super::chain;
use crate::error::AttachError;

/// The programs at the return and at the entry, in the order in which they are attached: the kernel tells the return of
/// a call only where somebody wanted to know as it was entered (`prepare_uretprobe` of kernel/events/uprobes.c), so that
/// an entry that is told before would wait for a return that never comes.
const PROGRAMS: [&str; 2] = ["window_close", "window_open"];

/// Puts the programs at `offset` of `file`, for calls by the process `pid`.
pub fn attach(ebpf: &mut Ebpf, pid: u32, file: &Path, offset: u64) -> Result<(), AttachError> {
    let pid = NonZeroU32::new(pid).ok_or(AttachError::NoSuchProcess(pid))?;
    for name in PROGRAMS {
        let program: &mut UProbe = ebpf
            .program_mut(name)
            .ok_or(AttachError::Missing(name))?
            .try_into()
            .map_err(|_| AttachError::Missing(name))?;
        let refused = |error| AttachError::Program { program: name, reason: chain(&error) };
        program.load().map_err(refused)?;
        let place = UProbeAttachLocation::AbsoluteOffset(offset);
        program.attach(place, file, UProbeScope::OneProcess(pid)).map_err(refused)?;
    }
    Ok(())
}
