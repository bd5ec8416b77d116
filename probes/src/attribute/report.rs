//! Pieces of the critical path to the report: sums, verdict, advice, and who only waited.

use std::collections::{BTreeMap, BTreeSet};

use reports::explain::{self, Advice, Explain, PassiveWaiter, Peer, SCHEMA, Segment, Verdict};
use reports::units::{duration, share};

use super::Window;
use super::causes::{Cause, TABLE};
use super::facts::{Facts, overlap};
use super::path::{Piece, attribute};
use super::remedies::{REMEDIES, Remedy};
use super::rules::{On, classify};
use super::timeline::Timelines;
use crate::aggregate::Names;
use crate::decode::Peer as Woken;
use crate::interval::{Doing, KernelStack, OffCpu};

/// The most pieces of advice.
const ADVISED: usize = 3;
/// The smallest part of the window that advice is given for: less is not worth it.
const ADVISED_SHARE: f64 = 0.05;
/// The part of the window that a passive waiter waits for at least.
const PASSIVE_SHARE: f64 = 0.9;
/// The longest list of passive waiters: a process with more has a pool of them.
const PASSIVE_SHOWN: usize = 32;

/// What the report says beside the path.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The watched processes: passive waiters are theirs.
    pub pids: Vec<u32>,
    /// The hooks that the records came from.
    pub attach: Vec<String>,
    /// Losses by cause.
    pub loss: BTreeMap<String, u64>,
    /// Events that were lost inside the window.
    pub lost: u64,
    /// What the probes cost during the window.
    pub probe_overhead_ns: u64,
    /// Warnings.
    pub warnings: Vec<String>,
    /// How far from a look at a running thread its stack still counts as evidence, in nanoseconds.
    pub reach_ns: u64,
}

/// Accounts for `window`.
pub fn explain(
    window: &Window,
    timelines: &Timelines,
    facts: &Facts,
    around: Surroundings,
    names: &mut dyn Names,
) -> Explain {
    let pieces = attribute(window, timelines, facts, around.reach_ns, names);
    let window_ns = window.length_ns();
    let causes = sums(&pieces, window_ns);
    let explained_ns: u64 = causes.iter().map(|cause| cause.ns).sum();
    let unexplained_ns = window_ns - explained_ns;
    let passive_waiters = passive_waiters(window, timelines, &pieces, &around.pids, names);
    let verdict = verdict(&causes, unexplained_ns, window_ns, around.lost);
    let pid = timelines.process(window.tid).unwrap_or(window.tid);
    Explain {
        schema: SCHEMA.to_owned(),
        window: explain::Window {
            label: window.label.clone(),
            start_ns: window.start_ns,
            end_ns: window.end_ns,
            pid,
            process: timelines.comm(pid),
            tid: window.tid,
            comm: timelines.comm(window.tid),
            clamped: window.clamped,
        },
        window_ns,
        segments: pieces.into_iter().map(|piece| segment(piece, timelines)).collect(),
        causes,
        unexplained_ns,
        passive_waiters,
        verdict,
        loss: around.loss,
        attach: around.attach,
        cause_table: TABLE.to_owned(),
        probe_overhead_ns: around.probe_overhead_ns,
        warnings: around.warnings,
    }
}

fn segment(piece: Piece, timelines: &Timelines) -> Segment {
    Segment {
        start_ns: piece.start_ns,
        end_ns: piece.end_ns,
        tid: piece.tid,
        comm: timelines.comm(piece.tid),
        cause: piece.cause.map(|cause| cause.id().to_owned()),
        detail: piece.detail,
        chain: piece.chain,
        kernel_stack: piece.kernel,
        user_stack: piece.user,
        truncated: piece.truncated,
    }
}

/// Time by cause, longest first; equals in the table's order.
fn sums(pieces: &[Piece], window_ns: u64) -> Vec<explain::Cause> {
    let mut by_cause: BTreeMap<Cause, Sum<'_>> = BTreeMap::new();
    for piece in pieces {
        let Some(cause) = piece.cause else { continue };
        let sum = by_cause.entry(cause).or_default();
        let ns = piece.end_ns - piece.start_ns;
        sum.ns += ns;
        *sum.ways.entry((&piece.chain, &piece.detail)).or_default() += ns;
    }
    let mut sums: Vec<explain::Cause> =
        by_cause.into_iter().map(|(cause, sum)| sum.cause(cause, window_ns)).collect();
    sums.sort_by_key(|cause| std::cmp::Reverse(cause.ns));
    sums
}

/// One cause's time, and how the path came to it.
#[derive(Debug, Default)]
struct Sum<'a> {
    ns: u64,
    ways: BTreeMap<(&'a Vec<String>, &'a String), u64>,
}

impl Sum<'_> {
    fn cause(self, cause: Cause, window_ns: u64) -> explain::Cause {
        // The first of equals: the order of a map is no order of time, but always the same.
        let longest = self.ways.iter().rev().max_by_key(|(_, ns)| **ns);
        let (chain, detail) = longest.map(|(way, _)| (way.0.clone(), way.1.clone())).unwrap_or_default();
        explain::Cause {
            cause: cause.id().to_owned(),
            title: cause.entry().title.to_owned(),
            ns: self.ns,
            share: part(self.ns, window_ns),
            detail,
            chain,
        }
    }
}

