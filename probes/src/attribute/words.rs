//! How links of a chain read.

use std::collections::BTreeMap;

use reports::units::bytes;

use super::causes::Cause;
use super::facts::{Dirty, RequestSpan};
use super::path::{By, Frames, Span, Walk};
use super::timeline::Timelines;
use super::waiting::mostly;

/// Where every kernel stack begins: of no interest.
const ENTRY: [&str; 12] = [
    "entry_SYSCALL_64_after_hwframe",
    "do_syscall_64",
    "x64_sys_call",
    "ret_from_fork_asm",
    "ret_from_fork",
    "kthread",
    "worker_thread",
    "process_scheduled_works",
    "process_one_work",
    "asm_sysvec_apic_timer_interrupt",
    "asm_common_interrupt",
    "irqentry_exit",
];

/// `cp(4711)`.
pub fn thread(timelines: &Timelines, tid: u32) -> String {
    let comm = timelines.comm(tid);
    if comm.is_empty() { format!("thread({tid})") } else { format!("{comm}({tid})") }
}

/// What kernel frames without a system call are about: the outermost function that says something. None where no
/// frame has a name that does: addresses, and the thunks that stand in for calls and returns (arch/x86/lib/retpoline.S).
pub fn kernel_work(kernel: &[String]) -> Option<String> {
    let is_stand_in = |frame: &str| frame.contains("_indirect_thunk_") || frame.contains("return_thunk");
    let telling =
        |frame: &&String| !ENTRY.contains(&frame.as_str()) && !frame.starts_with("0x") && !is_stand_in(frame);
    kernel.iter().rev().find(telling).cloned()
}

/// The system call that a thread waits in, or what else its kernel frames say.
pub fn waits_in(walk: &Walk<'_>, span: &Span, frames: &Frames) -> String {
    let call = walk.call(span, frames).or_else(|| kernel_work(&frames.kernel));
    call.or_else(|| frames.kernel.first().cloned()).unwrap_or_else(|| "the kernel".to_owned())
}

/// `fc_api(12) waits in epoll_wait for firecracker(11)`.
pub fn waits_for(walk: &Walk<'_>, tid: u32, by: u32, frames: &Frames) -> String {
    let (me, by) = (thread(walk.timelines, tid), thread(walk.timelines, by));
    match super::rules::system_call(&frames.kernel) {
        Some(call) => format!("{me} waits in {call} for {by}"),
        None => format!("{me} waits for {by}"),
    }
}

/// Detail and links of a wait for storage: the call, the cause on its device, and who keeps that busy.
pub fn storage(walk: &Walk<'_>, span: &Span, cause: Cause, frames: &Frames) -> (String, Vec<String>) {
    let middle_ns = span.start_ns + (span.end_ns - span.start_ns) / 2;
    let synced = walk.facts.sync(span.tid, middle_ns).map(|sync| sync.device.as_str());
    let commits = cause == Cause::JournalCommit;
    let commit = walk.facts.commit(None, span.start_ns, span.end_ns).filter(|_| commits);
    let committed = commit.map(|commit| commit.device.as_str());
    let device = synced.or(committed).or_else(|| busiest(walk, span)).map(str::to_owned);
    let title = cause.entry().title;
    let detail = device.as_ref().map(|device| format!("on {device}")).unwrap_or_default();
    let mut links: Vec<String> = walk.call(span, frames).into_iter().collect();
    links.push(format!("{title} {detail}").trim_end().to_owned());
    let (dirty, requests) =
        (dirtied(walk, span, device.as_deref()), in_flight(walk, span, device.as_deref()));
    // A request waits for those ahead of it, whoever dirtied most; whoever waits for writeback, for what was dirtied.
    let behind = match cause {
        Cause::RequestQueue | Cause::DeviceTime => requests.or(dirty),
        _ => dirty.or(requests),
    };
    links.extend(behind);
    (detail, links)
}

