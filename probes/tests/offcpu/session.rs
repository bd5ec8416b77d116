//! Through the library.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use probes::monotonic_ns;
use probes::offcpu::{Options, Session};
use probes::recording::Scope;
use reports::offcpu::{OffCpu, Stack, State, Thread, Waker};
use testkit::Outcome;

use crate::subject::Subject;

fn record(subject: &Subject, window: Duration) -> OffCpu {
    let session = Session::attach(subject.pid(), Options::default()).unwrap();
    thread::sleep(window);
    let report = session.finish().unwrap();
    assert_sound(&report);
    report
}

/// Nothing lost on the way, and every thread's time adds up to no more than the window.
fn assert_sound(report: &OffCpu) {
    assert_sound_but_for(report, ("", 0));
}

/// Nothing but for so many losses of that kind.
fn assert_sound_but_for(report: &OffCpu, (borne, most): (&str, u64)) {
    for (cause, lost) in &report.loss {
        // A virtual machine may hide the switches of its host's service threads from its tracepoints.
        let is_borne = cause == "unpaired_switches" || cause == borne && *lost <= most;
        assert!(*lost == 0 || is_borne, "{:?}", report.loss);
    }
    for thread in &report.threads {
        assert!(total_ns(thread) <= report.window_ns, "{thread:?}");
    }
}

fn total_ns(thread: &Thread) -> u64 {
    thread.on_cpu_ns + thread.off_cpu_ns + thread.unknown_ns
}

fn thread_named<'a>(report: &'a OffCpu, comm: &str) -> &'a Thread {
    report
        .threads
        .iter()
        .find(|thread| thread.comm == comm)
        .unwrap_or_else(|| panic!("no {comm}: {report:#?}"))
}

fn state_ns(report: &OffCpu, comm: &str, state: State) -> u64 {
    report
        .stacks
        .iter()
        .filter(|stack| stack.comm == comm && stack.state == state)
        .map(|stack| stack.ns)
        .sum()
}

// sleeper  |--asleep on the command--|25 ms| x 20 |--asleep on the next command--|
pub fn sleeps_agree() -> Outcome {
    let mut subject = Subject::start("sleeps");
    let session = Session::attach(subject.pid(), Options::default())?;
    subject.go();
    let own_ns: u64 = subject.answer().parse()?;
    let report = session.finish()?;
    assert_sound(&report);
    let napping: u64 = report
        .stacks
        .iter()
        .filter(|stack| stack.kernel.iter().any(|frame| frame.contains("nanosleep")))
        .map(|stack| stack.ns)
        .sum();
    // The program's clock also sees the few microseconds of each call before and after the sleep.
    let most_ns = own_ns / 50 * u64::from(testkit::slowness());
    assert!(napping <= own_ns && own_ns - napping < most_ns, "{napping} of {own_ns} ns: {report:#?}");
    assert_eq!(total_ns(thread_named(&report, "sleeper")), report.window_ns);
    Ok(())
}

pub fn whole_window() -> Outcome {
    let subject = Subject::start("parked");
    let report = record(&subject, Duration::from_millis(300));
    let parked = thread_named(&report, "parked");
    assert_eq!((parked.off_cpu_ns, parked.switches), (report.window_ns, 0));
    let stack = report.stacks.iter().find(|stack| stack.comm == "parked").ok_or("no stack")?;
    assert!(stack.kernel.iter().any(|frame| frame.contains("futex")), "{stack:?}");
    assert!(stack.user.iter().any(|frame| frame.contains("park")), "{stack:?}");
    assert!(!stack.user_truncated && stack.user.len() > 5, "{stack:?}");
    Ok(())
}

/// The scheduler's own count of the thread's CPU time bounds ours from below, read inside the window, and
/// from above, read outside of it.
pub fn spinner() -> Outcome {
    let subject = Subject::start("spins");
    let before_ns = ran_ns(&subject, "spinner");
    let session = Session::attach(subject.pid(), Options::default())?;
    let begun_ns = ran_ns(&subject, "spinner");
    thread::sleep(Duration::from_millis(300));
    let ended_ns = ran_ns(&subject, "spinner");
    let report = session.finish()?;
    let after_ns = ran_ns(&subject, "spinner");
    assert_sound(&report);
    let spinner = thread_named(&report, "spinner");
    assert_eq!(total_ns(spinner), report.window_ns);
    assert_eq!(spinner.off_cpu_ns, spinner.run_queue_ns, "a spinner never sleeps");
    // The count of a thread that runs is brought up to date by the clock tick.
    let tick_ns = 20_000_000;
    let (least_ns, most_ns) = (ended_ns - begun_ns, after_ns - before_ns);
    assert!(spinner.on_cpu_ns + tick_ns >= least_ns, "at least {least_ns}: {spinner:?}");
    assert!(spinner.on_cpu_ns <= most_ns + tick_ns, "at most {most_ns}: {spinner:?}");
    Ok(())
}

