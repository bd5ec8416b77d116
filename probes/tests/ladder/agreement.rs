//! What must be the same, whichever way switches are seen.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use probes::interval::Wait;
use probes::recording::{Ladder, Options, Recording, SwitchRung};
use probes::target::Target;
use testkit::Outcome;

use crate::available;
use crate::spans::{Span, Spans};
use crate::subject::Subject;

/// How often two recordings may be disturbed before it counts.
const ATTEMPTS: u32 = 6;
const WINDOW: Duration = Duration::from_millis(900);
/// Programs on one hook run one after the other, and those on `finish_task_switch` after the switch. Between two
/// stamps a host may take the CPU away from the machine that this runs on, so single ones may lie far apart.
const FARTHEST_NS: u64 = 100_000_000;
/// Each thread's waits are compared from one at least this long to another: a different wait begins or ends this
/// far from it.
const LONG_NS: u64 = 2_000_000;
/// The same wait begins and ends this near, unless the recordings were disturbed.
const NEAR_NS: u64 = LONG_NS / 2;
/// Fewer tell nothing.
const FEWEST_WAITS: usize = 30;

/// What kept two recordings from being compared, that is nobody's mistake: something was lost, or the machine
/// stood still between two stamps of one switch.
struct Disturbed(String);

/// What one recording came to.
struct Seen {
    rung: SwitchRung,
    start_ns: u64,
    end_ns: u64,
    spans: Spans,
}

/// Records the same process in each of these ways at once.
fn record(rungs: &[SwitchRung]) -> Result<Vec<Seen>, Disturbed> {
    let subject = Subject::start();
    let attach = |rung: &SwitchRung| {
        let targets = vec![Target::find(subject.pid(), false).unwrap()];
        let options = Options { rung: Some(*rung), ..Options::default() };
        Recording::attach(targets, None, &options, |_| Spans::default()).unwrap()
    };
    let mut recordings: Vec<Recording<Spans>> = rungs.iter().map(attach).collect();
    thread::sleep(WINDOW);
    let mut seen = Vec::new();
    // Those that were attached last first, for the same reason.
    for recording in recordings.iter_mut().rev() {
        let rung = recording.ladder().unwrap().rung;
        let start_ns = recording.start_ns();
        let gathered = recording.finish().unwrap();
        // A kernel may hide the switches of some threads from its own tracepoints.
        let is_loss = |(cause, lost): (&String, &u64)| *lost > 0 && cause != "unpaired_switches";
        if gathered.loss.iter().any(is_loss) {
            return Err(Disturbed(format!("{rung} lost {:?}", gathered.loss)));
        }
        seen.push(Seen { rung, start_ns, end_ns: gathered.end_ns, spans: gathered.analysis });
    }
    seen.reverse();
    Ok(seen)
}

/// Sets each of the others against the first.
fn compare(seen: &[Seen]) -> Result<(), Disturbed> {
    let start_ns = seen.iter().map(|one| one.start_ns).max().unwrap() + FARTHEST_NS;
    let end_ns = seen.iter().map(|one| one.end_ns).min().unwrap() - FARTHEST_NS;
    let (first, others) = seen.split_first().unwrap();
    for other in others {
        let mut distances_ns = Vec::new();
        for (tid, spans) in &first.spans.by_tid {
            let is_edge = |span: &Span| {
                span.start_ns >= start_ns && span.end_ns <= end_ns && span.end_ns - span.start_ns >= LONG_NS
            };
            let edges = (spans.iter().position(is_edge), spans.iter().rposition(is_edge));
            if let (Some(from), Some(to)) = edges {
                let inside = &spans[from..=to];
                let what = format!("thread {tid} by {} and by {}", first.rung, other.rung);
                let same = matching(&what, other, *tid, &spans[from], &spans[to])?;
                assert_eq!(inside.len(), same.len(), "{what}: {inside:#?} {same:#?}");
                for (one, two) in inside.iter().zip(same) {
                    same_wait(&what, other.rung, one, two)?;
                    distances_ns.push(apart_ns(one, two));
                }
            }
        }
        distances_ns.sort_unstable();
        if distances_ns.len() < FEWEST_WAITS {
            return Err(Disturbed(format!("{} waits are too few to tell", distances_ns.len())));
        }
        let (median_ns, most_ns) =
            (distances_ns[distances_ns.len() / 2], distances_ns[distances_ns.len() - 1]);
        println!(
            "{} against {}: {} waits, apart by {median_ns} ns in the middle, {most_ns} ns at most",
            other.rung,
            first.rung,
            distances_ns.len(),
        );
    }
    Ok(())
}

/// Records and compares until nothing disturbs it.
fn agree(rungs: &[SwitchRung]) -> Outcome {
    let mut reasons = Vec::new();
    for _ in 0..ATTEMPTS {
        match record(rungs).and_then(|seen| compare(&seen)) {
            Ok(()) => return Ok(()),
            Err(Disturbed(reason)) => reasons.push(reason),
        }
    }
    Err(format!("disturbed {ATTEMPTS} times: {}", reasons.join("; ")).into())
}

