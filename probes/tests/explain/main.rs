//! Windows of programs whose time is known, explained by the tool.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod subject;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use probes::explain::{Explainer, Options, Window};
use reports::explain::Explain;
use subject::{IN_TIME, Subject, assert_whole, cause_ms};
use testkit::{LoopExt4, Need, Outcome, Test};

const BPF: &[Need] = &[Need::Root, Need::Btf];

fn main() -> ExitCode {
    let test = |name, run| Test { name, needs: BPF, run };
    testkit::run(vec![
        test("windows::a_sleep_is_a_timer", sleep),
        test("windows::what_runs_is_its_own_code", spin),
        test("windows::a_lock_names_its_holder", lock),
        test("windows::a_pipe_is_followed_to_its_peer", pipe),
        test("windows::a_function_that_calls_itself_is_one_window", nested),
        test("windows::a_window_whose_thread_ends_in_it_is_cut_there", left),
        test("windows::those_of_other_threads_are_told_of", of_another_thread),
        test("windows::calls_of_others_leave_room_for_those_of_the_thread_asked_for", crowd),
        test("windows::several_that_are_asked_for_are_a_list_of_those_that_came", list),
        test("windows::more_than_can_be_explained_do_not_outlast_the_time", hot),
        test("windows::a_process_is_explained_for_a_time", by_time),
        test("windows::a_time_that_its_process_ended_is_no_whole_window", ended),
        test("windows::a_caller_arms_and_disarms", by_caller),
        test("windows::a_function_that_is_not_there_offers_the_nearest", not_found),
        test("windows::a_window_that_never_opens_is_a_failure", never),
        Test {
            name: "windows::an_fsync_is_the_files_systems_time",
            needs: &[Need::Root, Need::Btf, Need::LoopExt4],
            run: fsync,
        },
    ])
}

// The sleep is 40 ms long; what a busy machine takes of it before the thread has left the CPU is little.
fn sleep() -> Outcome {
    let explain = Subject::start("sleep", None).slowest();
    assert!(cause_ms(&explain, "timer") >= 20, "{explain:#?}");
    assert!(explain.segments.iter().any(|segment| segment.detail.ends_with("nanosleep")), "{explain:#?}");
    Ok(())
}

// 40 ms of CPU time, in the one function that takes any.
fn spin() -> Outcome {
    let explain = Subject::start("spin", None).slowest();
    assert!(cause_ms(&explain, "user_code") >= 20, "{explain:#?}");
    let own = explain.causes.iter().find(|cause| cause.cause == "user_code").ok_or("none")?;
    assert!(own.detail.contains("spin_ms"), "{explain:#?}");
    Ok(())
}

fn lock() -> Outcome {
    let explain = Subject::start("lock", None).slowest();
    let lock = explain.causes.iter().find(|cause| cause.cause == "futex_contention").ok_or("no lock")?;
    assert!(lock.detail.starts_with("held by holder("), "{explain:#?}");
    let passive: Vec<&str> = explain.passive_waiters.iter().map(|waiter| waiter.comm.as_str()).collect();
    assert!(passive.contains(&"peer") && !passive.contains(&"holder"), "{explain:#?}");
    Ok(())
}

// The window's thread waits for the peer, and the peer sleeps for 40 ms before it answers.
fn pipe() -> Outcome {
    let explain = Subject::start("pipe", None).slowest();
    assert!(cause_ms(&explain, "timer") >= 20, "{explain:#?}");
    let slept = explain.segments.iter().find(|segment| segment.cause.as_deref() == Some("timer"));
    let slept = slept.ok_or("nobody slept")?;
    assert_eq!(slept.comm, "peer", "{explain:#?}");
    assert!(slept.chain[0].contains("waits in read for peer("), "{:?}", slept.chain);
    Ok(())
}

// It sleeps for 20 ms, calls itself, and sleeps for 40 ms more.
fn nested() -> Outcome {
    let explain = Subject::start("nest", None).slowest();
    assert!(cause_ms(&explain, "timer") >= 50, "{explain:#?}");
    Ok(())
}

