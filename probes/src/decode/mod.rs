//! Bytes from the ring buffer to typed records.

mod fields;
mod record;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::mem::offset_of;
use std::sync::Arc;

use probes_common::{
    Bound, CALL_LANE, CALL_LANE_FLAG, Head, Kind, MAX_USER_STACK, PREEMPTED, SCHED_LANE, STACK_FAILED,
    STACK_LATE, STACK_TRUNCATED, SwitchOut, TaskRegisters, UserRegisters, UserStack, Waking,
};

pub(crate) use fields::Fields;
pub use record::{
    DecodeError, Decoded, Event, Look, Mark, Peer, Record, Stack, ThreadId, UserSample, UserSide, WakeContext,
};
#[cfg(test)]
pub(crate) use tests::{bytes_of_any_kind, records_of};

/// Turns bytes into records, and keeps each distinct stack once.
#[derive(Debug, Default)]
pub struct Decoder {
    stacks: HashSet<Arc<[u64]>>,
}

impl Decoder {
    /// Decodes one record.
    pub fn decode<'a>(&mut self, bytes: &'a [u8]) -> Result<Decoded<'a>, DecodeError> {
        let fields = Fields(bytes);
        let head = fields.head()?;
        if head.kind == Kind::UserStack as u8 {
            return user_sample(bytes, &head).map(Decoded::UserStack);
        }
        if head.kind == Kind::Sample as u8 {
            return self.look(fields, &head).map(Decoded::Sample);
        }
        if head.kind == Kind::WindowOpen as u8 || head.kind == Kind::WindowClose as u8 {
            let thread = ThreadId { tid: head.tid, start_ns: head.start_ns };
            let opens = head.kind == Kind::WindowOpen as u8;
            let sp = fields.u64(size_of::<Head>() + offset_of!(Bound, sp))?;
            return Ok(Decoded::Window(Mark { time_ns: head.time_ns, thread, opens, sp }));
        }
        let event = match head.kind {
            kind if kind == Kind::SwitchOut as u8 => self.switch_out(fields, &head)?,
            kind if kind == Kind::SwitchIn as u8 => Event::SwitchIn,
            kind if kind == Kind::SwitchBack as u8 => self.switch_back(fields, &head)?,
            kind if kind == Kind::Waking as u8 => {
                let (waker, context) = (fields.peer()?, fields.wake_context()?);
                Event::Waking { waker, context, stack: self.stack(fields, &head, size_of::<Waking>())? }
            }
            kind if kind == Kind::Born as u8 => Event::Born { maker: fields.peer()? },
            unknown => return Err(DecodeError::Kind(unknown)),
        };
        Ok(Decoded::Event(Record::new(&head, event)))
    }

    fn look(&mut self, fields: Fields<'_>, head: &Head) -> Result<Look, DecodeError> {
        let body = size_of::<Head>();
        Ok(Look {
            time_ns: head.time_ns,
            cpu: head.cpu,
            sequence: head.sequence,
            thread: ThreadId { tid: head.tid, start_ns: head.start_ns },
            tgid: head.tgid,
            user: fields.user_side()?,
            stack: self.stack(fields, head, size_of::<SwitchOut>())?,
            comm: fields.comm(body + offset_of!(SwitchOut, comm))?,
        })
    }

    fn switch_back(&mut self, fields: Fields<'_>, head: &Head) -> Result<Event, DecodeError> {
        Ok(Event::SwitchBack {
            user: fields.user_side()?,
            stack: self.stack(fields, head, size_of::<SwitchOut>())?,
            comm: fields.comm(size_of::<Head>() + offset_of!(SwitchOut, comm))?,
        })
    }

    fn switch_out(&mut self, fields: Fields<'_>, head: &Head) -> Result<Event, DecodeError> {
        let body = size_of::<Head>();
        Ok(Event::SwitchOut {
            preempted: head.flags & PREEMPTED != 0,
            prev_state: fields.u32(body + offset_of!(SwitchOut, prev_state))?,
            user: fields.user_side()?,
            stack: self.stack(fields, head, size_of::<SwitchOut>())?,
            comm: fields.comm(body + offset_of!(SwitchOut, comm))?,
        })
    }

    fn stack(&mut self, fields: Fields<'_>, head: &Head, body_len: usize) -> Result<Stack, DecodeError> {
        let start = size_of::<Head>() + body_len;
        let frames: Vec<u64> = (0..usize::from(head.frames))
            .map(|index| fields.u64(start + 8 * index))
            .collect::<Result<_, _>>()?;
        Ok(Stack {
            frames: self.intern(frames),
            truncated: head.flags & STACK_TRUNCATED != 0,
            failed: head.flags & (STACK_FAILED | STACK_LATE) != 0,
        })
    }

    fn intern(&mut self, frames: Vec<u64>) -> Arc<[u64]> {
        if let Some(known) = self.stacks.get(frames.as_slice()) {
            return Arc::clone(known);
        }
        let shared: Arc<[u64]> = frames.into();
        self.stacks.insert(Arc::clone(&shared));
        shared
    }
}