/// CPU time of a subject's thread, from its `schedstat`.
fn ran_ns(subject: &Subject, comm: &str) -> u64 {
    let threads = fs::read_dir(format!("/proc/{}/task", subject.pid())).unwrap();
    let mut folders = threads.map(|thread| thread.unwrap().path());
    let is_it = |folder: &PathBuf| fs::read_to_string(folder.join("comm")).unwrap().trim_end() == comm;
    let schedstat = fs::read_to_string(folders.find(is_it).unwrap().join("schedstat")).unwrap();
    schedstat.split(' ').next().unwrap().parse().unwrap()
}

// cpu 0  |-a-|--b--|-a-|--b--|: what one has, the other waits for
pub fn rivals() -> Outcome {
    let subject = Subject::start("rivals");
    let report = record(&subject, Duration::from_millis(500));
    let (a, b) = (thread_named(&report, "rival-a"), thread_named(&report, "rival-b"));
    assert!(a.on_cpu_ns + b.on_cpu_ns <= report.window_ns, "one CPU: {a:?} {b:?}");
    for rival in [a, b] {
        assert_eq!(rival.off_cpu_ns, rival.run_queue_ns, "{rival:?}");
        assert!(rival.run_queue_ns > report.window_ns / 5, "{rival:?}");
        // Whether the rival that waits as the window opens was preempted is not seen: that wait alone has no cause.
        let preempted_ns = state_ns(&report, &rival.comm, State::Preempted);
        let unseen_ns = state_ns(&report, &rival.comm, State::RunQueue);
        let is_unseen = |stack: &&Stack| stack.comm == rival.comm && stack.state == State::RunQueue;
        let unseen: u64 = report.stacks.iter().filter(is_unseen).map(|stack| stack.count).sum();
        assert!(unseen <= 1 && preempted_ns > 0, "{report:#?}");
        assert_eq!(preempted_ns + unseen_ns, rival.run_queue_ns, "{report:#?}");
    }
    Ok(())
}

pub fn born_inside() -> Outcome {
    let mut subject = Subject::start("births");
    let session = Session::attach(subject.pid(), Options::default())?;
    thread::sleep(Duration::from_millis(200));
    let before_ns = monotonic_ns();
    subject.go();
    assert_eq!(subject.answer(), "done");
    let after_ns = monotonic_ns();
    thread::sleep(Duration::from_millis(200));
    let report = session.finish()?;
    // Taken off the CPU before its first instruction, a thread has a stack that was never written: there is no page of it.
    assert_sound_but_for(&report, ("user_stack_unread", 2));
    let late = thread_named(&report, "late");
    assert!(total_ns(late) <= after_ns - before_ns, "{late:?}");
    assert!(late.off_cpu_ns >= 100_000_000, "{late:?}");
    Ok(())
}

pub fn waker_is_named() -> Outcome {
    let subject = Subject::start("pipes");
    let report = record(&subject, Duration::from_millis(500));
    let ping = thread_named(&report, "ping").tid;
    let asleep =
        report.stacks.iter().filter(|stack| stack.comm == "pong" && stack.state == State::Interruptible);
    let (mut by_ping, mut by_others) = (0, 0);
    for stack in asleep {
        match &stack.waker {
            Some(waker) if waker.tid == ping && !waker.interrupt && waker.comm == "ping" => {
                by_ping += stack.count
            }
            _ => by_others += stack.count,
        }
    }
    assert!(by_ping > 20, "{report:#?}");
    // The sleep that the window cut off at its end has no waker yet.
    assert!(by_others <= 1, "{report:#?}");
    Ok(())
}

pub fn timer_interrupt() -> Outcome {
    let subject = Subject::start("naps");
    let report = record(&subject, Duration::from_millis(400));
    let wakers: Vec<_> = report
        .stacks
        .iter()
        .filter(|stack| stack.comm == "napper" && stack.state == State::Interruptible)
        .filter_map(|stack| stack.waker.as_ref())
        .collect();
    assert!(!wakers.is_empty() && wakers.iter().all(|waker| waker.interrupt), "{report:#?}");
    Ok(())
}

