//! Bytes from the ring buffer to typed records.

use std::collections::{HashMap, HashSet};
use std::mem::offset_of;
use std::sync::Arc;

use probes_common::{
    CALL_LANE, CALL_LANE_FLAG, COMM_LEN, Head, IN_DEVICE_HANDLER, IN_SOFTIRQ, Kind, MAX_USER_STACK, Other,
    PREEMPTED, SCHED_LANE, STACK_FAILED, STACK_LATE, STACK_TRUNCATED, SwitchOut, TaskRegisters,
    UserRegisters, UserStack, Waking,
};
use thiserror::Error;

use crate::comm::Comm;

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// The record ends before its head, body or frames do.
    #[error("record of {0} bytes is cut short")]
    Short(usize),
    /// A user stack that claims more bytes than any has.
    #[error("user stack of {0} bytes")]
    UserStack(u64),
    /// No such kind.
    #[error("record of unknown kind {0}")]
    Kind(u8),
    /// A field holds a number that stands for nothing.
    #[error("record with {value} as its {field}")]
    Field {
        /// What the field says.
        field: &'static str,
        /// The number.
        value: u32,
    },
}

/// Names one thread for good: ids are used again, an id with a start time is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThreadId {
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// When it was made, in nanoseconds of CLOCK_MONOTONIC.
    pub start_ns: u64,
}

/// One event of one watched thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When, in nanoseconds of CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// The CPU that wrote it.
    pub cpu: u32,
    /// How many records that CPU had tried to write before.
    pub sequence: u64,
    /// The thread it is about.
    pub thread: ThreadId,
    /// That thread's process.
    pub tgid: u32,
    /// What happened.
    pub event: Event,
}

/// What happened to a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It left a CPU.
    SwitchOut {
        /// The scheduler took the CPU away.
        preempted: bool,
        /// The tracepoint's `prev_state`: a mask.
        prev_state: u32,
        /// Where it was in user space; `None` where it never was there.
        user: Option<UserSide>,
        /// Its kernel stack.
        stack: Stack,
        /// Its name.
        comm: Comm,
    },
    /// It got a CPU.
    SwitchIn,
    /// It got a CPU, and tells where it was until then.
    SwitchBack {
        /// Where it was in user space; `None` where it never was there.
        user: Option<UserSide>,
        /// Its kernel stack.
        stack: Stack,
        /// Its name.
        comm: Comm,
    },
    /// It is being woken.
    Waking {
        /// The thread that was current where the wake-up came from.
        waker: Peer,
        /// Whether a handler ran in its place.
        context: WakeContext,
        /// The kernel stack of that context.
        stack: Stack,
    },
    /// It was made, and may run.
    Born {
        /// By this thread.
        maker: Peer,
    },
}

/// The thread on the other side of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Thread id in the initial pid namespace; 0 is a CPU's idle task.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// Its name.
    pub comm: Comm,
}

/// Which handler woke, as the kernel told when it began and ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WakeContext {
    /// None that was seen: the thread did, or an interrupt that only the stack shows.
    NoHandler,
    /// That of the device interrupt with this number in `/proc/interrupts`.
    Device(u32),
    /// That of the soft interrupt with this number (include/linux/interrupt.h).
    Soft(u32),
}

/// Where a thread was in user space as it entered the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UserSide {
    /// The instruction.
    pub ip: u64,
    /// The signature of its stack, by which [`crate::unwind::UserStacks`] knows the frames; `None` where no
    /// stack was recorded.
    pub stack: Option<u64>,
}

/// A user stack, as it was copied the first time that it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserSample<'a> {
    /// When, in nanoseconds of CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// The CPU that wrote it.
    pub cpu: u32,
    /// How many records that CPU had tried to write before.
    pub sequence: u64,
    /// The process that it is of.
    pub tgid: u32,
    /// What [`UserSide::stack`] calls it.
    pub signature: u64,
    /// The registers that belong to it.
    pub registers: UserRegisters,
    /// The stack from `registers.sp` upwards.
    pub stack: &'a [u8],
    /// The lane that `sequence` counts in.
    pub lane: u32,
}

/// What one record turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// Something that happened to a thread.
    Event(Record),
    /// A stack that events name by its signature.
    UserStack(UserSample<'a>),
    /// A look at a running thread.
    Sample(Look),
    /// A window opens or closes.
    Window(Mark),
}

/// A look at a running thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// When, in nanoseconds of CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// The CPU that it ran on.
    pub cpu: u32,
    /// How many records that CPU had tried to write before.
    pub sequence: u64,
    /// The thread.
    pub thread: ThreadId,
    /// Its process.
    pub tgid: u32,
    /// Where it was in user space; `None` where that was not recorded.
    pub user: Option<UserSide>,
    /// Its kernel stack; empty where it was in user space.
    pub stack: Stack,
    /// Its name.
    pub comm: Comm,
}

