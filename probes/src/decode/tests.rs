//! Records there and back, and bytes that are none.

use probes_common::{COMM_LEN, IN_DEVICE_HANDLER, IN_NO_HANDLER, IN_SOFTIRQ};
use proptest::prelude::*;

use super::*;
use crate::comm::Comm;

/// Any bytes, most of them behind the head of a kind that there is: random ones are hardly ever.
pub(crate) fn bytes_of_any_kind() -> impl Strategy<Value = Vec<u8>> {
    (prop::collection::vec(any::<u8>(), 0..320), 0..64_u8, 0..16_u8).prop_map(|(mut bytes, kind, frames)| {
        let (kind_at, frames_at) = (offset_of!(Head, kind), offset_of!(Head, frames));
        if let Some(head) = bytes.get_mut(..size_of::<Head>()) {
            head[kind_at] = kind;
            head[frames_at..frames_at + 2].copy_from_slice(&u16::from(frames).to_ne_bytes());
        }
        bytes
    })
}

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

/// Records of these events, whoever they are of.
pub(crate) fn records_of<E: std::fmt::Debug>(
    events: impl Strategy<Value = E>,
) -> impl Strategy<Value = Record<E>> {
    (any::<(u64, u32, u64, u32, u64, u32)>(), events).prop_map(
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

fn records() -> impl Strategy<Value = Record> {
    records_of(events())
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
        let mark = Decoded::Window(Mark { time_ns, thread, opens, sp: signature });
        let mut bytes = head(kind, 0, times, ids, 0);
        prop_assert_eq!(Decoder::default().decode(&bytes), Err(DecodeError::Short(bytes.len())));
        bytes.extend(signature.to_ne_bytes());
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
