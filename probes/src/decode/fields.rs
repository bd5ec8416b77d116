//! Reads at offsets, each within bounds.

use std::mem::offset_of;

use probes_common::{COMM_LEN, Head, IN_DEVICE_HANDLER, IN_SOFTIRQ, Other, SwitchOut, UserRegisters, Waking};

use super::record::{DecodeError, Peer, UserSide, WakeContext};
use crate::comm::Comm;

/// Bounds-checked reads at the offsets of the shared structures.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl Fields<'_> {
    pub(crate) fn array<const N: usize>(self, at: usize) -> Result<[u8; N], DecodeError> {
        self.0
            .get(at..)
            .and_then(|rest| rest.first_chunk::<N>())
            .copied()
            .ok_or(DecodeError::Short(self.0.len()))
    }

    pub(crate) fn u64(self, at: usize) -> Result<u64, DecodeError> {
        self.array(at).map(u64::from_ne_bytes)
    }

    pub(crate) fn u32(self, at: usize) -> Result<u32, DecodeError> {
        self.array(at).map(u32::from_ne_bytes)
    }

    pub(super) fn comm(self, at: usize) -> Result<Comm, DecodeError> {
        self.array::<COMM_LEN>(at).map(Comm::new)
    }

    pub(crate) fn head(self) -> Result<Head, DecodeError> {
        Ok(Head {
            time_ns: self.u64(offset_of!(Head, time_ns))?,
            sequence: self.u64(offset_of!(Head, sequence))?,
            start_ns: self.u64(offset_of!(Head, start_ns))?,
            tid: self.u32(offset_of!(Head, tid))?,
            tgid: self.u32(offset_of!(Head, tgid))?,
            cpu: self.u32(offset_of!(Head, cpu))?,
            frames: u16::from_ne_bytes(self.array(offset_of!(Head, frames))?),
            kind: u8::from_ne_bytes(self.array(offset_of!(Head, kind))?),
            flags: u8::from_ne_bytes(self.array(offset_of!(Head, flags))?),
        })
    }

    pub(super) fn registers(self, at: usize) -> Result<UserRegisters, DecodeError> {
        let rest = at + offset_of!(UserRegisters, r12_to_r15);
        Ok(UserRegisters {
            ip: self.u64(at + offset_of!(UserRegisters, ip))?,
            sp: self.u64(at + offset_of!(UserRegisters, sp))?,
            bp: self.u64(at + offset_of!(UserRegisters, bp))?,
            bx: self.u64(at + offset_of!(UserRegisters, bx))?,
            r12_to_r15: [self.u64(rest)?, self.u64(rest + 8)?, self.u64(rest + 16)?, self.u64(rest + 24)?],
        })
    }

    /// Of a body that is a [`SwitchOut`].
    pub(super) fn user_side(self) -> Result<Option<UserSide>, DecodeError> {
        let body = size_of::<Head>();
        let ip = self.u64(body + offset_of!(SwitchOut, user_ip))?;
        let stack = self.u64(body + offset_of!(SwitchOut, user_stack))?;
        Ok((ip != 0).then_some(UserSide { ip, stack: (stack != 0).then_some(stack) }))
    }

    pub(super) fn wake_context(self) -> Result<WakeContext, DecodeError> {
        let body = size_of::<Head>();
        let number = self.u32(body + offset_of!(Waking, number))?;
        Ok(match self.u32(body + offset_of!(Waking, context))? {
            IN_DEVICE_HANDLER => WakeContext::Device(number),
            IN_SOFTIRQ => WakeContext::Soft(number),
            _ => WakeContext::NoHandler,
        })
    }

    pub(super) fn peer(self) -> Result<Peer, DecodeError> {
        let body = size_of::<Head>();
        Ok(Peer {
            tid: self.u32(body + offset_of!(Other, tid))?,
            tgid: self.u32(body + offset_of!(Other, tgid))?,
            comm: self.comm(body + offset_of!(Other, comm))?,
        })
    }
}