/// A thread enters or leaves the function that bounds windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// When, in nanoseconds of CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// The thread.
    pub thread: ThreadId,
    /// It enters.
    pub opens: bool,
}

/// A kernel stack as the kernel handed it out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stack {
    /// Return addresses, innermost first; empty where the kernel gave none.
    pub frames: Arc<[u64]>,
    /// As deep as the kernel records: the outermost frames may be missing.
    pub truncated: bool,
    /// The kernel refused, or the hook could not reach it; there is no telling what the stack was.
    pub failed: bool,
}

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
            return Ok(Decoded::Window(Mark { time_ns: head.time_ns, thread, opens }));
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
        Ok(Decoded::Event(Record {
            time_ns: head.time_ns,
            cpu: head.cpu,
            sequence: head.sequence,
            thread: ThreadId { tid: head.tid, start_ns: head.start_ns },
            tgid: head.tgid,
            event,
        }))
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

    fn comm(self, at: usize) -> Result<Comm, DecodeError> {
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

    fn registers(self, at: usize) -> Result<UserRegisters, DecodeError> {
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
    fn user_side(self) -> Result<Option<UserSide>, DecodeError> {
        let body = size_of::<Head>();
        let ip = self.u64(body + offset_of!(SwitchOut, user_ip))?;
        let stack = self.u64(body + offset_of!(SwitchOut, user_stack))?;
        Ok((ip != 0).then_some(UserSide { ip, stack: (stack != 0).then_some(stack) }))
    }

    fn wake_context(self) -> Result<WakeContext, DecodeError> {
        let body = size_of::<Head>();
        let number = self.u32(body + offset_of!(Waking, number))?;
        Ok(match self.u32(body + offset_of!(Waking, context))? {
            IN_DEVICE_HANDLER => WakeContext::Device(number),
            IN_SOFTIRQ => WakeContext::Soft(number),
            _ => WakeContext::NoHandler,
        })
    }

    fn peer(self) -> Result<Peer, DecodeError> {
        let body = size_of::<Head>();
        Ok(Peer {
            tid: self.u32(body + offset_of!(Other, tid))?,
            tgid: self.u32(body + offset_of!(Other, tgid))?,
            comm: self.comm(body + offset_of!(Other, comm))?,
        })
    }
}

/// Any bytes, most of them behind the head of a kind that there is: random ones are hardly ever.
#[cfg(test)]
pub(crate) fn bytes_of_any_kind() -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
    use proptest::prelude::*;

    (prop::collection::vec(any::<u8>(), 0..320), 0..64_u8, 0..16_u8).prop_map(|(mut bytes, kind, frames)| {
        let (kind_at, frames_at) = (offset_of!(Head, kind), offset_of!(Head, frames));
        if let Some(head) = bytes.get_mut(..size_of::<Head>()) {
            head[kind_at] = kind;
            head[frames_at..frames_at + 2].copy_from_slice(&u16::from(frames).to_ne_bytes());
        }
        bytes
    })
}

#[cfg(test)]
mod tests {
    use probes_common::IN_NO_HANDLER;
    use proptest::prelude::*;

    use super::*;