/// The user stack that these bytes are; `None` where they are another record, or none.
pub fn user_stack(bytes: &[u8]) -> Option<UserSample<'_>> {
    let head = Fields(bytes).head().ok().filter(|head| head.kind == Kind::UserStack as u8)?;
    user_sample(bytes, &head).ok()
}

/// The kernel stack of a record, innermost frame first, eight bytes a frame; `None` where it has none.
pub fn kernel_stack(bytes: &[u8]) -> Option<&[u8]> {
    let head = Fields(bytes).head().ok()?;
    let body = match head.kind {
        kind if is_switch_with_stack(kind) => size_of::<SwitchOut>(),
        kind if kind == Kind::Waking as u8 => size_of::<Waking>(),
        _ => return None,
    };
    bytes.get(size_of::<Head>() + body..)?.get(..8 * usize::from(head.frames))
}

/// The device interrupt in whose handler a record's wake-up was made.
pub fn device(bytes: &[u8]) -> Option<u32> {
    let fields = Fields(bytes);
    fields.head().ok().filter(|head| head.kind == Kind::Waking as u8)?;
    match fields.wake_context().ok()? {
        WakeContext::Device(number) => Some(number),
        WakeContext::NoHandler | WakeContext::Soft(_) => None,
    }
}

/// The process that a record of a switch is about, and where the thread was in user space.
pub fn user_side(bytes: &[u8]) -> Option<(u32, UserSide)> {
    let fields = Fields(bytes);
    let head = fields.head().ok().filter(|head| is_switch_with_stack(head.kind))?;
    let ip = fields.u64(size_of::<Head>() + offset_of!(SwitchOut, user_ip)).ok().filter(|ip| *ip != 0)?;
    let stack = fields.u64(size_of::<Head>() + offset_of!(SwitchOut, user_stack)).ok()?;
    Some((head.tgid, UserSide { ip, stack: (stack != 0).then_some(stack) }))
}

/// Whether a record of this kind tells where a thread was off the CPU.
const fn is_switch_with_stack(kind: u8) -> bool {
    kind == Kind::SwitchOut as u8 || kind == Kind::SwitchBack as u8
}

fn user_sample<'a>(bytes: &'a [u8], head: &Head) -> Result<UserSample<'a>, DecodeError> {
    let (fields, body) = (Fields(bytes), size_of::<Head>());
    let claimed = fields.u64(body + offset_of!(UserStack, bytes))?;
    let length = usize::try_from(claimed).ok().filter(|length| *length <= MAX_USER_STACK);
    let length = length.ok_or(DecodeError::UserStack(claimed))?;
    let stack = bytes.get(body + size_of::<UserStack>()..).and_then(|rest| rest.get(..length));
    Ok(UserSample {
        time_ns: head.time_ns,
        cpu: head.cpu,
        sequence: head.sequence,
        tgid: head.tgid,
        signature: fields.u64(body + offset_of!(UserStack, signature))?,
        registers: fields.registers(body + offset_of!(UserStack, registers))?,
        stack: stack.ok_or(DecodeError::Short(bytes.len()))?,
        lane: if head.flags & CALL_LANE_FLAG == 0 { SCHED_LANE } else { CALL_LANE },
    })
}

/// The registers of sleeping threads, by thread id, as the iterator over tasks writes them.
pub fn task_registers(bytes: &[u8]) -> HashMap<u32, UserRegisters> {
    let (whole, _) = bytes.as_chunks::<{ size_of::<TaskRegisters>() }>();
    let task = |bytes: &[u8; size_of::<TaskRegisters>()]| {
        let fields = Fields(bytes);
        let tid = fields.u32(offset_of!(TaskRegisters, tid)).ok()?;
        Some((tid, fields.registers(offset_of!(TaskRegisters, registers)).ok()?))
    };
    whole.iter().filter_map(task).collect()
}
