//! How far the stack pointer is from the return address, read off the machine code.
//!
//! Hand-written system call wrappers, such as musl's, have no unwind information. What they do to the
//! stack pointer can be followed: push, pop, add and subtract, along every way through the function. Two
//! directions give an answer each. From the function's first instruction, where the distance is 0, to the
//! one in question; and from there to each return, where it is 0 again. Ways that disagree are refused,
//! and so is a disagreement between the two directions.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use gimli::X86_64;
use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};

use super::frame_rule::FrameRule;
use super::registers::Registers;

/// Functions that need more than this are left to those who wrote their unwind information.
const MAX_INSTRUCTIONS: usize = 4096;
/// The longest x86 instruction.
const MAX_INSTRUCTION_BYTES: usize = 15;

const KEPT: usize = Registers::KEPT.len();
/// The decoder's names of [`Registers::KEPT`], in that order.
const KEPT_NAMES: [Register; KEPT] =
    [Register::RBX, Register::RBP, Register::R12, Register::R13, Register::R14, Register::R15];

/// Machine code, and the address of its first byte.
#[derive(Clone, Copy, Debug)]
pub struct Code<'a> {
    /// Address of the first byte.
    pub start: u64,
    /// From there on; it may end early.
    pub bytes: &'a [u8],
}

/// An instruction of which it is known what has been executed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// Not executed yet: where a thread was interrupted.
    Next(u64),
    /// The one that ends here has been executed: a call, or a system call.
    After(u64),
}

/// A value of the stack pointer, relative to what it was where the analysis began.
type Delta = Option<i64>;

/// What the analysis knows at an instruction. `None` stands for "not known", or "two ways disagree".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    /// `rsp` less its value at the start.
    sp: Delta,
    /// `rbp` less the value of `rsp` at the start.
    bp: Delta,
    /// Where each kept register's first value was pushed, relative to `rsp` at the start.
    saved: [Delta; KEPT],
}

impl State {
    const START: Self = Self { sp: Some(0), bp: None, saved: [None; KEPT] };

    /// What holds on both of two ways.
    fn meet(self, other: Self) -> Self {
        let same = |a: Delta, b: Delta| a.filter(|_| a == b);
        let mut saved = self.saved;
        for (mine, theirs) in saved.iter_mut().zip(other.saved) {
            *mine = same(*mine, theirs);
        }
        Self { sp: same(self.sp, other.sp), bp: same(self.bp, other.bp), saved }
    }
}

/// The rule at `at` in a function of which all code is at hand, from its first instruction.
pub fn from_entry(function: Code<'_>, at: At) -> Option<FrameRule> {
    let reached = follow(function, function.start);
    let state = match at {
        At::Next(ip) => reached.get(&ip)?.before,
        At::After(ip) => reached.values().find(|step| step.next_ip == ip && step.falls_through)?.after,
    };
    // At the first instruction the return address is on top of the stack.
    let saved = state.saved.map(|slot| slot.map(|slot| slot - 8));
    match (state.sp, state.bp) {
        (Some(sp), _) => Some(FrameRule { base: X86_64::RSP, cfa_offset: 8 - sp, saved }),
        (None, Some(bp)) => Some(FrameRule { base: X86_64::RBP, cfa_offset: 8 - bp, saved }),
        (None, None) => None,
    }
}

/// The rule at `ip`, from the ways that lead from there to a return. `code` may hold more than the
/// function: ways end at returns only.
pub fn to_return(code: Code<'_>, ip: u64) -> Option<FrameRule> {
    let reached = follow(code, ip);
    let mut rules = reached.values().filter(|step| step.returns).map(|step| {
        let distance = step.before.sp?;
        Some((distance, step.popped))
    });
    let (distance, popped) = rules.next()??;
    if rules.any(|other| other != Some((distance, popped))) {
        return None;
    }
    // The return pops its address from there.
    let cfa = distance + 8;
    let saved = popped.map(|slot| slot.map(|slot| slot - cfa));
    Some(FrameRule { base: X86_64::RSP, cfa_offset: cfa, saved })
}

