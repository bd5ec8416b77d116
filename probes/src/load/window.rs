//! Windows that a function bounds: probes at its entry and its return.

use std::num::NonZeroU32;
use std::path::Path;

use aya::Ebpf;
use aya::programs::UProbe;
use aya::programs::uprobe::{UProbeAttachLocation, UProbeScope};

use super::chain;
use crate::error::AttachError;

/// The programs at the entry and at the return.
const PROGRAMS: [&str; 2] = ["window_open", "window_close"];

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