/// A socket's read times out by a timer of the soft interrupt, which comes upon whatever runs then.
pub fn soft_interrupt() -> Outcome {
    let subject = Subject::start("times-out");
    let report = record(&subject, Duration::from_millis(400));
    let wakers: Vec<_> = report
        .stacks
        .iter()
        .filter(|stack| stack.comm == "reader" && stack.state == State::Interruptible)
        .filter_map(|stack| stack.waker.as_ref())
        .collect();
    let is_timer = |waker: &&Waker| waker.interrupt && waker.tid == 0 && waker.comm == "softirq/timer";
    assert!(!wakers.is_empty() && wakers.iter().all(is_timer), "{report:#?}");
    Ok(())
}

/// Of a thread that nobody asked for, its waits are there, and its user stacks are not. The tests beside this
/// one are part of the machine, and one of them makes more events than there is room for.
pub fn whole_machine() -> Outcome {
    let (target, other) = (Subject::start("naps"), Subject::start("pipes"));
    let options = Options { scope: Scope::Machine, ring_bytes: 32 << 20, ..Options::default() };
    let session = Session::attach(target.pid(), options)?;
    thread::sleep(Duration::from_millis(300));
    let report = session.finish()?;
    let tid = |pid: u32, comm: &str| {
        let is_it = |thread: &&Thread| thread.pid == pid && thread.comm == comm;
        report.threads.iter().find(is_it).unwrap_or_else(|| panic!("no {comm}: {report:#?}")).tid
    };
    let (napper, ping, pong) =
        (tid(target.pid(), "napper"), tid(other.pid(), "ping"), tid(other.pid(), "pong"));
    let asleep = |tid: u32| {
        report.stacks.iter().filter(move |stack| stack.tid == tid && stack.state == State::Interruptible)
    };
    assert!(asleep(napper).any(|stack| !stack.user.is_empty()), "{report:#?}");
    assert!(asleep(pong).all(|stack| stack.user.is_empty()), "{report:#?}");
    let by_ping = |stack: &Stack| stack.waker.as_ref().is_some_and(|waker| waker.tid == ping);
    assert!(asleep(pong).any(by_ping), "{report:#?}");
    let is_ours = |thread: &Thread| thread.pid == std::process::id();
    assert!(!report.threads.iter().any(is_ours), "the recorder is left out: {report:#?}");
    assert!(!report.threads.iter().any(|thread| thread.tid == 0), "and so are idle tasks");
    Ok(())
}

/// The smallest ring holds a few records; two threads that wake each other overrun it between two passes.
pub fn forced_loss() -> Outcome {
    let subject = Subject::start("storm");
    let session = Session::attach(subject.pid(), Options { ring_bytes: 4096, ..Options::default() })?;
    thread::sleep(Duration::from_millis(400));
    let (report, count) = session.finish_counted()?;
    let lost = report.loss["ring_full"];
    assert!(lost > 1000, "{:?}", report.loss);
    assert_eq!(count.attempted, count.received + lost);
    assert_eq!(report.loss["unaccounted"], 0);
    for comm in ["ping", "pong"] {
        let thread = thread_named(&report, comm);
        assert!(thread.truncated > 0, "{thread:?}");
        assert_eq!(total_ns(thread), report.window_ns, "marked, and not shortened");
    }
    Ok(())
}

pub fn windows() -> Outcome {
    let subject = Subject::start("naps");
    let session = Session::attach(subject.pid(), Options { keep_intervals: true, ..Options::default() })?;
    thread::sleep(Duration::from_millis(150));
    let start_ns = session.start_ns();
    let windows =
        [(start_ns + 10_000_000, start_ns + 40_000_000), (start_ns + 60_000_000, start_ns + 100_000_000)];
    let report = session.finish_in(&windows)?;
    assert_sound(&report);
    assert_eq!((report.windows, report.window_ns), (2, 70_000_000));
    assert_eq!(total_ns(thread_named(&report, "napper")), 70_000_000);
    Ok(())
}

pub fn dropped() -> Outcome {
    // In a process of its own, because the tests beside this one hold programs as well.
    let mut recorder = Subject::start("records");
    recorder.go();
    let (held, left) = (recorder.answer(), recorder.answer());
    assert_ne!(held, "0");
    assert_eq!(left, "0");
    Ok(())
}