/// Whether both directions allow for a rule; the first one's answer counts, because it has seen every push.
pub fn agreed(entry: Option<FrameRule>, exit: Option<FrameRule>) -> Option<FrameRule> {
    let place = |rule: FrameRule| (rule.base, rule.cfa_offset);
    match (entry, exit) {
        (Some(entry), Some(exit)) if entry.base == exit.base && place(entry) != place(exit) => None,
        (entry, exit) => entry.or(exit),
    }
}

fn contains(code: Code<'_>, ip: u64) -> bool {
    ip.wrapping_sub(code.start) < code.bytes.len() as u64
}

/// One instruction on the way.
struct Step {
    before: State,
    after: State,
    next_ip: u64,
    falls_through: bool,
    returns: bool,
    /// Per kept register: from where it was popped on the way here.
    popped: [Delta; KEPT],
}

/// Executes every instruction that can be reached from `start`, as far as stack and frame pointer go.
fn follow(code: Code<'_>, start: u64) -> HashMap<u64, Step> {
    let mut steps: HashMap<u64, Step> = HashMap::new();
    let mut waiting = vec![(start, State::START, [None; KEPT])];
    let mut executed = 0;
    while let Some((ip, state, popped)) = waiting.pop() {
        executed += 1;
        // Each visit takes knowledge away, so this ends; the bound is for code that was made to be slow.
        if executed > 4 * MAX_INSTRUCTIONS || steps.len() > MAX_INSTRUCTIONS {
            return HashMap::new();
        }
        let before = match steps.entry(ip) {
            Entry::Occupied(known) => {
                let met = known.get().before.meet(state);
                if met == known.get().before {
                    continue;
                }
                met
            }
            Entry::Vacant(_) => state,
        };
        let Some(instruction) = decode(code, ip) else { continue };
        let after = execute(&instruction, before);
        let popped = pop(&instruction, before, popped);
        let flow = flow(&instruction);
        let returns = instruction.flow_control() == FlowControl::Return;
        let next_ip = instruction.next_ip();
        steps.insert(ip, Step { before, after, next_ip, falls_through: flow.next, returns, popped });
        let targets = [flow.next.then_some(next_ip), flow.target].into_iter().flatten();
        waiting.extend(targets.filter(|to| contains(code, *to)).map(|to| (to, after, popped)));
    }
    steps
}

