//! The parsers of this crate, each on seeds that lead far into it and on what becomes of them when they are damaged:
//! a few thousand times as a unit test, and as long as one likes as a target in `fuzz/`.

use std::mem::offset_of;

use probes_common::{
    Allocation, Bio, CallEnter, CallExit, Commit, DirtyPause, Head, Kind, Other, Request, SwitchOut, Sync,
    ThrottleExit, UserStack, Waking, WbtLatency, WbtStat, WbtStep, WbtTimer,
};
use testkit::mutate::Target;

use crate::aggregate::Filter;
use crate::images::{self, Content, Images, PerfMap};
use crate::recfile::{self, RecordedCalls};
use crate::unwind::{At, Module, Registers, Stack};
use crate::{
    attend, btf, call, decode, device, explain, futex, interrupt, io, load, offcpu, oncpu, proc, symbolize,
    syscalls, unwind, wbt,
};

/// Every one.
pub const TARGETS: &[Target] = &[
    Target { name: "record", body: record, seeds: records },
    Target { name: "recording_file", body: recording_file, seeds: recordings },
    Target { name: "recording_entries", body: recording_entries, seeds: entries },
    Target { name: "proc_process", body: process, seeds: process_seeds },
    Target { name: "proc_thread", body: thread, seeds: thread_seeds },
    Target { name: "proc_kernel", body: kernel, seeds: kernel_seeds },
    Target { name: "perf_map", body: perf_map, seeds: perf_map_seeds },
    Target { name: "attend_line", body: attend_line, seeds: attend_seeds },
    Target { name: "btf", body: btf, seeds: btf::samples },
    Target { name: "elf", body: elf, seeds: elf_seeds },
    Target { name: "offsets", body: offsets, seeds: offsets_seeds },
];

/// Records of the kernel side: of switches, stacks, calls and devices.
pub fn record(bytes: &[u8]) {
    let _ = decode::Decoder::default().decode(bytes);
    let _ = (decode::kernel_stack(bytes), decode::user_side(bytes), decode::device(bytes));
    let _ = (decode::task_registers(bytes), device::decode(bytes));
    if let Ok(record) = call::decode(bytes)
        && let call::CallEvent::Enter { number, arguments, words, .. } = record.event
    {
        let _ = futex::waited_words(number, &arguments, &words);
    }
}

/// A recording's file, to every report.
pub fn recording_file(bytes: &[u8]) {
    let _ = recfile::read(bytes);
    let _ = offcpu::replay(bytes, true, &Filter::default());
    let _ = futex::replay(bytes, true, &[]);
    let _ = syscalls::replay(bytes, true, &[]);
    let _ = io::replay(bytes, true, &[]);
    let _ = wbt::replay(bytes, true, &[]);
}

/// The same from within the checksums, which random damage never passes: any bytes as entries.
pub fn recording_entries(bytes: &[u8]) {
    let facts = recfile::OpeningFacts::empty(RecordedCalls::All, 1_000, 2);
    if let Ok(file) = recfile::sealed(&facts, bytes) {
        recording_file(&file);
    }
}

/// `/proc/PID/maps` and `/proc/PID/status`.
pub fn process(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    images::parse_texts(&text);
    symbolize::parse_maps(&text);
}

/// A thread's files in `/proc`.
pub fn thread(bytes: &[u8]) {
    proc::parse_all(&String::from_utf8_lossy(bytes));
}

/// What the kernel says of itself: symbols, interrupts, lists of CPUs, fields of tracepoints, cgroups.
pub fn kernel(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    symbolize::parse_kernel_symbols(&text);
    load::parse_format(&text);
    explain::parse_quota(&text);
    let _ = (interrupt::device(&text, 24), oncpu::parse_cpus(&text));
}

/// What a daemon and the process that holds its probes say to each other.
pub fn attend_line(bytes: &[u8]) {
    let _ = serde_json::from_slice::<attend::Request>(bytes);
    let _ = serde_json::from_slice::<attend::Answer>(bytes);
}

/// A run-time compiler's names.
pub fn perf_map(bytes: &[u8]) {
    let _ = PerfMap::name_in(bytes, 0x1008);
}

/// The kernel's type information.
pub fn btf(bytes: &[u8]) {
    let Ok(btf) = btf::Btf::parse(bytes) else { return };
    let _ = (btf.field_offset("task", "tgid"), btf.tracepoint_arguments("sched_switch"));
    let _ = (btf.function_id("task"), btf.tracepoint_id("task"));
}

/// A mapped binary: its segments, symbols, call frame information, and code.
pub fn elf(bytes: &[u8]) {
    let content = Content::Memory(bytes.into());
    let segments = images::Segments::of(&content);
    let _ = (symbolize::build_id(&content), segments.address(0x1000), segments.file_offset(0x1000));
    symbolize::parse_elf(bytes);
    let module = Module::new(&content);
    let stack = [0x5a; 256];
    let stack = Stack { start: 0x7000, bytes: &stack };
    for address in [0x600, 0x8c0, 0xa00, u64::MAX] {
        let registers = Registers::caller(address, 0x7010);
        let _ = module.step(At::Next(address), &registers, stack);
        let _ = module.step(At::After(address), &registers, stack);
        let _ = (module.is_covered(address), module.rule(At::After(address)));
    }
}