fn part(ns: u64, window_ns: u64) -> f64 {
    if window_ns == 0 { 0.0 } else { ns as f64 / window_ns as f64 }
}

fn verdict(causes: &[explain::Cause], unexplained_ns: u64, window_ns: u64, lost: u64) -> Verdict {
    let top = causes.first().filter(|cause| cause.ns >= unexplained_ns);
    let mut sentence = match top {
        Some(top) => {
            let detail = if top.detail.is_empty() { String::new() } else { format!(" {}", top.detail) };
            let (of, ns) = (duration(window_ns), duration(top.ns));
            format!(
                "{} of {of} ({ns}) went to {}{}{detail}.",
                share(top.ns, window_ns),
                top.title,
                glue(&detail)
            )
        }
        None => format!(
            "{} of {} has no cause that anything here is evidence of.",
            share(unexplained_ns, window_ns),
            duration(window_ns)
        ),
    };
    if lost > 0 {
        let s = if lost == 1 { "event was" } else { "events were" };
        sentence.push_str(&format!(" Unsound: {lost} {s} lost inside the window."));
    }
    Verdict {
        cause: top.map(|top| top.cause.clone()),
        share: top.map_or(part(unexplained_ns, window_ns), |top| top.share),
        sentence,
        sound: lost == 0,
        lost,
        advice: advice(causes, window_ns),
    }
}

/// What stands between a cause and its detail: `on loop0` and its like read on by themselves.
fn glue(detail: &str) -> &'static str {
    let reads_on = [" on ", " behind ", " by ", " held ", " of ", " woken ", " answered "];
    if detail.is_empty() || reads_on.iter().any(|start| detail.starts_with(start)) { "" } else { ":" }
}

/// What would save most, if it saves enough to be worth it.
fn advice(causes: &[explain::Cause], window_ns: u64) -> Vec<Advice> {
    let mut advice: Vec<Advice> =
        REMEDIES.iter().filter_map(|remedy| advised(remedy, causes, window_ns)).collect();
    advice.sort_by_key(|advice| advice.predicted_ns);
    advice.truncate(ADVISED);
    advice
}

fn advised(remedy: &Remedy, causes: &[explain::Cause], window_ns: u64) -> Option<Advice> {
    let times = causes.iter().map(|cause| (cause.cause.as_str(), cause.ns));
    let predicted_ns = remedy.predicted_ns(window_ns, times);
    let removes = causes.iter().map(|cause| &cause.cause).filter(|id| remedy.removes(id));
    (part(window_ns - predicted_ns, window_ns) >= ADVISED_SHARE).then(|| Advice {
        removes: removes.cloned().collect(),
        text: remedy.text.to_owned(),
        predicted_ns,
        action: remedy.action.map(str::to_owned),
    })
}

/// Threads of the watched processes that waited for all of the window, or nearly, and are not on the path.
fn passive_waiters(
    window: &Window,
    timelines: &Timelines,
    pieces: &[Piece],
    pids: &[u32],
    names: &mut dyn Names,
) -> Vec<PassiveWaiter> {
    let on_path: BTreeSet<u32> =
        pieces.iter().flat_map(|piece| [Some(piece.tid), piece.by]).flatten().chain([window.tid]).collect();
    let is_watched = |tid: &u32| timelines.process(*tid).is_some_and(|pid| pids.contains(&pid));
    let tids: BTreeSet<u32> = timelines.tids().filter(is_watched).collect();
    let waiters = tids.difference(&on_path).filter_map(|tid| passive_waiter(window, timelines, *tid, names));
    waiters.take(PASSIVE_SHOWN).collect()
}

fn passive_waiter(
    window: &Window,
    timelines: &Timelines,
    tid: u32,
    names: &mut dyn Names,
) -> Option<PassiveWaiter> {
    let mut ns = 0;
    let mut longest: Option<(u64, &OffCpu)> = None;
    for interval in timelines.thread(tid) {
        let Doing::OffCpu(off) = &interval.doing else { continue };
        let inside_ns = overlap(interval.start_ns, interval.end_ns, window.start_ns, window.end_ns);
        if off.wait.is_runnable() || inside_ns == 0 {
            continue;
        }
        ns += inside_ns;
        if longest.is_none_or(|(known_ns, _)| inside_ns > known_ns) {
            longest = Some((inside_ns, off));
        }
    }
    let (_, off) = longest?;
    if part(ns, window.length_ns()) < PASSIVE_SHARE {
        return None;
    }
    let kernel = match &off.stack {
        KernelStack::Addresses(frames) => names.kernel(frames),
        KernelStack::Names(frames) => frames.to_vec(),
        KernelStack::Missing => Vec::new(),
    };
    let found = classify(On::Blocked, &kernel, &[]).map(|found| found.frame);
    let peer = |woken: Woken| Peer { tid: woken.tid, comm: woken.comm.text().into_owned() };
    Some(PassiveWaiter {
        tid,
        comm: timelines.comm(tid),
        ns,
        waits_in: found.or_else(|| kernel.first().cloned()).unwrap_or_default(),
        waits_for: off.waker.as_ref().filter(|waker| waker.peer.tid != 0).map(|waker| peer(waker.peer)),
    })
}
