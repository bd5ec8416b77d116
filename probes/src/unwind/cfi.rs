//! One step by the call frame information in `.eh_frame`.
//!
//! Only what the compiler wrote is done: where a rule cannot be evaluated, there is no step, and no guess
//! in its place.

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, Encoding, EndianSlice, EvaluationResult,
    FrameDescriptionEntry, LittleEndian, Location, RegisterRule, UnwindContext, UnwindExpression,
    UnwindSection, Value, X86_64,
};

use super::registers::{Registers, Stack};

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// Operations that one expression may take: compilers write fewer than ten.
const MAX_OPERATIONS: u32 = 256;

/// The sections of one module, at the addresses that they have in its file.
#[derive(Debug, Default)]
pub struct Cfi {
    eh_frame: Vec<u8>,
    eh_frame_hdr: Vec<u8>,
    bases: BaseAddresses,
    /// First address, end, and offset of each entry, where the file has no table of its own.
    index: Vec<(u64, u64, usize)>,
}

/// What the information says of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one a frame, looked at once and never kept")]
pub enum Step {
    /// The frame has a caller, with these registers.
    Caller {
        /// The caller's registers.
        registers: Registers,
        /// The caller was interrupted: its instruction has not been executed yet.
        interrupted: bool,
    },
    /// The frame is the outermost: it says that it has no return address.
    End,
    /// The registers or the stack that the rule needs are not at hand.
    Unreadable,
    /// Nothing is said of this address.
    Uncovered,
}

impl Cfi {
    /// From the bytes and addresses of `.eh_frame` and `.eh_frame_hdr`; the latter may be empty.
    pub fn new(eh_frame: (u64, Vec<u8>), eh_frame_hdr: (u64, Vec<u8>), text_start: u64) -> Self {
        let bases = BaseAddresses::default()
            .set_eh_frame(eh_frame.0)
            .set_eh_frame_hdr(eh_frame_hdr.0)
            .set_text(text_start);
        let mut cfi = Self { eh_frame: eh_frame.1, eh_frame_hdr: eh_frame_hdr.1, bases, index: Vec::new() };
        if !cfi.has_table() {
            cfi.index = cfi.entries();
        }
        cfi
    }

    /// The registers of the caller of the frame that is at `lookup`, an address in the file's own terms.
    pub fn step(&self, lookup: u64, registers: &Registers, stack: Stack<'_>) -> Step {
        let section = self.section();
        let Some(fde) = self.entry(&section, lookup) else { return Step::Uncovered };
        let mut context = UnwindContext::new();
        let Ok(row) = fde.unwind_info_for_address(&section, &self.bases, &mut context, lookup) else {
            return Step::Uncovered;
        };
        // No rule for the return address, as at `_start`: there is none.
        if matches!(row.register(X86_64::RA), None | Some(RegisterRule::Undefined)) {
            return Step::End;
        }
        let rules = Rules { section: &section, encoding: fde.cie().encoding(), registers, stack };
        let caller = rules.cfa(row.cfa()).and_then(|cfa| {
            let ip = rules.register(row.register(X86_64::RA), cfa, None)?;
            let mut caller = Registers::caller(ip, cfa);
            for kept in Registers::KEPT {
                caller.set(kept, rules.register(row.register(kept), cfa, registers.get(kept)));
            }
            // A signal's frame restores every register, the stack pointer among them.
            if let Some(rule) = row.register(X86_64::RSP) {
                caller.set(X86_64::RSP, Some(rules.register(Some(rule), cfa, Some(cfa))?));
            }
            Some(caller)
        });
        let interrupted = fde.is_signal_trampoline();
        caller.map_or(Step::Unreadable, |registers| Step::Caller { registers, interrupted })
    }

    /// Whether anything is said of this address.
    pub fn covers(&self, lookup: u64) -> bool {
        self.entry(&self.section(), lookup).is_some()
    }