/// Machine code without call frame information: two bytes say where, the rest is code.
pub fn offsets(bytes: &[u8]) {
    let Some((at, code)) = bytes.split_first_chunk::<2>() else { return };
    unwind::analyse(code, u64::from(u16::from_le_bytes(*at)));
}

fn record_of(kind: Kind, frames: u16, body: &[u8], tail: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; size_of::<Head>()];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(offset_of!(Head, time_ns), &2_000_u64.to_ne_bytes());
    put(offset_of!(Head, sequence), &[u8::MAX; 8]);
    put(offset_of!(Head, start_ns), &500_u64.to_ne_bytes());
    put(offset_of!(Head, tid), &8_u32.to_ne_bytes());
    put(offset_of!(Head, tgid), &7_u32.to_ne_bytes());
    put(offset_of!(Head, frames), &frames.to_ne_bytes());
    put(offset_of!(Head, kind), &[kind as u8]);
    [bytes.as_slice(), body, tail].concat()
}

fn records() -> Vec<Vec<u8>> {
    let futex = [0_u8; 8 * 8];
    vec![
        record_of(Kind::SwitchOut, 2, &[1; size_of::<SwitchOut>()], &[9; 16]),
        record_of(Kind::SwitchIn, 0, &[], &[]),
        record_of(Kind::SwitchBack, 1, &[1; size_of::<SwitchOut>()], &[9; 8]),
        record_of(Kind::Waking, 1, &[1; size_of::<Waking>()], &[9; 8]),
        record_of(Kind::Born, 0, &[1; size_of::<Other>()], &[]),
        record_of(Kind::UserStack, 0, &[0; size_of::<UserStack>()], &[]),
        record_of(
            Kind::CallEnter,
            0,
            &[&futex[..], &202_u64.to_ne_bytes()].concat()[..size_of::<CallEnter>()],
            &[],
        ),
        record_of(Kind::CallExit, 0, &[0; size_of::<CallExit>()], &[]),
    ]
    .into_iter()
    .chain(device_records())
    .collect()
}

/// The whole life of a request, and one record of each of the rest.
fn device_records() -> Vec<Vec<u8>> {
    let device = |kind, body: &[u8]| record_of(kind, 0, body, &[]);
    let requests = [Kind::RequestStart, Kind::RequestInsert, Kind::RequestIssue, Kind::RequestRequeue];
    let requests =
        requests.into_iter().chain([Kind::RequestIssue, Kind::RequestComplete, Kind::RequestMerge]);
    let mut records: Vec<_> = requests.map(|kind| device(kind, &[1; size_of::<Request>()])).collect();
    let (most, least) = ([u8::MAX; 96], [0; 96]);
    records.extend([
        device(Kind::BioMerge, &most[..size_of::<Bio>()]),
        device(Kind::BioSplit, &most[..size_of::<Bio>()]),
        device(Kind::BioRemap, &most[..size_of::<Bio>()]),
        device(Kind::Commit, &least[..size_of::<Commit>()]),
        device(Kind::SyncEnter, &most[..size_of::<Sync>()]),
        device(Kind::SyncExit, &most[..size_of::<Sync>()]),
        device(Kind::AllocateEnter, &most[..size_of::<Allocation>()]),
        device(Kind::AllocateExit, &most[..size_of::<Allocation>()]),
        device(Kind::DirtyPause, &[[0x7f; 8].as_slice(), &most[..size_of::<DirtyPause>() - 8]].concat()),
        device(Kind::WbtStat, &most[..size_of::<WbtStat>()]),
        device(Kind::WbtStat, &most[..size_of::<WbtStat>()]),
        device(Kind::WbtLatency, &most[..size_of::<WbtLatency>()]),
        device(Kind::WbtStep, &most[..size_of::<WbtStep>()]),
        device(Kind::WbtTimer, &most[..size_of::<WbtTimer>()]),
        device(Kind::ThrottleExit, &least[..size_of::<ThrottleExit>()]),
    ]);
    records
}

/// A whole recording's entries: each record, and the passes between them.
fn entries() -> Vec<Vec<u8>> {
    vec![recfile::sample_entries(&records())]
}

fn recordings() -> Vec<Vec<u8>> {
    let facts = recfile::OpeningFacts::empty(RecordedCalls::All, 1_000, 2);
    entries().iter().filter_map(|entries| recfile::sealed(&facts, entries).ok()).collect()
}

