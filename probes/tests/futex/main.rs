//! Futex recordings of programs whose behaviour is known, set against the programs' own clocks.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod firecracker;
mod roles;
#[path = "../offcpu/subject.rs"]
#[expect(dead_code, reason = "the other binary plays the other roles")]
mod subject;

use std::collections::HashMap;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use probes::futex::Session;
use probes::recording::Options;
use probes::target::Target;
use reports::futex::{Futex, Home, Operation, Verdict, Word};
use testkit::{Need, Outcome, Test};

use subject::Subject;

const BPF: &[Need] = &[Need::Root, Need::Btf];

fn main() -> ExitCode {
    if let Some(role) = subject::role() {
        roles::play(&role);
        return ExitCode::SUCCESS;
    }
    let bpf = |name, run| Test { name, needs: BPF, run };
    testkit::run(vec![
        bpf("futex::mutex_taken_in_turns_is_contention", mutex),
        bpf("futex::condition_variable_is_a_passive_wait_and_its_waker_is_named", condition),
        bpf("futex::thread_parked_through_the_window_was_woken_by_nobody", parked),
        bpf("futex::every_wait_operation_agrees_with_the_programs_own_clock", operations),
        bpf("futex::shared_word_of_a_file_is_named_by_the_file", shared),
        bpf("futex::only_the_thread_asked_for_is_reported", one_thread),
        bpf("futex::every_format_is_written", formats),
        Test {
            name: "firecracker::main_thread_waits_passively_for_its_api",
            needs: &[Need::Root, Need::Btf, Need::Firecracker],
            run: firecracker::waits_for_its_api,
        },
    ])
}

fn attach(subject: &Subject) -> Session {
    let target = Target::find(subject.pid(), false).unwrap();
    Session::attach(vec![target], &Options::default()).unwrap()
}

fn record(role: &str, window: Duration) -> Futex {
    let subject = Subject::start(role);
    let session = attach(&subject);
    thread::sleep(window);
    let report = session.finish(&[]).unwrap();
    assert_sound(&report);
    report
}

fn assert_sound(report: &Futex) {
    for (cause, lost) in &report.loss {
        // A virtual machine may hide the switches of its host's service threads from its tracepoints.
        assert!(*lost == 0 || cause == "unpaired_switches", "{:?}", report.loss);
    }
}

/// The word that this thread slept on longest.
fn word_of<'a>(report: &'a Futex, comm: &str) -> &'a Word {
    let asleep = |word: &&Word| {
        word.waiters.iter().filter(|waiter| waiter.comm == comm).map(|waiter| waiter.asleep_ns).max()
    };
    let word = report.words.iter().filter(|word| asleep(word).is_some()).max_by_key(asleep);
    word.unwrap_or_else(|| panic!("{comm} waited on nothing: {report:#?}"))
}

// lock-a |--holds 5 ms--|  waits   |--holds--|
// lock-b |   waits      |--holds--|   waits
fn mutex() -> Outcome {
    let report = record("mutex", Duration::from_millis(500));
    let word = word_of(&report, "lock-a");
    assert_eq!(word.verdict, Verdict::Contention, "{word:#?}");
    assert!(word.handed_on > 10 && word.handed_on <= word.woken, "{word:#?}");
    let mut waiters: Vec<&str> = word.waiters.iter().map(|waiter| waiter.comm.as_str()).collect();
    waiters.sort_unstable();
    assert_eq!(waiters, ["lock-a", "lock-b"]);
    let waker = |comm: &str| word.wakers.iter().find(|waker| waker.comm == comm);
    let holder = waker("lock-b").ok_or("lock-b woke nobody")?;
    assert_eq!(holder.operation.as_deref(), Some("FUTEX_WAKE"), "{word:#?}");
    assert_eq!(holder.by_operation, holder.waits_ended, "{word:#?}");
    assert!(holder.ran_meanwhile_ns > 0, "{word:#?}");
    // A static of the test program itself.
    let Home::Data { module, symbol: Some((name, _)), .. } = &word.home else {
        return Err(format!("{:?}", word.home).into());
    };
    assert!(module.contains("futex") && name.contains("CONTENDED"), "{:?}", word.home);
    Ok(())
}

