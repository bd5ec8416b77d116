//! User stacks of programs whose calls are known.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod chains;
mod debuginfod;
mod firecracker;
mod program;

use std::process::ExitCode;

use testkit::{Need, Test};

const BPF: &[Need] = &[Need::Root, Need::Btf];
const FIRECRACKER: &[Need] = &[Need::Root, Need::Btf, Need::Firecracker];

fn main() -> ExitCode {
    if program::is_rust_chain() {
        program::play_rust_chain();
    }
    let chain = |name, run| Test { name, needs: BPF, run };
    testkit::run(vec![
        chain("chains::c_without_frame_pointers", chains::without_frame_pointers),
        chain("chains::c_with_frame_pointers_and_nothing_else", chains::with_frame_pointers_only),
        chain("chains::static_pie", chains::static_pie),
        chain("chains::rust", chains::rust),
        chain("chains::a_frame_larger_than_a_page_hides_no_caller", chains::large_frame),
        chain("chains::a_program_deleted_while_it_runs", chains::deleted),
        chain("chains::a_stripped_program_with_a_debug_file", chains::debug_file),
        chain("chains::a_program_that_only_its_own_mounts_have", chains::own_mounts),
        chain(
            "chains::a_program_of_other_mounts_seen_without_cap_sys_admin",
            chains::own_mounts_without_sys_admin,
        ),
        chain("chains::code_made_at_run_time", chains::made_at_run_time),
        chain("chains::a_stack_over_32_kib_is_truncated", chains::deep),
        chain("chains::a_thread_and_a_signal_handler", chains::thread_and_signal),
        chain("debuginfod::symbols_are_fetched_once_by_build_id", debuginfod::fetched),
        chain("debuginfod::what_no_server_has_is_warned_of", debuginfod::not_there),
        chain("debuginfod::nobody_is_asked_while_anything_is_recorded", debuginfod::after_the_recording),
        chain("debuginfod::a_function_that_bounds_windows_is_found", debuginfod::window_function),
        chain(
            "debuginfod::a_function_that_no_server_has_is_told_with_why",
            debuginfod::window_function_not_there,
        ),
        chain("debuginfod::a_futex_word_is_named_by_its_variable", debuginfod::variable),
        Test {
            name: "firecracker::syscalls_outside_call_frame_information_have_one_offset",
            needs: &[Need::Firecracker],
            run: firecracker::offsets,
        },
        Test { name: "firecracker::stacks_are_whole", needs: FIRECRACKER, run: firecracker::whole },
    ])
}
