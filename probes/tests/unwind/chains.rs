//! A traced process of a known call chain gets exactly that chain.

use std::fs;

use reports::offcpu::{OffCpu, State};
use rustix::thread::CapabilitySet;
use testkit::Outcome;

use crate::program::{Program, chain, chains};

/// Every stack that was in one of `functions` is whole, begins at `root`, and ends in one of `expected`;
/// and each of these is there.
fn check(report: &OffCpu, root: &str, expected: &[&str]) {
    assert_nothing_lost(report);
    let found = chains(report);
    for end in expected {
        assert!(found.iter().any(|chain| chain.ends_with(end)), "no {end}: {found:#?}");
    }
    for stack in report.stacks.iter().filter(|stack| !stack.user.is_empty()) {
        let chain = chain(stack);
        assert!(!stack.user_truncated && chain.starts_with(root), "{stack:#?}");
        assert!(expected.iter().any(|end| chain.ends_with(end)), "{chain}");
    }
}

fn assert_nothing_lost(report: &OffCpu) {
    for (cause, lost) in &report.loss {
        assert!(*lost == 0 || cause == "unpaired_switches", "{:?}", report.loss);
    }
}

pub fn without_frame_pointers() -> Outcome {
    let program = Program::c("abc", &["-fomit-frame-pointer"]);
    check(&program.record(), "_start;", &[";main;a;b;c;wait_stub"]);
    Ok(())
}

pub fn with_frame_pointers_only() -> Outcome {
    let flags = ["-fno-omit-frame-pointer", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"];
    let program = Program::c("abc", &flags);
    check(&program.record(), "_start;", &[";main;a;b;c;wait_stub"]);
    Ok(())
}

pub fn static_pie() -> Outcome {
    let program = Program::c("abc", &["-static-pie", "-fomit-frame-pointer"]);
    check(&program.record(), "_start;", &[";main;a;b;c;wait_stub"]);
    Ok(())
}

pub fn rust() -> Outcome {
    let report = Program::rust().record();
    assert_nothing_lost(&report);
    let expected = "unwind::program::play_rust_chain;unwind::program::outer;unwind::program::middle;\
                    unwind::program::inner;std::thread::functions::sleep;";
    let sleeps = |stack: &&reports::offcpu::Stack| chain(stack).contains("inner");
    let asleep: Vec<_> = report.stacks.iter().filter(sleeps).collect();
    assert!(!asleep.is_empty(), "{report:#?}");
    for stack in asleep {
        let chain = chain(stack);
        let known = chain.replace("std::thread::sleep;", "std::thread::functions::sleep;");
        assert!(known.starts_with("_start;") && known.contains(expected), "{chain}");
        assert!(!stack.user_truncated);
    }
    Ok(())
}

pub fn large_frame() -> Outcome {
    let program = Program::c("large", &["-fomit-frame-pointer"]);
    let report = program.record();
    check(&report, "_start;", &[";main;left;large;wait_stub", ";main;right;large;wait_stub"]);
    // They take turns, and each sleeps once in its turn. Of the sleep that began before the recording the state is unknown.
    let sleeps = |caller: &str| -> u64 {
        let asleep = report.stacks.iter();
        let asleep = asleep.filter(|stack| matches!(stack.state, State::Interruptible | State::Unknown));
        asleep.filter(|stack| chain(stack).contains(caller)).map(|stack| stack.count).sum()
    };
    let (left, right) = (sleeps(";left;"), sleeps(";right;"));
    assert!(left.abs_diff(right) <= 1, "left {left} right {right}: {report:#?}");
    Ok(())
}

pub fn deleted() -> Outcome {
    let program = Program::c("abc", &["-fomit-frame-pointer"]);
    fs::remove_file(program.executable())?;
    check(&program.record(), "_start;", &[";main;a;b;c;wait_stub"]);
    Ok(())
}

pub fn debug_file() -> Outcome {
    let program = Program::stripped("abc", &["-fomit-frame-pointer"]);
    check(&program.record(), "_start;", &[";main;a;b;c;wait_stub"]);
    Ok(())
}

/// The program and its debug file lie on paths that lead nowhere in the test's own mount namespace.
pub fn own_mounts() -> Outcome {
    let program = Program::in_own_mounts("abc", &["-fomit-frame-pointer"]);
    check(&program.record(), "_start;", &[";main;a;b;c;wait_stub"]);
    Ok(())
}

/// The links in `/proc/PID/map_files` can be opened with CAP_SYS_ADMIN only; without it the way leads through
/// `/proc/PID/root`.
pub fn own_mounts_without_sys_admin() -> Outcome {
    let program = Program::in_own_mounts("abc", &["-fomit-frame-pointer"]);
    let missing = CapabilitySet::SYS_ADMIN | CapabilitySet::CHECKPOINT_RESTORE;
    check(&program.record_without(missing), "_start;", &[";main;a;b;c;wait_stub"]);
    Ok(())
}

pub fn made_at_run_time() -> Outcome {
    let program = Program::c("jit", &["-fomit-frame-pointer"]);
    let report = program.record();
    fs::remove_file(format!("/tmp/perf-{}.map", program.pid()))?;
    check(&report, "_start;", &[";main;made at run time;from_jit;a;b;c;wait_stub"]);
    Ok(())
}

/// Sixty frames of a kilobyte each: more than is copied.
pub fn deep() -> Outcome {
    let program = Program::c("deep", &["-fomit-frame-pointer"]);
    let report = program.record();
    assert_nothing_lost(&report);
    // Where it is preempted on the way down, the stack is not deep yet.
    let is_deep = |stack: &&reports::offcpu::Stack| {
        stack.state == State::Interruptible && stack.user.contains(&"deep".into())
    };
    let asleep: Vec<_> = report.stacks.iter().filter(is_deep).collect();
    assert!(!asleep.is_empty(), "{report:#?}");
    for stack in asleep {
        let deep = stack.user.iter().filter(|frame| *frame == "deep").count();
        assert!(stack.user_truncated && (25..=40).contains(&deep), "{stack:#?}");
        assert_eq!(stack.user[0], "wait_stub");
    }
    Ok(())
}

pub fn thread_and_signal() -> Outcome {
    let program = Program::c("thread", &["-fomit-frame-pointer"]);
    let report = program.record();
    let found = chains(&report);
    let in_thread = |chain: &String| chain.ends_with(";in_thread;a;b;c;wait_stub");
    assert!(found.iter().any(in_thread), "{found:#?}");
    let in_handler = |chain: &String| {
        chain.contains(";main;interrupted;") && chain.ends_with(";on_signal;a;b;c;wait_stub")
    };
    assert!(found.iter().any(in_handler), "{found:#?}");
    assert!(report.stacks.iter().all(|stack| !stack.user_truncated), "{report:#?}");
    Ok(())
}
