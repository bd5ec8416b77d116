//! The user side of a thread that leaves the CPU: its registers, and a bounded part of its stack.
//!
//! The stack is copied at each switch, because only its content tells it from another; it is handed out
//! only if its signature has not been seen.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_loop, bpf_probe_read_user};
use probes_common::{
    CODE_SPANS, CodeSpan, Control, CpuCounters, Head, Kind, Loss, MAX_TARGETS, MAX_USER_STACK, UserStack,
};

use crate::emit::{count, emit_prefix, has_room_for, head};
use crate::maps::{SEEN, USER_STACK};
use crate::task::{Registers, Task, Thread};

/// A power of two: a signature's lowest bits are its slot.
pub const SEEN_SLOTS: u32 = 1 << 15;

/// A stack is copied page by page, and ends at the first that cannot be read.
const PAGE: usize = 4096;
/// Pages that [`MAX_USER_STACK`] bytes can touch.
const MAX_PAGES: usize = MAX_USER_STACK / PAGE + 1;
/// Bytes that one step of the signature's loop takes.
const BLOCK: usize = 64;
/// Room beyond the stack itself: where a copy could end if the verifier did not know better, zeros up to the end of
/// the last block, and whatever length the mask of one allows. The verifier of Linux 6.1 does not carry a comparison of
/// the stack's length over to the record's, which is a sum, and refuses where the record would end before.
const SLACK: usize = MAX_USER_STACK;
/// An odd number with about as many ones as zeros: 2^64 divided by the golden ratio.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// A [`Kind::UserStack`] record with the most bytes.
#[repr(C)]
pub struct UserStackRecord {
    head: Head,
    body: UserStack,
    stack: [u8; MAX_USER_STACK + SLACK],
    /// See [`forget`].
    forgotten: u64,
}

/// The same value, of which the verifier knows nothing any more: it goes through memory. Without that the
/// verifier goes through the rest of the program once for each way in which the value can have come
/// about, and loading takes a quarter of a second.
#[inline(always)]
fn forget(record: *mut UserStackRecord, value: u64) -> u64 {
    // SAFETY: `record` is this CPU's map entry, and nobody else uses it while the program runs.
    unsafe {
        (&raw mut (*record).forgotten).write_volatile(value);
        (&raw const (*record).forgotten).read_volatile()
    }
}

/// A watched process.
pub struct Watched<'a> {
    pub control: &'a Control,
    /// Its index among the targets.
    pub target: usize,
    /// [`CALL_LANE_FLAG`](probes_common::CALL_LANE_FLAG) where the counters are those of that lane, else 0.
    pub lane: u8,
}

impl Watched<'_> {
    /// Where its code lies.
    #[inline(always)]
    fn code(&self, record: *mut UserStackRecord) -> [CodeSpan; CODE_SPANS] {
        self.control.code[forget(record, self.target as u64) as usize & (MAX_TARGETS - 1)]
    }
}

/// What a record of an event says of the user side.
pub struct UserSide {
    pub ip: u64,
    /// 0 where there is no stack.
    pub signature: u64,
}

impl UserSide {
    pub const NONE: Self = Self { ip: 0, signature: 0 };
}

/// The user side of `task`, which must be current. Hands its stack out where it has not been seen.
#[inline(always)]
pub fn user_side(counters: *mut CpuCounters, task: Task, watched: &Watched<'_>) -> UserSide {
    let registers = task.user_registers();
    let ip = registers.ip();
    if ip == 0 {
        count(counters, Loss::RegistersMissing);
        return UserSide::NONE;
    }
    // SAFETY: no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    let Some(record) = USER_STACK.get_ptr_mut(cpu) else { return UserSide { ip, signature: 0 } };
    let Some(first_stack_base) = task.first_stack_base() else { return UserSide { ip, signature: 0 } };
    let sp = registers.sp();
    let bytes = copy(counters, sp, base(task, first_stack_base, sp), record);
    if bytes == 0 {
        return UserSide { ip, signature: 0 };
    }
    // A frame pointer; anything else in that register is no business of the stack's.
    let bp = registers.bp();
    let frame = if bp.wrapping_sub(sp) < bytes as u64 { bp } else { 0 };
    let seed = mix(mix(mix(mix(bytes as u64, u64::from(task.tgid())), ip), sp), frame);
    let signature = signature(cpu, bytes, seed, watched.code(record));
    hand_out(counters, record, task, registers, bytes, signature, watched.lane);
    UserSide { ip, signature }
}

/// Where the stack that holds `sp` begins, its highest address, if that is within reach of one record.
#[inline(always)]
fn base(task: Task, first: u64, sp: u64) -> Option<u64> {
    let is_near = |base: u64| base.wrapping_sub(sp) <= MAX_USER_STACK as u64;
    if is_near(first) {
        return Some(first);
    }
    let thread_pointer = task.thread_pointer();
    is_near(thread_pointer).then_some(thread_pointer)
}