    /// The bytes that the kernel side writes for `record`.
    fn encode(record: &Record) -> Vec<u8> {
        let none: &[u64] = &[];
        let (kind, flags, frames) = match &record.event {
            Event::SwitchOut { preempted, stack, .. } => {
                (Kind::SwitchOut, (u8::from(*preempted) * PREEMPTED) | stack_flags(stack), &*stack.frames)
            }
            Event::SwitchIn => (Kind::SwitchIn, 0, none),
            Event::SwitchBack { stack, .. } => (Kind::SwitchBack, stack_flags(stack), &*stack.frames),
            Event::Waking { stack, .. } => (Kind::Waking, stack_flags(stack), &*stack.frames),
            Event::Born { .. } => (Kind::Born, 0, none),
        };
        let mut bytes = Vec::new();
        for word in [record.time_ns, record.sequence, record.thread.start_ns] {
            bytes.extend(word.to_ne_bytes());
        }
        for word in [record.thread.tid, record.tgid, record.cpu] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend((frames.len() as u16).to_ne_bytes());
        bytes.extend([kind as u8, flags]);
        match &record.event {
            Event::SwitchOut { prev_state, user, comm, .. } => {
                bytes.extend(user.map_or(0, |user| user.ip).to_ne_bytes());
                bytes.extend(user.and_then(|user| user.stack).unwrap_or(0).to_ne_bytes());
                bytes.extend(prev_state.to_ne_bytes());
                bytes.extend([0; 4]);
                bytes.extend(comm.bytes());
            }
            Event::SwitchIn => {}
            Event::SwitchBack { user, comm, .. } => {
                bytes.extend(user.map_or(0, |user| user.ip).to_ne_bytes());
                bytes.extend(user.and_then(|user| user.stack).unwrap_or(0).to_ne_bytes());
                bytes.extend([0; 8]);
                bytes.extend(comm.bytes());
            }
            Event::Waking { waker: peer, .. } | Event::Born { maker: peer } => {
                bytes.extend(peer.tid.to_ne_bytes());
                bytes.extend(peer.tgid.to_ne_bytes());
                bytes.extend(peer.comm.bytes());
            }
        }
        if let Event::Waking { context, .. } = &record.event {
            let (context, number) = match context {
                WakeContext::NoHandler => (IN_NO_HANDLER, 0),
                WakeContext::Device(number) => (IN_DEVICE_HANDLER, *number),
                WakeContext::Soft(number) => (IN_SOFTIRQ, *number),
            };
            bytes.extend([context, number].iter().flat_map(|word| word.to_ne_bytes()));
        }
        bytes.extend(frames.iter().flat_map(|frame| frame.to_ne_bytes()));
        bytes
    }

    fn stack_flags(stack: &Stack) -> u8 {
        (u8::from(stack.truncated) * STACK_TRUNCATED) | (u8::from(stack.failed) * STACK_FAILED)
    }

    fn stacks() -> impl Strategy<Value = Stack> {
        (prop::collection::vec(any::<u64>(), 0..128), any::<bool>(), any::<bool>())
            .prop_map(|(frames, truncated, failed)| Stack { frames: frames.into(), truncated, failed })
    }

    fn peers() -> impl Strategy<Value = Peer> {
        any::<(u32, u32, [u8; COMM_LEN])>().prop_map(|(tid, tgid, comm)| Peer {
            tid,
            tgid,
            comm: Comm::new(comm),
        })
    }

    fn contexts() -> impl Strategy<Value = WakeContext> {
        prop_oneof![
            Just(WakeContext::NoHandler),
            any::<u32>().prop_map(WakeContext::Device),
            any::<u32>().prop_map(WakeContext::Soft),
        ]
    }

    fn events() -> impl Strategy<Value = Event> {
        prop_oneof![
            (any::<(bool, u32, Option<u64>, Option<u64>, [u8; COMM_LEN])>(), stacks()).prop_map(
                |((preempted, prev_state, ip, user_stack, comm), stack)| Event::SwitchOut {
                    preempted,
                    prev_state,
                    user: ip
                        .filter(|ip| *ip != 0)
                        .map(|ip| UserSide { ip, stack: user_stack.filter(|stack| *stack != 0) }),
                    stack,
                    comm: Comm::new(comm),
                }
            ),
            Just(Event::SwitchIn),
            (any::<(Option<u64>, Option<u64>, [u8; COMM_LEN])>(), stacks()).prop_map(
                |((ip, user_stack, comm), stack)| Event::SwitchBack {
                    user: ip
                        .filter(|ip| *ip != 0)
                        .map(|ip| UserSide { ip, stack: user_stack.filter(|stack| *stack != 0) }),
                    stack,
                    comm: Comm::new(comm),
                }
            ),
            (peers(), contexts(), stacks()).prop_map(|(waker, context, stack)| Event::Waking {
                waker,
                context,
                stack
            }),
            peers().prop_map(|maker| Event::Born { maker }),
        ]
    }

    fn records() -> impl Strategy<Value = Record> {
        (any::<(u64, u32, u64, u32, u64, u32)>(), events()).prop_map(
            |((time_ns, cpu, sequence, tid, start_ns, tgid), event)| Record {
                time_ns,
                cpu,
                sequence,
                thread: ThreadId { tid, start_ns },
                tgid,
                event,
            },
        )
    }