fn left() -> Outcome {
    let subject = Subject::start("exit", None);
    let arguments = ["--window-fn", "the_window", "--windows", "1", "--duration", "20s", "--format", "json"];
    let output = subject.explain(&arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let explain: Explain = serde_json::from_slice(&output.stdout)?;
    assert_whole(&explain);
    assert!(explain.window.clamped, "{explain:#?}");
    Ok(())
}

fn of_another_thread() -> Outcome {
    let subject = Subject::start("sleep", None);
    let peer = subject.thread("peer").to_string();
    let output = subject.explain(&["--window-fn", "the_window", "--tid", &peer, "--duration", "800ms"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("the_window was called"), "{said}");
    assert!(said.contains(&format!("never by thread {peer}: leave out --tid")), "{said}");
    Ok(())
}

// Their entries and returns alone are more than a window has room for.
fn crowd() -> Outcome {
    let subject = Subject::start("crowd", None);
    let rare = subject.thread("rare").to_string();
    let arguments = ["--window-fn", "the_window", "--tid", &rare, "--windows", "1", "--format", "json"];
    let output = subject.explain(&[&arguments[..], &IN_TIME].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let explain: Explain = serde_json::from_slice(&output.stdout)?;
    assert_whole(&explain);
    assert_eq!((explain.window.comm.as_str(), explain.loss["window_full"]), ("rare", 0), "{explain:#?}");
    Ok(())
}

fn list() -> Outcome {
    let subject = Subject::start("sleep", None);
    let arguments = ["--window-fn", "the_window", "--windows", "1", "--slowest", "3", "--format", "json"];
    let output = subject.explain(&[&arguments[..], &IN_TIME].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let windows: Vec<Explain> = serde_json::from_slice(&output.stdout)?;
    assert_eq!(windows.len(), 1);
    assert!(!windows[0].window.clamped, "{windows:#?}");
    Ok(())
}

// Thousands of windows close in the second.
fn hot() -> Outcome {
    let begun = Instant::now();
    let output = Subject::start("hot", None).explain(&["--window-fn", "the_window", "--duration", "1s"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(20) * testkit::slowness(), "{:?}", begun.elapsed());
    let left_out = said.lines().find_map(|line| line.strip_prefix("left out: ")).ok_or("none")?;
    let count: u64 = left_out.split(' ').next().unwrap_or_default().parse()?;
    assert!(count > 100, "{left_out}");
    Ok(())
}

fn ended() -> Outcome {
    let mut subject = Subject::start("sleep", None);
    let output = subject.explain_its_end(&["--duration", "60s", "--format", "json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let explain: Explain = serde_json::from_slice(&output.stdout)?;
    assert_whole(&explain);
    assert!(explain.window.clamped && explain.window_ns < 60_000_000_000, "{explain:#?}");
    assert!(explain.window.label.ends_with(" of 1m"), "{}", explain.window.label);
    Ok(())
}

fn fsync() -> Outcome {
    let folder = tempfile::tempdir()?;
    let mounted = LoopExt4::mount(folder.path(), 64, "")?;
    let explain = Subject::start("fsync", Some(&mounted.path())).slowest();
    let storage = ["journal_commit", "own_writeback", "device_time", "writeback_throttle", "request_queue"];
    let waited = explain.segments.iter().any(|segment| {
        let is_storage = segment.cause.as_deref().is_some_and(|cause| storage.contains(&cause));
        is_storage && segment.chain.first().is_some_and(|call| call.starts_with("fsync"))
    });
    assert!(waited, "{explain:#?}");
    Ok(())
}

fn by_time() -> Outcome {
    let subject = Subject::start("sleep", None);
    let output = subject.explain(&["--duration", "400ms", "--format", "json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let explain: Explain = serde_json::from_slice(&output.stdout)?;
    assert_whole(&explain);
    assert_eq!((explain.window.label.as_str(), explain.window.tid), ("400ms", subject.pid()));
    assert!(cause_ms(&explain, "timer") >= 100, "{explain:#?}");
    Ok(())
}

fn by_caller() -> Outcome {
    let subject = Subject::start("sleep", None);
    let explainer = Explainer::attach(&Options::default())?;
    for _ in 0..2 {
        let armed = explainer.arm(&[subject.pid()])?;
        assert!(explainer.arm(&[subject.pid()]).is_err(), "two windows at once");
        let start_ns = probes::monotonic_ns();
        std::thread::sleep(Duration::from_millis(250));
        let end_ns = probes::monotonic_ns();
        let recorded = armed.disarm()?;
        let window =
            Window { start_ns, end_ns, tid: subject.pid(), label: "a pause".to_owned(), clamped: false };
        let explain = recorded.explain(&window)?;
        assert_whole(&explain);
        assert_eq!(explain.window_ns, end_ns - start_ns);
        assert!(cause_ms(&explain, "timer") >= 50, "{explain:#?}");
    }
    Ok(())
}

fn not_found() -> Outcome {
    let output = Subject::start("sleep", None).explain(&["--window-fn", "the_windov"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("the nearest are: the_window"), "{said}");
    Ok(())
}

fn never() -> Outcome {
    let subject = Subject::start("never", None);
    let output = subject.explain(&["--window-fn", "the_window", "--duration", "200ms"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("no window opened"), "{said}");
    Ok(())
}
