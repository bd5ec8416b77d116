//! The kernel's type information, and what it says to the programs.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Deref;
use std::path::Path;

use aya::Endianness;
use memmap2::{Mmap, MmapOptions};

use super::fields::Constants;
use super::{Group, Plan, chain};
use crate::error::AttachError;

/// What there is of it.
#[derive(Default)]
pub struct Types {
    pub btf: Option<aya::Btf>,
    pub constants: Constants,
}

impl Types {
    /// Reads it, where the kernel has any. Without it, a plan that needs none is left without.
    pub fn read(plan: &Plan) -> Result<Self, AttachError> {
        let does_without =
            plan.required().next().is_none() && plan.rung.is_none_or(|rung| !rung.needs_types());
        let bytes = match Bytes::of(&plan.btf) {
            Ok(bytes) => bytes,
            Err(_) if does_without && plan.groups.contains(&Group::Sched) => return Ok(Self::default()),
            Err(source) => return Err(AttachError::NoBtf { source }),
        };
        let constants = Constants::find(&bytes, plan)?;
        let btf = aya::Btf::parse(&bytes, Endianness::default())
            .map_err(|error| AttachError::Load(chain(&error)))?;
        Ok(Self { btf: Some(btf), constants })
    }
}

/// A file's bytes: in the kernel's own pages where it lets them be mapped (`btf_sysfs_vmlinux_mmap`,
/// kernel/bpf/sysfs_btf.c, from Linux 6.16 on), which takes none of this process's memory; else a copy.
enum Bytes {
    Mapped(Mmap),
    Copied(Vec<u8>),
}

impl Bytes {
    fn of(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        // SAFETY: a private mapping. The kernel never changes its type information; whoever names another file must not
        // make it shorter meanwhile.
        if let Ok(mapped) = unsafe { MmapOptions::new().map_copy_read_only(&file) } {
            return Ok(Self::Mapped(mapped));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(Self::Copied(bytes))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(mapped) => mapped,
            Self::Copied(bytes) => bytes,
        }
    }
}