fn condition() -> Outcome {
    let report = record("condition", Duration::from_millis(400));
    let word = word_of(&report, "listener");
    assert_eq!(word.verdict, Verdict::PassiveWait, "{word:#?}");
    let first = word.wakers.first().ok_or("no waker")?;
    assert_eq!((first.comm.as_str(), first.by_operation), ("teller", first.waits_ended), "{word:#?}");
    assert!(first.waits_ended >= 10, "{word:#?}");
    assert!(matches!(word.home, Home::Heap | Home::Anonymous), "it lies in an Arc: {:?}", word.home);
    Ok(())
}

fn parked() -> Outcome {
    let report = record("parked", Duration::from_millis(300));
    let word = word_of(&report, "parked");
    assert_eq!((word.verdict, word.woken), (Verdict::NobodyWoke, 0), "{word:#?}");
    let operation = &word.operations[0];
    assert_eq!((operation.in_flight_at_start, operation.in_flight_at_end), (1, 1), "{word:#?}");
    assert_eq!(operation.asleep_ns, report.window_ns, "{word:#?}");
    Ok(())
}

/// The program times each operation itself, and says `name waits nanoseconds timeouts changed` of each.
fn operations() -> Outcome {
    let mut subject = Subject::start("operations");
    let session = attach(&subject);
    subject.go();
    let said: HashMap<String, [u64; 4]> = roles::parse(&subject.answer());
    let report = session.finish(&[])?;
    assert_sound(&report);
    for (name, [waits, own_ns, timed_out, changed]) in &said {
        // The standard library waits as well, on words of its own, and less often.
        let rows = report.words.iter().flat_map(|word| &word.operations).filter(|row| row.name == *name);
        let row: &Operation =
            rows.max_by_key(|row| row.waits).ok_or_else(|| format!("no {name}: {report:#?}"))?;
        assert_eq!((row.waits, row.timed_out, row.value_changed), (*waits, *timed_out, *changed), "{row:#?}");
        assert!(row.private, "{row:#?}");
        // What is between the two clocks is the way into the kernel and out of it.
        let most_ns = (own_ns / 20 + 2_000_000) * u64::from(testkit::slowness());
        assert!(row.wall_ns <= *own_ns && own_ns - row.wall_ns < most_ns, "{own_ns}: {row:#?}");
        let split_ns = row.asleep_ns + row.run_queue_ns;
        assert!(split_ns <= row.wall_ns && split_ns > row.wall_ns * 8 / 10, "{row:#?}");
    }
    assert!(said.len() == 6 || said.len() == 5 && !said.contains_key("futex_wait"), "{said:?}");
    Ok(())
}

fn shared() -> Outcome {
    let report = record("shared", Duration::from_millis(200));
    let word = word_of(&report, "sharer");
    assert!(word.operations.iter().all(|operation| !operation.private), "{word:#?}");
    let Home::Mapping { name, offset } = &word.home else { return Err(format!("{:?}", word.home).into()) };
    assert!(name.contains("forkd-shared-word") && *offset == 4096 + 64, "{:?}", word.home);
    Ok(())
}

fn one_thread() -> Outcome {
    let subject = Subject::start("mutex");
    let session = attach(&subject);
    thread::sleep(Duration::from_millis(100));
    let report = session.finish(&[1])?;
    assert!(report.words.is_empty(), "{report:#?}");
    Ok(())
}

fn formats() -> Outcome {
    let subject = Subject::start("condition");
    for (format, holds) in
        [("table", "passive wait"), ("folded", "listener-"), ("svg", "<svg"), ("json", "forkd.futex/1")]
    {
        let pid = subject.pid().to_string();
        let arguments = ["futex", "--pid", &pid, "--duration", "200ms", "--format", format];
        let output = Command::new(env!("CARGO_BIN_EXE_forkd-probe")).args(arguments).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(holds), "{format}: {output:?}");
    }
    Ok(())
}