/// The other's stretches from the one nearest to `from` to the one nearest to `to`.
fn matching<'a>(
    what: &str,
    other: &'a Seen,
    tid: u32,
    from: &Span,
    to: &Span,
) -> Result<&'a [Span], Disturbed> {
    let Some(spans) = other.spans.by_tid.get(&tid) else { return Ok(&[]) };
    let nearest = |wanted: &Span| {
        let apart = |index: &usize| apart_ns(&spans[*index], wanted);
        let index = (0..spans.len()).min_by_key(apart).unwrap();
        if apart(&index) > NEAR_NS {
            return Err(Disturbed(format!("{what}: nothing near {wanted:?}")));
        }
        Ok(index)
    };
    Ok(&spans[nearest(from)?..=nearest(to)?])
}

fn apart_ns(one: &Span, two: &Span) -> u64 {
    one.start_ns.abs_diff(two.start_ns).max(one.end_ns.abs_diff(two.end_ns))
}

fn same_wait(what: &str, other: SwitchRung, one: &Span, two: &Span) -> Result<(), Disturbed> {
    let is_behind = matches!(other, SwitchRung::Fentry | SwitchRung::Kprobe);
    let differ = || format!("{what}: {one:#?} {two:#?}");
    // A thread that is woken as it leaves: stamped on either side of the wake-up, it slept for a moment or not at
    // all.
    if one.asleep_ns.abs_diff(two.asleep_ns) >= FARTHEST_NS {
        return Err(Disturbed(differ()));
    }
    if one.asleep_ns.min(two.asleep_ns) > LONG_NS {
        let unknown = is_behind && two.asleep == Some(Wait::Unknown);
        assert!(one.asleep == two.asleep || unknown, "{}", differ());
    }
    let slept = one.asleep_ns.max(two.asleep_ns) > 0;
    assert!(slept || one.preempted == two.preempted, "{}", differ());
    assert_eq!(one.root, two.root, "{}", differ());
    Ok(())
}

/// This rung against the best of the others.
pub fn agrees(rung: SwitchRung) -> Outcome {
    let best = available().into_iter().find(|other| *other != rung);
    agree(&[best.ok_or("this kernel has no other rung to compare with")?, rung])
}

/// All but one of those whose programs run as events of perf, of which the kernel lets one at a time run on a CPU
/// (`trace_call_bpf`): it turns away what an interrupt brings while the other's runs.
pub fn all_at_once() -> Outcome {
    let available = available();
    let (alone, mut together): (Vec<_>, Vec<_>) =
        available.into_iter().partition(|rung| matches!(rung, SwitchRung::Tracepoint | SwitchRung::Kprobe));
    assert!(!alone.is_empty(), "this kernel has {together:?} only");
    for last in alone {
        // Attached last: what another recorder does with BPF maps as it begins or ends may have its events turned away.
        together.push(last);
        assert!(together.len() > 1, "this kernel has {last} only");
        agree(&together)?;
        together.pop();
    }
    Ok(())
}

/// A kernel without type information: what that would give is left out, and the waits are there.
pub fn without_types() -> Outcome {
    let subject = Subject::start();
    let options = Options { btf: PathBuf::from("/no/such/btf"), ..Options::default() };
    let target = || Target::find(subject.pid(), false).map(|target| vec![target]);
    let mut recording = Recording::attach(target()?, None, &options, |_| Spans::default())?;
    let Ladder { rung, hook, refused } = recording.ladder().unwrap().clone();
    assert_eq!((rung, hook.as_str()), (SwitchRung::Tracepoint, "tracepoint/sched:sched_switch"));
    assert_eq!(refused.len(), 2, "{refused:?}");
    thread::sleep(Duration::from_millis(300));
    let gathered = recording.finish()?;
    let slept = gathered.analysis.by_tid.values().flatten();
    let slept = slept.filter(|span| span.asleep == Some(Wait::Interruptible) && !span.root.is_empty());
    assert!(slept.count() > 0, "{:#?}", gathered.analysis);
    let typed = Options { rung: Some(SwitchRung::TpBtf), ..options };
    let error = Recording::attach(target()?, None, &typed, |_| Spans::default()).err();
    let error = error.map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("CONFIG_DEBUG_INFO_BTF"), "{error}");
    Ok(())
}

pub fn first_rung() -> Outcome {
    let subject = Subject::start();
    let target = Target::find(subject.pid(), false)?;
    let recording = Recording::attach(vec![target], None, &Options::default(), |_| Spans::default())?;
    let Ladder { rung, hook, refused } = recording.ladder().unwrap().clone();
    assert_eq!((rung, hook.as_str()), (SwitchRung::TpBtf, "tp_btf/sched_switch"));
    assert!(refused.is_empty(), "{refused:?}");
    Ok(())
}