fn process_seeds() -> Vec<Vec<u8>> {
    let text = "55d0c000-55d0d000 r-xp 00001000 08:01 42   /opt/a b/c (deleted)\n7f00000000-7f00002000 rw-p 00000000 \
                00:00 0 \n7ffc000-7ffd000 r-xp 00000000 00:00 0   [vdso]\nffffffffff600000-ffffffffff601000 --xp \
                00000000 00:00 0 [vsyscall]\n";
    vec![text.as_bytes().to_vec(), b"Name:\tsh\nTgid:\t42\nNSpid:\t4242\t42\n".to_vec()]
}

fn thread_seeds() -> Vec<Vec<u8>> {
    [
        "42 (a) b (c)) S 1 42 42 0 -1 4194304 100 0 0 0 1 2 0 0 20 0 1 0 98765 1000 1 184",
        "[<0>] ep_poll+0x2a0/0x350\n[<0>] wbt_wait+0x1/0x2 [blk]\n",
        "202 0x7f10 0x189 0x2 0x0 0x0 0xffffffff 0x7ffc0 0x7f12ab\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

fn kernel_seeds() -> Vec<Vec<u8>> {
    [
        "ffffffff81000000 T _stext\nffffffff81000010 t wbt_wait\nffffffffc0001000 t jbd2_log [jbd2]\n",
        "     CPU0  CPU1\n  24:  118243  7  PCI-MSIX-0000:00:02.0  1-edge  virtio1-req.0\n",
        "0-3,8,10-11\n",
        "\tfield:pid_t next_pid;\toffset:56;\tsize:4;\tsigned:1;\n",
        "nr_throttled 7\nthrottled_usec 1200\nthrottled_time 5\n",
        "4:cpu,cpuacct:/a/b\n0::/c\n30 25 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

fn attend_seeds() -> Vec<Vec<u8>> {
    let window = Some(attend::Bounds { start_ns: 1, end_ns: 2, tid: 3 });
    let requests = [
        attend::Request::Arm { id: "a".to_owned(), pids: vec![1, 2] },
        attend::Request::Disarm { id: "a".to_owned(), window },
    ];
    let failed = attend::Answer::Failed { id: "a".to_owned(), reason: "none".to_owned() };
    let lines = requests.iter().map(serde_json::to_vec).chain([serde_json::to_vec(&failed)]);
    lines.filter_map(Result::ok).collect()
}

fn perf_map_seeds() -> Vec<Vec<u8>> {
    vec![b"1000 10 old name\n2000 20 Other.js:1\nnonsense\n0x1000 0x10 LazyCompile:~f a.js:3\n".to_vec()]
}

/// The vdso: small, and with symbols, notes and call frame information.
fn elf_seeds() -> Vec<Vec<u8>> {
    let images = Images::of(std::process::id()).unwrap_or_default();
    let vdso = images.all().iter().find(|mapping| mapping.path() == "[vdso]");
    match vdso.map(images::Mapping::content) {
        Some(Content::Memory(bytes)) => vec![bytes.to_vec()],
        _ => Vec::new(),
    }
}

fn offsets_seeds() -> Vec<Vec<u8>> {
    // push rbx; push rbp; sub rsp,0x18; mov eax,35; syscall; test rax,rax; js +7; add rsp,0x18; pop rbp; pop rbx; ret
    let wrapper = [
        13, 0, 0x53, 0x55, 0x48, 0x83, 0xec, 0x18, 0xb8, 0x23, 0, 0, 0, 0x0f, 0x05, 0x48, 0x85, 0xc0, 0x78,
        0x07, 0x48, 0x83, 0xc4, 0x18, 0x5d, 0x5b, 0xc3,
    ];
    let aligned = [
        14, 0, 0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xe4, 0xc0, 0x48, 0x83, 0xec, 0x40, 0x0f, 0x05, 0xc9, 0xc3,
    ];
    vec![wrapper.to_vec(), aligned.to_vec()]
}

#[cfg(test)]
mod tests {
    use super::TARGETS;

    #[test]
    fn no_damaged_input_makes_a_parser_panic() {
        for target in TARGETS {
            testkit::mutate::run(target, 2000);
        }
    }

    #[test]
    fn the_seed_of_a_recording_is_one_that_every_report_can_be_made_of() {
        for bytes in super::recordings() {
            assert!(crate::offcpu::replay(&*bytes, false, &Default::default()).is_ok());
            assert!(crate::syscalls::replay(&*bytes, false, &[]).is_ok());
            assert!(crate::futex::replay(&*bytes, false, &[]).is_ok());
            let io = crate::io::replay(&*bytes, false, &[]).unwrap();
            assert!(!io.flows.is_empty() && !io.pauses.is_empty() && !io.syncs.is_empty(), "{io:#?}");
            let wbt = crate::wbt::replay(&*bytes, false, &[]).unwrap();
            assert_eq!(wbt.devices.iter().map(|device| device.windows).sum::<u64>(), 1, "{wbt:#?}");
        }
    }
}
