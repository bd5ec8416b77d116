//! Which ways of attaching a BPF program this host has, found by trying each with a program of two
//! instructions. Everything that is loaded or attached is gone when the attempt ends.

use std::ffi::CString;
use std::fmt;
use std::fs;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::btf::Btf;
use crate::error::KERNEL_BTF;

/// A kernel function that every kernel with a file system has, for kprobe and fentry.
const FUNCTION: &str = "vfs_fsync_range";
/// A tracepoint that every kernel has.
const TRACEPOINT: &str = "sched_process_exit";

/// A way of attaching a BPF program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachKind {
    /// A tracepoint whose arguments have types (`tp_btf`).
    TpBtf,
    /// A tracepoint whose arguments are bare words.
    RawTracepoint,
    /// A classic tracepoint, by its number in tracefs.
    Tracepoint,
    /// The entry of a kernel function, through its type (`fentry`).
    Fentry,
    /// Any instruction of the kernel, through a breakpoint.
    Kprobe,
    /// Any instruction of a program, through a breakpoint.
    Uprobe,
    /// A sampling clock.
    PerfEvent,
}

impl AttachKind {
    /// Every kind once.
    pub const ALL: [Self; 7] = [
        Self::TpBtf,
        Self::RawTracepoint,
        Self::Tracepoint,
        Self::Fentry,
        Self::Kprobe,
        Self::Uprobe,
        Self::PerfEvent,
    ];

    /// Its name, as libbpf's section names have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TpBtf => "tp_btf",
            Self::RawTracepoint => "raw_tracepoint",
            Self::Tracepoint => "tracepoint",
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Uprobe => "uprobe",
            Self::PerfEvent => "perf_event",
        }
    }

    /// Loads and attaches a program in this way, and takes it away again.
    pub fn try_on_this_host(self) -> Result<(), Refusal> {
        match self {
            Self::TpBtf => {
                let id = type_id(|btf| btf.tracepoint_id(TRACEPOINT))?;
                open_raw(&load(TRACING, TRACE_RAW_TP, id)?, None)
            }
            Self::RawTracepoint => open_raw(&load(RAW_TRACEPOINT, 0, 0)?, Some(TRACEPOINT)),
            Self::Tracepoint => {
                let program = load(TRACEPOINT_PROGRAM, 0, 0)?;
                let attr = PerfEventAttr { kind: 2, config: tracepoint_number()?, ..PerfEventAttr::new() };
                attach_to_event(&program, &attr)
            }
            Self::Fentry => {
                let id = type_id(|btf| btf.function_id(FUNCTION))?;
                open_raw(&load(TRACING, TRACE_FENTRY, id)?, None)
            }
            Self::Kprobe => probe("kprobe", FUNCTION, 0),
            Self::Uprobe => probe("uprobe", "/proc/self/exe", own_offset()?),
            Self::PerfEvent => {
                let program = load(PERF_EVENT, 0, 0)?;
                let attr = PerfEventAttr { kind: 1, sample_period: 1_000_000_000, ..PerfEventAttr::new() };
                attach_to_event(&program, &attr)
            }
        }
    }
}

impl fmt::Display for AttachKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a program cannot be attached in this way.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct Refusal {
    /// What was tried.
    pub step: &'static str,
    /// What the system said.
    pub source: io::Error,
}

fn at(step: &'static str) -> impl Fn(io::Error) -> Refusal {
    move |source| Refusal { step, source }
}

// include/uapi/linux/bpf.h
const PROG_LOAD: libc::c_long = 5;
const RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const KPROBE: u32 = 2;
const TRACEPOINT_PROGRAM: u32 = 5;
const PERF_EVENT: u32 = 7;
const RAW_TRACEPOINT: u32 = 17;
const TRACING: u32 = 26;
const TRACE_RAW_TP: u32 = 23;
const TRACE_FENTRY: u32 = 24;
// include/uapi/linux/perf_event.h: _IOW('$', 8, __u32)
const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;

/// `r0 = 0; exit`
const PROGRAM: [u64; 2] = [0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];

/// The part of `union bpf_attr` that BPF_PROG_LOAD reads, up to `attach_btf_id`.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    kind: u32,
    instructions: u32,
    program: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
    btf: u32,
    function_info_size: u32,
    function_info: u64,
    function_infos: u32,
    line_info_size: u32,
    line_info: u64,
    line_infos: u32,
    attach_btf_id: u32,
}

/// The part of `union bpf_attr` that BPF_RAW_TRACEPOINT_OPEN reads.
#[repr(C)]
struct RawTracepointOpen {
    name: u64,
    program: u32,
    padding: u32,
}

/// `struct perf_event_attr` as its second version has it (PERF_ATTR_SIZE_VER1).
#[repr(C)]
struct PerfEventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    config1: u64,
    config2: u64,
}

impl PerfEventAttr {
    const fn new() -> Self {
        Self {
            kind: 0,
            size: size_of::<Self>() as u32,
            config: 0,
            sample_period: 0,
            sample_type: 0,
            read_format: 0,
            flags: 0,
            wakeup_events: 0,
            breakpoint_type: 0,
            config1: 0,
            config2: 0,
        }
    }
}

fn load(kind: u32, expected_attach_type: u32, attach_btf_id: u32) -> Result<OwnedFd, Refusal> {
    let attr = ProgLoad {
        kind,
        instructions: PROGRAM.len() as u32,
        program: PROGRAM.as_ptr() as u64,
        licence: c"GPL".as_ptr() as u64,
        expected_attach_type,
        attach_btf_id,
        ..ProgLoad::default()
    };
    // SAFETY: the pointers in `attr` are to constants, and the kernel only reads them.
    unsafe { bpf(PROG_LOAD, &attr) }.map_err(at("load"))
}