    fn section(&self) -> EhFrame<Slice<'_>> {
        let mut section = EhFrame::new(&self.eh_frame, LittleEndian);
        section.set_address_size(8);
        section
    }

    fn has_table(&self) -> bool {
        EhFrameHdr::new(&self.eh_frame_hdr, LittleEndian)
            .parse(&self.bases, 8)
            .is_ok_and(|header| header.table().is_some())
    }

    fn entry<'a>(
        &self,
        section: &EhFrame<Slice<'a>>,
        lookup: u64,
    ) -> Option<FrameDescriptionEntry<Slice<'a>>> {
        if self.index.is_empty() {
            let header = EhFrameHdr::new(&self.eh_frame_hdr, LittleEndian).parse(&self.bases, 8).ok()?;
            let table = header.table()?;
            let pointer = table.lookup(lookup, &self.bases).ok()?;
            let offset = table.pointer_to_offset(pointer).ok()?;
            let fde = section.fde_from_offset(&self.bases, offset, EhFrame::cie_from_offset).ok()?;
            return fde.contains(lookup).then_some(fde);
        }
        let after = self.index.partition_point(|(start, ..)| *start <= lookup);
        let (_, end, offset) = *self.index.get(after.checked_sub(1)?)?;
        let fde = section.fde_from_offset(&self.bases, offset.into(), EhFrame::cie_from_offset);
        fde.ok().filter(|_| lookup < end)
    }

    fn entries(&self) -> Vec<(u64, u64, usize)> {
        let section = self.section();
        let mut entries = section.entries(&self.bases);
        let mut index = Vec::new();
        while let Ok(Some(entry)) = entries.next() {
            if let gimli::CieOrFde::Fde(partial) = entry
                && let Ok(fde) = partial.parse(EhFrame::cie_from_offset)
            {
                index.push((fde.initial_address(), fde.end_address(), fde.offset()));
            }
        }
        index.sort_unstable();
        index
    }
}

/// What rules are evaluated on.
struct Rules<'a> {
    section: &'a EhFrame<Slice<'a>>,
    encoding: Encoding,
    registers: &'a Registers,
    stack: Stack<'a>,
}

impl Rules<'_> {
    fn cfa(&self, rule: &CfaRule<usize>) -> Option<u64> {
        match rule {
            CfaRule::RegisterAndOffset { register, offset } => {
                self.registers.get(*register)?.checked_add_signed(*offset)
            }
            CfaRule::Expression(expression) => self.expression(expression, None),
        }
    }

    /// The caller's value of a register; `own` is this frame's, which it keeps where no rule says otherwise.
    fn register(&self, rule: Option<RegisterRule<usize>>, cfa: u64, own: Option<u64>) -> Option<u64> {
        match rule {
            None | Some(RegisterRule::SameValue) => own,
            Some(RegisterRule::Offset(offset)) => self.stack.word(cfa.checked_add_signed(offset)?),
            Some(RegisterRule::ValOffset(offset)) => cfa.checked_add_signed(offset),
            Some(RegisterRule::Register(register)) => self.registers.get(register),
            Some(RegisterRule::Expression(expression)) => {
                self.stack.word(self.expression(&expression, Some(cfa))?)
            }
            Some(RegisterRule::ValExpression(expression)) => self.expression(&expression, Some(cfa)),
            Some(RegisterRule::Constant(value)) => Some(value),
            Some(_) => None,
        }
    }

    fn expression(&self, expression: &UnwindExpression<usize>, initial: Option<u64>) -> Option<u64> {
        let mut evaluation = expression.get(self.section).ok()?.evaluation(self.encoding);
        evaluation.set_max_iterations(MAX_OPERATIONS);
        if let Some(value) = initial {
            evaluation.set_initial_value(value);
        }
        let mut result = evaluation.evaluate().ok()?;
        loop {
            result = match result {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresMemory { address, size: 8, .. } => {
                    evaluation.resume_with_memory(Value::Generic(self.stack.word(address)?)).ok()?
                }
                EvaluationResult::RequiresRegister { register, .. } => {
                    let value = Value::Generic(self.registers.get(register)?);
                    evaluation.resume_with_register(value).ok()?
                }
                _ => return None,
            };
        }
        match evaluation.as_result().last()?.location {
            Location::Address { address } => Some(address),
            _ => None,
        }
    }
}
