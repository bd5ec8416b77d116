//! Recordings in files: that their reports are those of the live commands, and what becomes of broken ones.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod devices;
mod equal;
mod files;
#[path = "../futex/roles.rs"]
#[expect(dead_code, reason = "the other binary reads what the other roles say")]
mod roles;
#[path = "../offcpu/subject.rs"]
mod subject;

use std::process::ExitCode;

use testkit::{Need, Test};

const BPF: &[Need] = &[Need::Root, Need::Btf];
const DISK: &[Need] = &[Need::Root, Need::Btf, Need::LoopExt4];
const THROTTLED: &[Need] = &[Need::Root, Need::Btf, Need::LoopExt4, Need::WritebackThrottling];

fn main() -> ExitCode {
    if let Some(role) = subject::role() {
        match role.as_str() {
            "mutex" => roles::play(&role),
            "writes" => devices::play(),
            _ => subject::play(&role),
        }
        return ExitCode::SUCCESS;
    }
    let bpf = |name, run| Test { name, needs: BPF, run };
    let throttled = |name, run| Test { name, needs: THROTTLED, run };
    testkit::run(vec![
        bpf("equal::offcpu_of_a_file_is_that_of_the_live_command", equal::offcpu),
        bpf("equal::offcpu_is_the_same_with_events_lost", equal::offcpu_with_loss),
        bpf("equal::futex_of_a_file_is_that_of_the_live_command", equal::futex),
        bpf("equal::syscalls_of_a_file_are_those_of_the_live_command", equal::syscalls),
        Test { name: "devices::io_of_a_file_is_that_of_the_live_command", needs: DISK, run: devices::io },
        throttled("devices::wbt_of_a_file_is_that_of_the_live_command", devices::wbt),
        throttled("devices::one_recording_serves_io_and_wbt_elsewhere", devices::reports_elsewhere),
        bpf("devices::report_of_devices_that_were_left_out_is_refused", devices::left_out),
        bpf("files::one_recording_serves_every_report_and_every_format", files::every_report),
        bpf("files::killed_recorder_leaves_what_can_be_read", files::killed),
        bpf("files::damaged_and_cut_files_are_refused_by_their_offset", files::broken),
        bpf("files::report_that_needs_what_was_not_recorded_is_refused", files::calls),
        bpf("files::recording_is_never_overwritten", files::overwrite),
        Test { name: "files::what_is_no_recording_is_refused", needs: &[], run: files::no_recording },
    ])
}
