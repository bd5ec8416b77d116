//! The kernel's fields that the programs read, and where the running kernel has them.

use super::Plan;
use super::programs::{Entry, Hook};
use crate::btf;
use crate::error::AttachError;

/// By the names of the constants that hold their offsets. A path of fields leads through structures that lie
/// in one another.
pub const FIELDS: [(&str, &[(&str, &str)]); 22] = [
    ("TASK_PID", &[("task_struct", "pid")]),
    ("TASK_TGID", &[("task_struct", "tgid")]),
    ("TASK_FLAGS", &[("task_struct", "flags")]),
    ("TASK_START_TIME", &[("task_struct", "start_time")]),
    ("TASK_MM", &[("task_struct", "mm")]),
    ("TASK_FS_BASE", &[("task_struct", "thread"), ("thread_struct", "fsbase")]),
    ("MM_START_STACK", &[("mm_struct", "start_stack")]),
    ("REGS_IP", &[("pt_regs", "ip")]),
    ("REGS_SP", &[("pt_regs", "sp")]),
    ("REGS_BP", &[("pt_regs", "bp")]),
    ("REGS_BX", &[("pt_regs", "bx")]),
    ("REGS_R12", &[("pt_regs", "r12")]),
    ("REGS_R13", &[("pt_regs", "r13")]),
    ("REGS_R14", &[("pt_regs", "r14")]),
    ("REGS_R15", &[("pt_regs", "r15")]),
    ("REGS_DI", &[("pt_regs", "di")]),
    ("REGS_SI", &[("pt_regs", "si")]),
    ("REGS_DX", &[("pt_regs", "dx")]),
    ("REGS_R10", &[("pt_regs", "r10")]),
    ("REGS_R8", &[("pt_regs", "r8")]),
    ("REGS_R9", &[("pt_regs", "r9")]),
    ("REGS_ORIG_AX", &[("pt_regs", "orig_ax")]),
];

/// The offset of each of [`FIELDS`]; refuses a kernel whose tracepoints hand out less than the programs of
/// `plan` read.
pub fn offsets(btf_bytes: &[u8], plan: &Plan) -> Result<[u32; FIELDS.len()], AttachError> {
    let kernel = btf::Btf::parse(btf_bytes)?;
    for Entry { hook, .. } in plan.required() {
        let Hook::TpBtf { tracepoint, arguments } = *hook;
        let found = kernel.tracepoint_arguments(tracepoint)?;
        if found < arguments {
            return Err(AttachError::Tracepoint { name: tracepoint, found, expected: arguments });
        }
    }
    let mut offsets = [0; FIELDS.len()];
    for (offset, (_, path)) in offsets.iter_mut().zip(FIELDS) {
        for (structure, field) in path {
            *offset += kernel.field_offset(structure, field)?;
        }
    }
    Ok(offsets)
}