    proptest! {
        #[test]
        fn what_the_kernel_side_writes_comes_back(record in records()) {
            let bytes = encode(&record);
            prop_assert_eq!(Decoder::default().decode(&bytes), Ok(Decoded::Event(record)));
        }

        /// Whichever hook it came by: what a recording in a file names is found by these.
        #[test]
        fn stack_and_user_side_are_found_without_decoding_the_rest(record in records()) {
            let bytes = encode(&record);
            let (frames, side) = match &record.event {
                Event::SwitchOut { stack, user, .. } | Event::SwitchBack { stack, user, .. } => {
                    (Some(&stack.frames), *user)
                }
                Event::Waking { stack, .. } => (Some(&stack.frames), None),
                Event::SwitchIn | Event::Born { .. } => (None, None),
            };
            let expected = frames.map(|frames| frames.iter().flat_map(|frame| frame.to_ne_bytes()).collect());
            prop_assert_eq!(kernel_stack(&bytes).map(<[u8]>::to_vec), expected);
            prop_assert_eq!(user_side(&bytes), side.map(|side| (record.tgid, side)));
        }

        #[test]
        fn every_cut_is_refused_and_none_panics(record in records(), cut in 0usize..1200) {
            let bytes = encode(&record);
            if cut < bytes.len() {
                let short = DecodeError::Short(cut);
                prop_assert_eq!(Decoder::default().decode(&bytes[..cut]), Err(short));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in bytes_of_any_kind()) {
            let _ = Decoder::default().decode(&bytes);
            let _ = (user_stack(&bytes), user_side(&bytes), kernel_stack(&bytes), device(&bytes));
            let _ = task_registers(&bytes);
        }

        #[test]
        fn what_is_read_of_a_record_in_passing_is_what_it_decodes_to(record in records()) {
            let bytes = encode(&record);
            let (side, frames, number) = match &record.event {
                Event::SwitchOut { user, stack, .. } | Event::SwitchBack { user, stack, .. } => {
                    (*user, Some(&stack.frames), None)
                }
                Event::Waking { context: WakeContext::Device(number), stack, .. } => {
                    (None, Some(&stack.frames), Some(*number))
                }
                Event::Waking { stack, .. } => (None, Some(&stack.frames), None),
                Event::SwitchIn | Event::Born { .. } => (None, None, None),
            };
            let bytes_of = |frames: &Arc<[u64]>| -> Vec<u8> {
                frames.iter().flat_map(|frame| frame.to_ne_bytes()).collect()
            };
            let words = frames.map(bytes_of);
            prop_assert_eq!(user_side(&bytes), side.map(|side| (record.tgid, side)));
            prop_assert_eq!(kernel_stack(&bytes).map(<[u8]>::to_vec), words);
            prop_assert_eq!(device(&bytes), number);
            prop_assert_eq!(user_stack(&bytes), None);
        }

        #[test]
        fn a_user_stack_comes_back(
            (time_ns, sequence, tgid, cpu) in any::<(u64, u64, u32, u32)>(),
            (signature, words, of_a_call) in any::<(u64, [u64; 8], bool)>(),
            stack in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let flags = if of_a_call { CALL_LANE_FLAG } else { 0 };
            let mut bytes = head(Kind::UserStack, flags, (time_ns, sequence, 5), (9, tgid, cpu), 0);
            bytes.extend(encode_user_stack_body(signature, words, &stack, stack.len() as u64));
            let lane = if of_a_call { CALL_LANE } else { SCHED_LANE };
            let registers = registers(words);
            let sample =
                UserSample { time_ns, cpu, sequence, tgid, signature, registers, stack: &stack, lane };
            prop_assert_eq!(user_stack(&bytes), Some(sample));
            prop_assert_eq!(Decoder::default().decode(&bytes), Ok(Decoded::UserStack(sample)));
            for cut in 0..bytes.len() {
                prop_assert_eq!(Decoder::default().decode(&bytes[..cut]), Err(DecodeError::Short(cut)));
            }
        }

        #[test]
        fn looks_and_marks_come_back(
            (time_ns, sequence, start_ns) in any::<(u64, u64, u64)>(),
            (tid, tgid, cpu, ip, signature) in any::<(u32, u32, u32, u64, u64)>(),
            comm in any::<[u8; COMM_LEN]>(),
            (stack, opens) in (stacks(), any::<bool>()),
        ) {
            let frames = stack.frames.len() as u16;
            let (times, ids) = ((time_ns, sequence, start_ns), (tid, tgid, cpu));
            let mut bytes = head(Kind::Sample, stack_flags(&stack), times, ids, frames);
            bytes.extend([ip, signature, 0].iter().flat_map(|word| word.to_ne_bytes()));
            bytes.extend(comm);
            bytes.extend(stack.frames.iter().flat_map(|frame| frame.to_ne_bytes()));
            let user = UserSide { ip, stack: (signature != 0).then_some(signature) };
            let thread = ThreadId { tid, start_ns };
            let (user, comm) = ((ip != 0).then_some(user), Comm::new(comm));
            let look = Look { time_ns, cpu, sequence, thread, tgid, user, stack, comm };
            prop_assert_eq!(Decoder::default().decode(&bytes), Ok(Decoded::Sample(look)));

            let kind = if opens { Kind::WindowOpen } else { Kind::WindowClose };
            let mark = Decoded::Window(Mark { time_ns, thread, opens });
            let bytes = head(kind, 0, times, ids, 0);
            prop_assert_eq!(Decoder::default().decode(&bytes), Ok(mark));
        }

        #[test]
        fn registers_of_sleepers_come_back_by_thread(
            tasks in prop::collection::hash_map(any::<u32>(), any::<[u64; 8]>(), 0..20),
            rest in prop::collection::vec(any::<u8>(), 0..size_of::<TaskRegisters>()),
        ) {
            let mut bytes = Vec::new();
            for (tid, words) in &tasks {
                bytes.extend([*tid, 7].iter().flat_map(|id| id.to_ne_bytes()));
                bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
            }
            // The reader may end inside a task.
            bytes.extend(rest);
            let expected: HashMap<u32, UserRegisters> =
                tasks.into_iter().map(|(tid, words)| (tid, registers(words))).collect();
            prop_assert_eq!(task_registers(&bytes), expected);
        }
    }

    /// The head of a record: time, sequence and start; thread, process and CPU.
    fn head(kind: Kind, flags: u8, times: (u64, u64, u64), ids: (u32, u32, u32), frames: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend([times.0, times.1, times.2].iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend([ids.0, ids.1, ids.2].iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend(frames.to_ne_bytes());
        bytes.extend([kind as u8, flags]);
        bytes
    }

    const fn registers([ip, sp, bp, bx, r12, r13, r14, r15]: [u64; 8]) -> UserRegisters {
        UserRegisters { ip, sp, bp, bx, r12_to_r15: [r12, r13, r14, r15] }
    }

    fn encode_user_stack(signature: u64, words: [u64; 8], stack: &[u8], claimed: u64) -> Vec<u8> {
        let mut bytes = head(Kind::UserStack, 0, (0, 0, 0), (0, 0, 0), 0);
        bytes.extend(encode_user_stack_body(signature, words, stack, claimed));
        bytes
    }

    fn encode_user_stack_body(signature: u64, words: [u64; 8], stack: &[u8], claimed: u64) -> Vec<u8> {
        let mut bytes = signature.to_ne_bytes().to_vec();
        bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend(claimed.to_ne_bytes());
        bytes.extend(stack);
        bytes
    }

    #[test]
    fn a_user_stack_comes_back_with_its_registers() {
        let bytes = encode_user_stack(77, [1, 2, 3, 4, 5, 6, 7, 8], b"0123456789", 10);
        let Ok(Decoded::UserStack(sample)) = Decoder::default().decode(&bytes) else { panic!("{bytes:?}") };
        let registers = UserRegisters { ip: 1, sp: 2, bp: 3, bx: 4, r12_to_r15: [5, 6, 7, 8] };
        assert_eq!((sample.signature, sample.registers, sample.stack), (77, registers, &b"0123456789"[..]));
    }

    #[test]
    fn a_user_stack_that_claims_more_than_it_has_is_refused() {
        let short = encode_user_stack(77, [0; 8], b"0123456789", 11);
        assert_eq!(Decoder::default().decode(&short), Err(DecodeError::Short(short.len())));
        let long = encode_user_stack(77, [0; 8], b"0123456789", u64::MAX);
        assert_eq!(Decoder::default().decode(&long), Err(DecodeError::UserStack(u64::MAX)));
    }

    #[test]
    fn a_stack_that_the_hook_could_not_reach_is_no_empty_one() {
        let comm = Comm::from_text("late");
        let stack = Stack { frames: Arc::default(), truncated: false, failed: false };
        let event = Event::SwitchOut { preempted: false, prev_state: 1, user: None, stack, comm };
        let thread = ThreadId { tid: 7, start_ns: 1 };
        let mut bytes = encode(&Record { time_ns: 1, cpu: 0, sequence: 0, thread, tgid: 7, event });
        bytes[offset_of!(Head, flags)] |= STACK_LATE;
        let Ok(Decoded::Event(record)) = Decoder::default().decode(&bytes) else { panic!("{bytes:?}") };
        let Event::SwitchOut { stack, .. } = record.event else { panic!("{record:?}") };
        assert!(stack.failed);
    }

    #[test]
    fn equal_stacks_are_kept_once() {
        let mut decoder = Decoder::default();
        let first = decoder.intern(vec![1, 2, 3]);
        let second = decoder.intern(vec![1, 2, 3]);
        assert!(Arc::ptr_eq(&first, &second));
    }
}