/// Copies the stack from `sp` up to `base`, and gives the number of bytes that could be read.
#[inline(always)]
fn copy(counters: *mut CpuCounters, sp: u64, base: Option<u64>, record: *mut UserStackRecord) -> usize {
    // SAFETY: `record` is this CPU's map entry, and nobody else uses it while the program runs.
    let to: *mut u8 = unsafe { (&raw mut (*record).stack).cast() };
    let wanted = base.map_or(MAX_USER_STACK, |base| (base - sp) as usize);
    let mut bytes = 0;
    let mut step = PAGE - (sp as usize & (PAGE - 1));
    for _ in 0..MAX_PAGES {
        if bytes >= wanted {
            break;
        }
        let left = wanted - bytes;
        // Forgotten, because the compiler would leave the mask out where it is of no use, and the verifier of Linux 6.1
        // needs it: it does not see that a value and its copy on the stack are one.
        let take = forget(record, (if left < step { left } else { step }) as u64) as usize & (2 * PAGE - 1);
        let at = bytes & (MAX_USER_STACK - 1);
        // SAFETY: `at + take` lies within the record; the verifier checks it.
        let failed = unsafe {
            bpf_probe_read_user(to.add(at).cast(), take as u32, (sp + bytes as u64) as *const c_void)
        };
        if failed != 0 {
            break;
        }
        bytes += take;
        step = PAGE;
    }
    let bytes = forget(record, bytes as u64) as usize & (2 * MAX_USER_STACK - 1);
    match (bytes < wanted, bytes) {
        (true, 0) => count(counters, Loss::UserStackUnread),
        // Where the stack ends is known only if its base is.
        (true, _) if base.is_some() => count(counters, Loss::UserStackPartial),
        _ => {}
    }
    bytes
}

/// What the loop over a stack reads and writes.
struct Mixer {
    cpu: u32,
    code: [CodeSpan; CODE_SPANS],
    hash: u64,
}

/// See [`UserStack`].
#[inline(always)]
fn signature(cpu: u32, bytes: usize, seed: u64, code: [CodeSpan; CODE_SPANS]) -> u64 {
    zero_rest(cpu, bytes);
    let mut mixer = Mixer { cpu, code, hash: seed };
    let blocks = bytes.div_ceil(BLOCK);
    // SAFETY: the callback takes what is passed here, and both outlive the call.
    unsafe {
        bpf_loop(blocks as u32, mix_block as *mut c_void, (&raw mut mixer).cast(), 0);
    }
    mixer.hash | 1
}

/// Bytes of an older stack must not get into the signature of this one. Bytes that make no whole word are
/// of no use.
#[inline(always)]
fn zero_rest(cpu: u32, bytes: usize) {
    let Some(record) = USER_STACK.get_ptr_mut(cpu) else { return };
    let at = bytes & (2 * MAX_USER_STACK - 1) & !7;
    if at > MAX_USER_STACK {
        return;
    }
    for word in 0..BLOCK / 8 {
        // SAFETY: `at` and a block more lie within the record; the verifier checks it.
        unsafe {
            (&raw mut (*record).stack).cast::<u8>().add(at + 8 * word).cast::<u64>().write_volatile(0);
        }
    }
}

/// Mixes one block of the stack in. A callback of `bpf_loop`: 0 goes on.
unsafe extern "C" fn mix_block(index: u64, mixer: *mut Mixer) -> u64 {
    // SAFETY: the caller's own structure.
    let mixer = unsafe { &mut *mixer };
    let Some(record) = USER_STACK.get_ptr(mixer.cpu) else { return 1 };
    let at = (index as usize & (MAX_USER_STACK / BLOCK - 1)) * BLOCK;
    for offset in (0..BLOCK).step_by(8) {
        // SAFETY: the block lies within the record; the verifier checks it.
        let word = unsafe { (&raw const (*record).stack).cast::<u8>().add(at + offset).cast::<u64>().read() };
        if is_in(&mixer.code[0], word) || is_in(&mixer.code[1], word) {
            mixer.hash = mix(mixer.hash, word ^ ((at + offset) as u64) << 48);
        }
    }
    0
}

#[inline(always)]
fn is_in(span: &CodeSpan, word: u64) -> bool {
    word.wrapping_sub(span.start) < span.length
}

#[inline(always)]
fn mix(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(MULTIPLIER);
    mixed ^ (mixed >> 29)
}

/// Writes the stack out where its signature is not the last seen in its slot. Room is asked for first: a
/// stack that does not fit now is written with the next event that has it.
#[inline(always)]
fn hand_out(
    counters: *mut CpuCounters,
    record: *mut UserStackRecord,
    task: Task,
    registers: Registers,
    bytes: usize,
    signature: u64,
    lane: u8,
) {
    // The lowest bit is always set.
    let Some(seen) = SEEN.get_ptr_mut((signature >> 1) as u32 & (SEEN_SLOTS - 1)) else { return };
    // SAFETY: a map entry; another CPU that writes it meanwhile costs a second copy at worst.
    if unsafe { seen.read_volatile() } == signature {
        return;
    }
    let bytes = bytes & (2 * MAX_USER_STACK - 1);
    if bytes > MAX_USER_STACK {
        return;
    }
    let length = size_of::<Head>() + size_of::<UserStack>() + bytes;
    if !has_room_for(length) {
        count(counters, Loss::UserStackNoRoom);
        return;
    }
    let start = Head { flags: lane, ..head(counters, task, Kind::UserStack) };
    // SAFETY: `record` is this CPU's map entry, and nobody else uses it while the program runs.
    unsafe {
        (*record).head = start;
        (*record).body = UserStack { signature, registers: registers.read(), bytes: bytes as u64 };
        if emit_prefix(counters, record, length) {
            seen.write_volatile(signature);
        }
    }
}
