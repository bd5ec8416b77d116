//! Each recording command of the tool by each way of seeing switches, asked for alone.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod commands;
#[path = "../ladder/hooks.rs"]
mod hooks;
#[path = "../offcpu/subject.rs"]
#[expect(dead_code, reason = "the other binary plays the other roles")]
mod subject;

use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use probes::recording::SwitchRung;
use testkit::Test;

/// One test for each rung.
macro_rules! by_rung {
    ($command:ident) => {
        by_rung!($command: "tp_btf" TpBtf, "raw_tracepoint" RawTracepoint, "tracepoint" Tracepoint,
            "fentry" Fentry, "kprobe" Kprobe)
    };
    ($command:ident: $($name:literal $rung:ident),*) => {
        vec![$(Test {
            name: concat!("by_rung::", stringify!($command), "::", $name),
            needs: hooks::needs(SwitchRung::$rung),
            run: || commands::$command(SwitchRung::$rung),
        }),*]
    };
}

fn main() -> ExitCode {
    if subject::role().is_some() {
        play();
        return ExitCode::SUCCESS;
    }
    hooks::mount_tracefs();
    let tests = [
        by_rung!(offcpu),
        by_rung!(futex),
        by_rung!(syscalls),
        by_rung!(record),
        // The whole machine is recorded, which the printed form cannot tell apart.
        by_rung!(explain: "tp_btf" TpBtf, "raw_tracepoint" RawTracepoint, "fentry" Fentry, "kprobe" Kprobe),
        by_rung!(wbt),
        vec![Test {
            name: "refused::explain_by_tracepoint_says_why",
            needs: hooks::needs(SwitchRung::Tracepoint),
            run: commands::explain_by_tracepoint,
        }],
    ];
    testkit::run(tests.into_iter().flatten().collect())
}

static CONTENDED: Mutex<()> = Mutex::new(());

/// One thread naps for 20 ms at a time, and two hold one lock for 5 ms in turns.
fn play() {
    subject::spawn("napper", || {
        loop {
            thread::sleep(Duration::from_millis(20));
        }
    });
    for name in ["lock-a", "lock-b"] {
        subject::spawn(name, || {
            loop {
                let held = CONTENDED.lock().unwrap();
                thread::sleep(Duration::from_millis(5));
                drop(held);
                // The lock is not fair: whoever comes back at once may have it always.
                thread::sleep(Duration::from_millis(1));
            }
        });
    }
    subject::ready_and_wait();
}
