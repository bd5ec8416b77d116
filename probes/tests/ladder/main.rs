//! Every way of seeing switches that this kernel has, attached at once to one run, and set against each other.
//!
//! The binary needs nothing beside it: it can be copied to another machine and run there.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod agreement;
mod hooks;
mod spans;
mod subject;

use std::process::ExitCode;

use hooks::{mount_tracefs, needs, refusal};
use probes::recording::SwitchRung;
use testkit::Test;

/// The rungs whose hooks this kernel has.
fn available() -> Vec<SwitchRung> {
    SwitchRung::ALL.into_iter().filter(|rung| refusal(*rung).is_none()).collect()
}

fn main() -> ExitCode {
    if let Some(role) = subject::role() {
        subject::play(&role);
        return ExitCode::SUCCESS;
    }
    mount_tracefs();
    let test = |name, rung, run| Test { name, needs: needs(rung), run };
    testkit::run(vec![
        test("ladder::tp_btf_agrees", SwitchRung::TpBtf, || agreement::agrees(SwitchRung::TpBtf)),
        test("ladder::raw_tracepoint_agrees", SwitchRung::RawTracepoint, || {
            agreement::agrees(SwitchRung::RawTracepoint)
        }),
        test("ladder::tracepoint_agrees", SwitchRung::Tracepoint, || {
            agreement::agrees(SwitchRung::Tracepoint)
        }),
        test("ladder::fentry_agrees", SwitchRung::Fentry, || agreement::agrees(SwitchRung::Fentry)),
        test("ladder::kprobe_agrees", SwitchRung::Kprobe, || agreement::agrees(SwitchRung::Kprobe)),
        test("ladder::all_that_there_are_agree_at_once", SwitchRung::TpBtf, agreement::all_at_once),
        test(
            "ladder::tracepoint_needs_no_type_information",
            SwitchRung::Tracepoint,
            agreement::without_types,
        ),
        test("ladder::first_rung_is_taken_and_named", SwitchRung::TpBtf, agreement::first_rung),
    ])
}
