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

const WINDOW: Duration = Duration::from_millis(900);
/// Programs on one hook run one after the other, and those on `finish_task_switch` after the switch. Between two
/// stamps a host may take the CPU away from the machine that this runs on, so single ones may lie far apart.
const FARTHEST_NS: u64 = 100_000_000;
/// Most lie as near as the programs are long.
const USUAL_NS: u64 = 2_000_000;

/// What one recording came to.
struct Seen {
    rung: SwitchRung,
    start_ns: u64,
    end_ns: u64,
    spans: Spans,
}

/// Records the same process in each of these ways at once.
fn record(rungs: &[SwitchRung]) -> Vec<Seen> {
    let subject = Subject::start();
    let attach = |rung: &SwitchRung| {
        let targets = vec![Target::find(subject.pid(), false).unwrap()];
        let options = Options { rung: Some(*rung), ..Options::default() };
        Recording::attach(targets, None, &options, |_| Spans::default()).unwrap()
    };
    let mut recordings: Vec<Recording<Spans>> = rungs.iter().map(attach).collect();
    thread::sleep(WINDOW);
    let mut seen = Vec::new();
    for recording in &mut recordings {
        let rung = recording.ladder().unwrap().rung;
        let start_ns = recording.start_ns();
        let gathered = recording.finish().unwrap();
        for (cause, lost) in &gathered.loss {
            // A kernel may hide the switches of some threads from its own tracepoints.
            assert!(*lost == 0 || cause == "unpaired_switches", "{rung}: {:?}", gathered.loss);
        }
        seen.push(Seen { rung, start_ns, end_ns: gathered.end_ns, spans: gathered.analysis });
    }
    seen
}

/// Sets each of the others against the first.
fn compare(seen: &[Seen]) {
    let margin_ns = FARTHEST_NS;
    let start_ns = seen.iter().map(|one| one.start_ns).max().unwrap() + margin_ns;
    let end_ns = seen.iter().map(|one| one.end_ns).min().unwrap() - margin_ns;
    let (first, others) = seen.split_first().unwrap();
    for other in others {
        let mut apart_ns = Vec::new();
        for (tid, spans) in &first.spans.by_tid {
            let inside: Vec<&Span> =
                spans.iter().filter(|span| span.start_ns >= start_ns && span.end_ns <= end_ns).collect();
            if let (Some(from), Some(to)) = (inside.first(), inside.last()) {
                let same = matching(other, *tid, from, to);
                let what = format!("thread {tid} by {} and by {}", first.rung, other.rung);
                assert_eq!(inside.len(), same.len(), "{what}: {inside:#?} {same:#?}");
                for (one, two) in inside.iter().zip(same) {
                    same_wait(&what, other.rung, one, two);
                    apart_ns.push(one.start_ns.abs_diff(two.start_ns).max(one.end_ns.abs_diff(two.end_ns)));
                }
            }
        }
        apart_ns.sort_unstable();
        let (median_ns, most_ns) = (apart_ns[apart_ns.len() / 2], apart_ns[apart_ns.len() - 1]);
        println!(
            "{} against {}: {} waits, apart by {median_ns} ns in the middle, {most_ns} ns at most",
            other.rung,
            first.rung,
            apart_ns.len(),
        );
        assert!(apart_ns.len() > 100, "{} waits are too few to tell", apart_ns.len());
        assert!(median_ns < USUAL_NS && most_ns < FARTHEST_NS, "{median_ns} ns, {most_ns} ns");
    }
}

/// The other's stretches from the one nearest to `from` to the one nearest to `to`.
fn matching<'a>(other: &'a Seen, tid: u32, from: &Span, to: &Span) -> &'a [Span] {
    let Some(spans) = other.spans.by_tid.get(&tid) else { return &[] };
    let nearest = |wanted: &Span| {
        let apart = |index: &usize| spans[*index].start_ns.abs_diff(wanted.start_ns);
        (0..spans.len()).min_by_key(apart).unwrap()
    };
    &spans[nearest(from)..=nearest(to)]
}

fn same_wait(what: &str, other: SwitchRung, one: &Span, two: &Span) {
    let is_behind = matches!(other, SwitchRung::Fentry | SwitchRung::Kprobe);
    let differ = || format!("{what}: {one:#?} {two:#?}");
    // A thread that is woken as it leaves: stamped on either side of the wake-up, it slept for a moment or not at
    // all.
    assert!(one.asleep_ns.abs_diff(two.asleep_ns) < FARTHEST_NS, "{}", differ());
    if one.asleep_ns.min(two.asleep_ns) > USUAL_NS {
        let unknown = is_behind && two.asleep == Some(Wait::Unknown);
        assert!(one.asleep == two.asleep || unknown, "{}", differ());
    }
    let slept = one.asleep_ns.max(two.asleep_ns) > 0;
    assert!(slept || one.preempted == two.preempted, "{}", differ());
    assert_eq!(one.root, two.root, "{}", differ());
}

/// This rung against the best of the others.
pub fn agrees(rung: SwitchRung) -> Outcome {
    let best = available().into_iter().find(|other| *other != rung);
    compare(&record(&[best.ok_or("this kernel has no other rung to compare with")?, rung]));
    Ok(())
}

pub fn all_at_once() -> Outcome {
    let rungs = available();
    assert!(rungs.len() > 1, "this kernel has {rungs:?} only");
    compare(&record(&rungs));
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
    assert!(slept.count() > 20, "{:#?}", gathered.analysis);
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
