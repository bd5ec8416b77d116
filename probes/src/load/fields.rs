//! The constants that the programs read, and what the running kernel gives them: where fields lie in its structures,
//! above all.

use std::fs;

use super::programs::{Entry, Group, Hook, Rung};
use super::{Plan, Refused};
use crate::btf::{Btf, BtfError};
use crate::error::AttachError;

/// What a constant holds.
#[derive(Clone, Copy, Debug)]
enum Value {
    /// The offset of a field. A path of fields leads through structures that lie in one another.
    Offset(&'static [(&'static str, &'static str)]),
    /// The number of an enumerator.
    Enumerator(&'static str, &'static str),
    /// The size of a structure.
    Size(&'static str),
}

/// A constant of the kernel side.
#[derive(Clone, Copy, Debug)]
struct Constant {
    name: &'static str,
    value: Value,
    /// The groups whose programs read it; every program may where this is empty.
    groups: &'static [Group],
    /// The module whose type information tells, where the kernel's own does not.
    module: Option<&'static str>,
    /// What it is where the kernel has no such thing.
    otherwise: Option<u32>,
}

const fn always(name: &'static str, path: &'static [(&'static str, &'static str)]) -> Constant {
    Constant { name, value: Value::Offset(path), groups: &[], module: None, otherwise: None }
}

const fn of(
    groups: &'static [Group],
    name: &'static str,
    path: &'static [(&'static str, &'static str)],
) -> Constant {
    Constant { name, value: Value::Offset(path), groups, module: None, otherwise: None }
}

const fn in_module(
    module: &'static str,
    groups: &'static [Group],
    name: &'static str,
    path: &'static [(&'static str, &'static str)],
) -> Constant {
    Constant { name, value: Value::Offset(path), groups, module: Some(module), otherwise: None }
}

/// A flag's bit; 63, which no flag has, where this kernel does not know it.
const fn flag(name: &'static str, enumerator: &'static str) -> Constant {
    let value = Value::Enumerator("req_flag_bits", enumerator);
    Constant { name, value, groups: BLOCK, module: None, otherwise: Some(63) }
}

const BLOCK: &[Group] = &[Group::Block];
const THROTTLE: &[Group] = &[Group::Throttle(Rung::Fentry), Group::Throttle(Rung::Kprobe)];
const REQUESTS: &[Group] = &[Group::Block, Group::Throttle(Rung::Fentry), Group::Throttle(Rung::Kprobe)];
const FILES: &[Group] = &[Group::Block, Group::Journal, Group::Allocate, Group::Dirty];
const PAGES: &[Group] = &[Group::Block, Group::Dirty];
const JOURNAL: &[Group] = &[Group::Journal];
const ALLOCATE: &[Group] = &[Group::Allocate];
const DIRTY: &[Group] = &[Group::Dirty];
const WBT: &[Group] = &[Group::Wbt];
const NAMES: &[Group] = &[Group::Wbt, Group::Dirty];

/// Every one.
const CONSTANTS: &[Constant] = &[
    always("TASK_PID", &[("task_struct", "pid")]),
    always("TASK_TGID", &[("task_struct", "tgid")]),
    always("TASK_FLAGS", &[("task_struct", "flags")]),
    always("TASK_START_TIME", &[("task_struct", "start_time")]),
    always("TASK_COMM", &[("task_struct", "comm")]),
    always("TASK_STATE", &[("task_struct", "__state")]),
    always("TASK_ON_RQ", &[("task_struct", "on_rq")]),
    // Kernels before 6.12 take a task that sleeps off the queue at once.
    Constant {
        name: "TASK_SCHED_DELAYED",
        value: Value::Offset(&[("task_struct", "se"), ("sched_entity", "sched_delayed")]),
        groups: &[],
        module: None,
        otherwise: Some(u32::MAX),
    },
    always("TASK_MM", &[("task_struct", "mm")]),
    always("TASK_FS_BASE", &[("task_struct", "thread"), ("thread_struct", "fsbase")]),
    always("MM_START_STACK", &[("mm_struct", "start_stack")]),
    always("REGS_IP", &[("pt_regs", "ip")]),
    always("REGS_SP", &[("pt_regs", "sp")]),
    always("REGS_BP", &[("pt_regs", "bp")]),
    always("REGS_BX", &[("pt_regs", "bx")]),
    always("REGS_R12", &[("pt_regs", "r12")]),
    always("REGS_R13", &[("pt_regs", "r13")]),
    always("REGS_R14", &[("pt_regs", "r14")]),
    always("REGS_R15", &[("pt_regs", "r15")]),
    always("REGS_DI", &[("pt_regs", "di")]),
    always("REGS_SI", &[("pt_regs", "si")]),
    always("REGS_DX", &[("pt_regs", "dx")]),
    always("REGS_R10", &[("pt_regs", "r10")]),
    always("REGS_R8", &[("pt_regs", "r8")]),
    always("REGS_R9", &[("pt_regs", "r9")]),
    always("REGS_ORIG_AX", &[("pt_regs", "orig_ax")]),
    of(BLOCK, "REQUEST_QUEUE", &[("request", "q")]),
    of(BLOCK, "REQUEST_CMD_FLAGS", &[("request", "cmd_flags")]),
    of(BLOCK, "REQUEST_DATA_LEN", &[("request", "__data_len")]),
    of(BLOCK, "REQUEST_SECTOR", &[("request", "__sector")]),
    of(BLOCK, "REQUEST_START_TIME", &[("request", "start_time_ns")]),
    of(BLOCK, "REQUEST_BIO", &[("request", "bio")]),
    of(BLOCK, "QUEUE_DISK", &[("request_queue", "disk")]),
    of(REQUESTS, "DISK_MAJOR", &[("gendisk", "major")]),
    of(REQUESTS, "DISK_FIRST_MINOR", &[("gendisk", "first_minor")]),
    of(BLOCK, "BIO_VECTOR", &[("bio", "bi_io_vec")]),
    of(BLOCK, "BIO_INDEX", &[("bio", "bi_iter"), ("bvec_iter", "bi_idx")]),
    of(BLOCK, "BIO_SECTOR", &[("bio", "bi_iter"), ("bvec_iter", "bi_sector")]),
    of(BLOCK, "BIO_SIZE", &[("bio", "bi_iter"), ("bvec_iter", "bi_size")]),
    of(BLOCK, "BIO_DEVICE", &[("bio", "bi_bdev")]),
    of(BLOCK, "BLOCK_DEVICE_DISK", &[("block_device", "bd_disk")]),
    of(BLOCK, "VECTOR_PAGE", &[("bio_vec", "bv_page")]),
    flag("REQ_SYNC_BIT", "__REQ_SYNC"),
    flag("REQ_META_BIT", "__REQ_META"),
    flag("REQ_FUA_BIT", "__REQ_FUA"),
    flag("REQ_PREFLUSH_BIT", "__REQ_PREFLUSH"),
    flag("REQ_RAHEAD_BIT", "__REQ_RAHEAD"),
    flag("REQ_BACKGROUND_BIT", "__REQ_BACKGROUND"),
    of(THROTTLE, "BIO_DEVICE_IN_WAIT", &[("bio", "bi_bdev")]),
    of(THROTTLE, "DISK_IN_WAIT", &[("block_device", "bd_disk")]),
    of(FILES, "INODE_INO", &[("inode", "i_ino")]),
    of(FILES, "INODE_MODE", &[("inode", "i_mode")]),
    of(FILES, "INODE_RDEV", &[("inode", "i_rdev")]),
    of(FILES, "INODE_SB", &[("inode", "i_sb")]),
    of(FILES, "SB_DEV", &[("super_block", "s_dev")]),
    of(PAGES, "MAPPING_HOST", &[("address_space", "host")]),
    of(PAGES, "PAGE_COMPOUND_HEAD", &[("page", "compound_head")]),
    of(PAGES, "FOLIO_MAPPING", &[("folio", "mapping")]),
    of(DIRTY, "FOLIO_FLAGS", &[("folio", "flags")]),
    Constant {
        name: "FOLIO_PAGES",
        value: Value::Offset(&[("folio", "_nr_pages")]),
        groups: DIRTY,
        module: None,
        otherwise: Some(u32::MAX),
    },
    Constant {
        name: "FOLIO_LARGE_BIT",
        value: Value::Enumerator("pageflags", "PG_head"),
        groups: DIRTY,
        module: None,
        otherwise: Some(63),
    },
    of(NAMES, "BDI_NAME", &[("backing_dev_info", "dev_name")]),
    of(DIRTY, "WB_BDI", &[("bdi_writeback", "bdi")]),
    of(JOURNAL, "FILE_INODE", &[("file", "f_inode")]),
    of(JOURNAL, "BLOCK_DEVICE_DEV", &[("block_device", "bd_dev")]),
    in_module("jbd2", JOURNAL, "JOURNAL_FS_DEVICE", &[("journal_s", "j_fs_dev")]),
    in_module("jbd2", JOURNAL, "TRANSACTION_TID", &[("transaction_s", "t_tid")]),
    in_module("ext4", ALLOCATE, "ALLOCATION_INODE", &[("ext4_allocation_request", "inode")]),
    in_module("ext4", ALLOCATE, "ALLOCATION_LEN", &[("ext4_allocation_request", "len")]),
    of(WBT, "STAT_MEAN", &[("blk_rq_stat", "mean")]),
    of(WBT, "STAT_MIN", &[("blk_rq_stat", "min")]),
    of(WBT, "STAT_MAX", &[("blk_rq_stat", "max")]),
    of(WBT, "STAT_SAMPLES", &[("blk_rq_stat", "nr_samples")]),
    Constant {
        name: "STAT_BYTES",
        value: Value::Size("blk_rq_stat"),
        groups: WBT,
        module: None,
        otherwise: None,
    },
];

/// Names with which the field of a folio's pages went before `_nr_pages`.
const FOLIO_PAGES_BEFORE: &str = "_folio_nr_pages";

/// What the programs of `plan` need.
#[derive(Debug, Default)]
pub struct Constants {
    /// Values by the constants' names.
    pub values: Vec<(&'static str, u32)>,
    /// Groups that this kernel lacks something for, and what.
    pub refused: Vec<(Group, Refused)>,
    /// How many arguments the tracepoint of switches hands out.
    pub switch_arguments: usize,
}

impl Constants {
    /// From the running kernel's type information. A group that may be missing is refused alone.
    ///
    /// # Errors
    /// [`AttachError`] where a program that must be there lacks something.
    pub fn find(btf_bytes: &[u8], plan: &Plan) -> Result<Self, AttachError> {
        let kernel = Btf::parse(btf_bytes)?;
        check_tracepoints(&kernel, plan)?;
        let switch_arguments = kernel.tracepoint_arguments("sched_switch").unwrap_or(0);
        let mut this = Self { switch_arguments, ..Self::default() };
        for constant in CONSTANTS {
            let asked: Vec<Group> =
                constant.groups.iter().copied().filter(|group| plan.groups.contains(group)).collect();
            if asked.is_empty() && !constant.groups.is_empty() {
                continue;
            }
            match constant.find(&kernel) {
                Ok(value) => this.values.push((constant.name, value)),
                Err(error) if asked.is_empty() || asked.iter().any(|group| plan.requires(*group)) => {
                    return Err(error.into());
                }
                Err(error) => {
                    let refused = Refused { name: constant.name.to_owned(), reason: error.to_string() };
                    this.refused.extend(asked.into_iter().map(|group| (group, refused.clone())));
                }
            }
        }
        Ok(this)
    }

    /// Why a group cannot be had, where it cannot.
    pub fn refusal(&self, group: Group) -> Option<&Refused> {
        self.refused.iter().find(|(refused, _)| *refused == group).map(|(_, reason)| reason)
    }
}

impl Constant {
    fn find(&self, kernel: &Btf<'_>) -> Result<u32, BtfError> {
        let found = match self.value.find(kernel) {
            Err(BtfError::NoField { .. }) if self.name == "FOLIO_PAGES" => {
                kernel.field_offset("folio", FOLIO_PAGES_BEFORE)
            }
            Err(error) => self.in_module(kernel).unwrap_or(Err(error)),
            found => found,
        };
        match (found, self.otherwise) {
            (Err(_), Some(otherwise)) => Ok(otherwise),
            (found, _) => found,
        }
    }

    /// What the module's type information says; `None` where there is none.
    fn in_module(&self, kernel: &Btf<'_>) -> Option<Result<u32, BtfError>> {
        let bytes = fs::read(format!("/sys/kernel/btf/{}", self.module?)).ok()?;
        Some(Btf::parse_module(&bytes, kernel).and_then(|module| self.value.find(&module)))
    }
}

impl Value {
    fn find(self, kernel: &Btf<'_>) -> Result<u32, BtfError> {
        match self {
            Self::Offset(path) => {
                path.iter().map(|(structure, field)| kernel.field_offset(structure, field)).sum()
            }
            Self::Enumerator(list, name) => kernel.enumerator(list, name),
            Self::Size(structure) => kernel.size(structure),
        }
    }
}

/// Refuses a kernel whose tracepoints hand out less than the programs that must be there read.
fn check_tracepoints(kernel: &Btf<'_>, plan: &Plan) -> Result<(), AttachError> {
    for Entry { hook, .. } in plan.required() {
        let Hook::TpBtf { tracepoint, arguments } = *hook else { continue };
        let found = kernel.tracepoint_arguments(tracepoint)?;
        if found < arguments {
            return Err(AttachError::Tracepoint { name: tracepoint, found, expected: arguments });
        }
    }
    Ok(())
}