fn decode(code: Code<'_>, ip: u64) -> Option<Instruction> {
    let at = usize::try_from(ip.checked_sub(code.start)?).ok()?;
    let rest = code.bytes.get(at..)?;
    let bytes = &rest[..rest.len().min(MAX_INSTRUCTION_BYTES)];
    let mut decoder = Decoder::with_ip(64, bytes, ip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    (!instruction.is_invalid()).then_some(instruction)
}

struct Flow {
    next: bool,
    target: Option<u64>,
}

fn flow(instruction: &Instruction) -> Flow {
    let target = || Some(instruction.near_branch_target()).filter(|target| *target != 0);
    match instruction.flow_control() {
        FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall | FlowControl::Interrupt => {
            Flow { next: true, target: None }
        }
        FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend => {
            Flow { next: true, target: target() }
        }
        FlowControl::UnconditionalBranch => Flow { next: false, target: target() },
        _ => Flow { next: false, target: None },
    }
}

/// What `instruction` does to stack and frame pointer.
fn execute(instruction: &Instruction, before: State) -> State {
    let mut after = before;
    match instruction.flow_control() {
        // A call comes back with the stack as it was; a system call does not touch it.
        FlowControl::Call | FlowControl::IndirectCall | FlowControl::Interrupt => return after,
        _ => {}
    }
    let (to, from) = (instruction.op0_register(), instruction.op1_register());
    match (instruction.mnemonic(), to, from) {
        (Mnemonic::Mov, Register::RBP, Register::RSP) => after.bp = before.sp,
        (Mnemonic::Mov, Register::RSP, Register::RBP) => after.sp = before.bp,
        (Mnemonic::Leave, ..) => {
            after.sp = before.bp.map(|bp| bp + 8);
            after.bp = None;
        }
        (Mnemonic::Lea, Register::RSP | Register::RBP, _) => {
            let address = lea(instruction, before);
            if to == Register::RSP { after.sp = address } else { after.bp = address }
        }
        (Mnemonic::Sub | Mnemonic::Add, Register::RSP, _) => {
            let sign = if instruction.mnemonic() == Mnemonic::Sub { -1 } else { 1 };
            after.sp = before.sp.zip(immediate(instruction)).map(|(sp, by)| sp + sign * by);
        }
        _ if instruction.is_stack_instruction() => {
            after.sp = before.sp.map(|sp| sp + i64::from(instruction.stack_pointer_increment()));
            note_saved(instruction, &mut after);
            if writes(instruction, Register::RBP) {
                after.bp = None;
            }
        }
        _ => {
            if writes(instruction, Register::RSP) {
                after.sp = None;
            }
            if writes(instruction, Register::RBP) {
                after.bp = None;
            }
        }
    }
    after
}

fn immediate(instruction: &Instruction) -> Option<i64> {
    let is_immediate = matches!(instruction.op1_kind(), OpKind::Immediate8to64 | OpKind::Immediate32to64);
    is_immediate.then(|| instruction.immediate(1).cast_signed())
}

fn lea(instruction: &Instruction, before: State) -> Delta {
    let base = match (instruction.memory_base(), instruction.memory_index()) {
        (Register::RSP, Register::None) => before.sp?,
        (Register::RBP, Register::None) => before.bp?,
        _ => return None,
    };
    base.checked_add(instruction.memory_displacement64().cast_signed())
}

/// Notes where a kept register was saved first, and that it was restored.
fn note_saved(instruction: &Instruction, after: &mut State) {
    let Some(kept) = kept(instruction.op0_register()) else { return };
    match instruction.mnemonic() {
        Mnemonic::Push if after.saved[kept].is_none() => after.saved[kept] = after.sp,
        Mnemonic::Pop => after.saved[kept] = None,
        _ => {}
    }
}

/// Notes from where a kept register was restored last.
fn pop(instruction: &Instruction, before: State, mut popped: [Delta; KEPT]) -> [Delta; KEPT] {
    if instruction.mnemonic() == Mnemonic::Pop
        && let Some(kept) = kept(instruction.op0_register())
    {
        popped[kept] = before.sp;
    }
    popped
}

fn kept(register: Register) -> Option<usize> {
    KEPT_NAMES.iter().position(|kept| *kept == register)
}

fn writes(instruction: &Instruction, register: Register) -> bool {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    info.used_registers().iter().any(|used| {
        let is_write = !matches!(used.access(), OpAccess::None | OpAccess::Read | OpAccess::CondRead);
        is_write && used.register().full_register() == register
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: u64 = 0x40_1000;

    // push rbx; push rbp; sub rsp,0x18; mov eax,35; syscall; test rax,rax; js +7; add rsp,0x18; pop rbp; pop rbx;
    // ret; lea rsp,[rsp+0x18]; pop rbp; pop rbx; ret
    const WRAPPER: [u8; 34] = [
        0x53, 0x55, 0x48, 0x83, 0xec, 0x18, 0xb8, 0x23, 0, 0, 0, 0x0f, 0x05, 0x48, 0x85, 0xc0, 0x78, 0x07,
        0x48, 0x83, 0xc4, 0x18, 0x5d, 0x5b, 0xc3, 0x48, 0x8d, 0x64, 0x24, 0x18, 0x5d, 0x5b, 0xc3, 0x90,
    ];
    const AFTER_SYSCALL: u64 = START + 13;

    fn code(bytes: &[u8]) -> Code<'_> {
        Code { start: START, bytes }
    }

    fn tail(bytes: &[u8], from: u64) -> Code<'_> {
        Code { start: from, bytes: &bytes[(from - START) as usize..] }
    }

    /// (bytes to the canonical frame address, where rbx was saved, where rbp was)
    fn told(rule: Option<FrameRule>) -> Option<(i64, Option<i64>, Option<i64>)> {
        rule.map(|rule| (rule.cfa_offset, rule.saved[0], rule.saved[1]))
    }

    #[test]
    fn a_wrapper_has_the_same_distance_from_both_ends() {
        let from_its_pushes = from_entry(code(&WRAPPER), At::After(AFTER_SYSCALL));
        assert_eq!(told(from_its_pushes), Some((0x18 + 16 + 8, Some(-16), Some(-24))));
        let from_its_pops = to_return(tail(&WRAPPER, AFTER_SYSCALL), AFTER_SYSCALL);
        assert_eq!(told(from_its_pops), Some((0x18 + 16 + 8, Some(-16), Some(-24))));
        assert_eq!(agreed(from_its_pushes, from_its_pops), from_its_pushes);
    }

    #[test]
    fn every_instruction_has_its_own_distance() {
        let at = |offset| told(from_entry(code(&WRAPPER), At::Next(START + offset))).map(|rule| rule.0);
        assert_eq!([at(0), at(1), at(2), at(6), at(22), at(24)], [8, 16, 24, 48, 24, 8].map(Some));
        assert_eq!(at(3), None, "inside an instruction");
    }

    // test edi,edi; je +1; push rax; syscall; ret: the ways meet with different stacks
    #[test]
    fn ways_that_disagree_are_refused() {
        let bytes = [0x85, 0xff, 0x74, 0x01, 0x50, 0x0f, 0x05, 0xc3];
        assert_eq!(from_entry(code(&bytes), At::After(START + 7)), None);
    }

    // syscall; je +1; pop rdx; ret
    #[test]
    fn returns_that_disagree_are_refused() {
        let bytes = [0x74, 0x01, 0x5a, 0xc3];
        assert_eq!(to_return(code(&bytes), START), None);
    }

    #[test]
    fn an_end_that_contradicts_the_beginning_is_refused() {
        let rule = |cfa_offset| Some(FrameRule { base: X86_64::RSP, cfa_offset, saved: [None; KEPT] });
        assert_eq!(agreed(rule(16), rule(24)), None);
        assert_eq!(agreed(rule(16), None), rule(16));
        assert_eq!(agreed(None, rule(24)), rule(24));
    }

    // push rbp; mov rbp,rsp; and rsp,-64; sub rsp,0x40; syscall; leave; ret
    #[test]
    fn an_aligned_stack_is_found_by_its_frame_pointer() {
        let bytes =
            [0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xe4, 0xc0, 0x48, 0x83, 0xec, 0x40, 0x0f, 0x05, 0xc9, 0xc3];
        let rule = from_entry(code(&bytes), At::After(START + 14)).unwrap();
        assert_eq!((rule.base, rule.cfa_offset, rule.saved[1]), (X86_64::RBP, 16, Some(-16)));
    }

    // jmp to itself; and a loop that pushes for ever
    #[test]
    fn loops_end() {
        assert_eq!(to_return(code(&[0xeb, 0xfe]), START), None);
        assert_eq!(to_return(code(&[0x50, 0xeb, 0xfd]), START), None);
    }

    proptest! {
        #[test]
        fn no_code_makes_it_panic_or_run_on(bytes in prop::collection::vec(any::<u8>(), 0..2000), at in 0u64..2000) {
            let _ = from_entry(code(&bytes), At::After(START + at));
            let _ = from_entry(code(&bytes), At::Next(START + at));
            let _ = to_return(code(&bytes), START + at);
        }
    }
}