/// Attaches a program to a tracepoint by name, or to what it was loaded for.
fn open_raw(program: &OwnedFd, tracepoint: Option<&str>) -> Result<(), Refusal> {
    let name = tracepoint.map(c_string);
    let name = name.as_ref().map_or(0, |name| name.as_ptr() as u64);
    let attr = RawTracepointOpen { name, program: program.as_raw_fd().cast_unsigned(), padding: 0 };
    // SAFETY: `name` is null or a string that lives until after the call, and the kernel only reads it.
    unsafe { bpf(RAW_TRACEPOINT_OPEN, &attr) }.map(drop).map_err(at("attach"))
}

/// `bpf(2)`, for commands that answer with a file descriptor.
///
/// # Safety
/// Every pointer in `attr` must be good for what the command does with it.
unsafe fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is valid for its size; the rest is the caller's promise.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    owned(fd)
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(fd) {
        // SAFETY: the kernel has just given this descriptor to us and to nobody else.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Attaches a program to an event of a processor, or of this thread where the event is a clock.
fn attach_to_event(program: &OwnedFd, attr: &PerfEventAttr) -> Result<(), Refusal> {
    const CLOSE_ON_EXEC: libc::c_ulong = 8;
    let (pid, cpu) = if attr.kind == 1 { (0, -1) } else { (-1, 0) };
    // SAFETY: `attr` is valid for the size that it names, and what `config1` points to lives in the caller.
    let event = unsafe {
        libc::syscall(libc::SYS_perf_event_open, std::ptr::from_ref(attr), pid, cpu, -1, CLOSE_ON_EXEC)
    };
    let event = owned(event).map_err(at("open the event"))?;
    // SAFETY: both descriptors are open, and the call takes an integer.
    match unsafe { libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_SET_BPF, program.as_raw_fd()) } {
        0 => Ok(()),
        _ => Err(at("attach")(io::Error::last_os_error())),
    }
}

fn probe(unit: &'static str, place: &str, offset: u64) -> Result<(), Refusal> {
    let program = load(KPROBE, 0, 0)?;
    let number = fs::read_to_string(format!("/sys/bus/event_source/devices/{unit}/type"));
    let kind = number.map_err(at("look for it in the kernel"))?.trim().parse();
    let kind = kind.map_err(|error| at("look for it in the kernel")(io::Error::other(error)))?;
    let place = c_string(place);
    let attr =
        PerfEventAttr { kind, config1: place.as_ptr() as u64, config2: offset, ..PerfEventAttr::new() };
    attach_to_event(&program, &attr)
}

fn type_id(find: impl Fn(&Btf<'_>) -> Option<u32>) -> Result<u32, Refusal> {
    let look_up = at("look it up in the kernel's types");
    let bytes = fs::read(KERNEL_BTF).map_err(&look_up)?;
    let btf = Btf::parse(&bytes).map_err(|error| look_up(io::Error::other(error)))?;
    find(&btf).ok_or_else(|| look_up(io::ErrorKind::NotFound.into()))
}

fn tracepoint_number() -> Result<u64, Refusal> {
    let look_up = at("look it up in tracefs");
    let read = |mount: &str| fs::read_to_string(format!("{mount}/events/sched/{TRACEPOINT}/id"));
    let number =
        read("/sys/kernel/tracing").or_else(|_| read("/sys/kernel/debug/tracing")).map_err(&look_up)?;
    number.trim().parse().map_err(|error| look_up(io::Error::other(error)))
}

/// Where in the file of this program a function begins that nobody calls.
fn own_offset() -> Result<u64, Refusal> {
    let look_up = at("find an instruction of this program");
    let maps = fs::read_to_string("/proc/self/maps").map_err(&look_up)?;
    let offset = file_offset(&maps, never_called as *const () as u64);
    offset.ok_or_else(|| look_up(io::ErrorKind::NotFound.into()))
}

#[inline(never)]
extern "C" fn never_called() {
    std::hint::black_box(());
}

/// The offset in its file of what is mapped at `address` (proc_pid_maps(5)).
fn file_offset(maps: &str, address: u64) -> Option<u64> {
    maps.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        let offset = u64::from_str_radix(fields.nth(1)?, 16).ok()?;
        (start..end).contains(&address).then(|| address - start + offset)
    })
}

fn c_string(text: &str) -> CString {
    CString::new(text).expect("names without a zero byte, all of them written in this file")
}

#[cfg(test)]
mod tests {
    use super::{AttachKind, file_offset};

    #[test]
    fn an_address_is_found_in_the_mapping_that_holds_it() {
        let maps = "\
55d0c0a00000-55d0c0a10000 r--p 00000000 fe:00 1234 /usr/bin/forkd
55d0c0a10000-55d0c0b00000 r-xp 00010000 fe:00 1234 /usr/bin/forkd
7ffe00000000-7ffe00021000 rw-p 00000000 00:00 0    [stack]
";
        assert_eq!(file_offset(maps, 0x55d0_c0a1_0123), Some(0x10123));
        assert_eq!(file_offset(maps, 0x7ffe_0000_0010), Some(0x10));
        assert_eq!(file_offset(maps, 0x1000), None);
        assert_eq!(file_offset("no map", 0), None);
    }

    #[test]
    fn every_kind_is_tried_without_a_crash_and_a_refusal_says_at_which_step() {
        for kind in AttachKind::ALL {
            if let Err(refusal) = kind.try_on_this_host() {
                let text = refusal.to_string();
                assert!(text.contains(refusal.step) && text.contains(": "), "{kind}: {text}");
            }
        }
    }
}