/// The device with most bytes on their way in the span.
fn busiest<'a>(walk: &Walk<'a>, span: &Span) -> Option<&'a str> {
    let mut by_device: BTreeMap<&str, u64> = BTreeMap::new();
    for request in walk.facts.in_flight(None, span.start_ns, span.end_ns) {
        *by_device.entry(&request.device).or_default() += request.bytes;
    }
    by_device.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(device, _)| device)
}

/// Whose dirty pages the device has to write.
fn dirtied(walk: &Walk<'_>, span: &Span, device: Option<&str>) -> Option<String> {
    let on_device = |dirty: &&Dirty| device.is_none_or(|device| device == dirty.device);
    let dirty = walk.facts.dirty.iter().filter(on_device).max_by_key(|dirty| dirty.bytes)?;
    let own = if Some(dirty.tgid) == walk.timelines.process(span.tid) { ", its own" } else { "" };
    Some(format!("{} of dirty pages by {}({}){own}", bytes(dirty.bytes), dirty.comm, dirty.tgid))
}

/// Whose requests were on their way.
fn in_flight(walk: &Walk<'_>, span: &Span, device: Option<&str>) -> Option<String> {
    let mut by_owner: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for request in walk.facts.in_flight(device, span.start_ns, span.end_ns) {
        let sum = by_owner.entry(owner(request)).or_default();
        sum.0 += 1;
        sum.1 += request.bytes;
    }
    let (owner, (count, sum)) = by_owner.into_iter().max_by_key(|(_, (_, bytes))| *bytes)?;
    let s = if count == 1 { "" } else { "s" };
    Some(format!("{count} request{s} of {} by {owner}", bytes(sum)))
}

fn owner(request: &RequestSpan) -> String {
    request.owner.clone().unwrap_or_else(|| format!("{}({})", request.comm, request.tid))
}

/// Detail and links of any other wait.
pub fn object(
    walk: &mut Walk<'_>,
    span: &Span,
    cause: Cause,
    frames: &Frames,
    waker: Option<&By>,
) -> (String, Vec<String>) {
    let title = cause.entry().title;
    let call = waits_in(walk, span, frames);
    let by = match waker {
        Some(By::Thread(tid)) => Some((*tid, thread(walk.timelines, *tid))),
        _ => None,
    };
    let detail = match (cause, &by) {
        (Cause::FutexContention | Cause::KernelLock | Cause::InodeLock, Some((_, by))) => {
            format!("held by {by}")
        }
        (Cause::RemoteFileSystem, Some((_, by))) => format!("answered by {by}"),
        (Cause::Stopped, _) => stopped(&frames.kernel, by.as_ref().map(|(_, by)| by.as_str())),
        (Cause::Timer, _) => call.clone(),
        _ => innermost(frames),
    };
    let mut links = vec![format!("{} in {call}", thread(walk.timelines, span.tid))];
    links.push(format!("{title}, {detail}"));
    if let (
        Cause::FutexContention | Cause::KernelLock | Cause::InodeLock | Cause::RemoteFileSystem,
        Some((tid, by)),
    ) = (cause, by)
        && let Some(did) = mostly(walk, tid, span.start_ns, span.end_ns)
    {
        links.push(format!("{by} meanwhile {did}"));
    }
    (detail, links)
}

fn innermost(frames: &Frames) -> String {
    frames.kernel.first().cloned().unwrap_or_default()
}

fn stopped(kernel: &[String], by: Option<&str>) -> String {
    let has = |part: &str| kernel.iter().any(|frame| frame.contains(part));
    let how = if has("refrigerator") || has("freezer") {
        "by the freezer"
    } else if has("ptrace") {
        "by a tracer"
    } else if kernel.first().is_some_and(|frame| frame == "get_signal") {
        "by the freezer or a signal"
    } else {
        "by a signal"
    };
    match by {
        Some(by) => format!("{how}, and let go on by {by}"),
        None => how.to_owned(),
    }
}
