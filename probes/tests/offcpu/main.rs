//! Recordings of programs whose behaviour is known, set against the programs' own clocks.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod cli;
mod messages;
mod session;
mod subject;

use std::process::ExitCode;

use testkit::{Need, Test};

const BPF: &[Need] = &[Need::Root, Need::Btf];

fn main() -> ExitCode {
    // The programs that are watched are this one, started again in a role.
    if let Some(role) = subject::role() {
        subject::play(&role);
        return ExitCode::SUCCESS;
    }
    let session = |name, run| Test { name, needs: BPF, run };
    testkit::run(vec![
        session("offcpu::sleeps_agree_with_the_programs_own_clock", session::sleeps_agree),
        session("offcpu::sleeper_through_the_whole_window_is_counted", session::whole_window),
        session("offcpu::spinner_through_the_whole_window_is_on_cpu", session::spinner),
        session("offcpu::pinned_rivals_wait_for_the_cpu", session::rivals),
        session("offcpu::thread_born_inside_has_no_time_before", session::born_inside),
        session("offcpu::waker_through_a_pipe_is_named", session::waker_is_named),
        session("offcpu::timer_wakes_in_an_interrupt", session::timer_interrupt),
        session("offcpu::timeout_wakes_in_a_soft_interrupt", session::soft_interrupt),
        session("offcpu::whole_machine_is_recorded_but_for_the_recorder", session::whole_machine),
        session("offcpu::forced_loss_is_counted_exactly", session::forced_loss),
        session("offcpu::windows_are_cut_from_one_recording", session::windows),
        session("offcpu::dropped_session_leaves_nothing_loaded", session::dropped),
        session("messages::are_told_on_standard_error_where_asked_for", messages::told_where_asked_for),
        session("messages::cost_nothing_where_nobody_listens", messages::cost_nothing_where_nobody_listens),
        session("cli::process_that_ends_early_is_still_reported", cli::ends_early),
        session("cli::interrupt_ends_early_and_still_reports", cli::interrupted),
        session("cli::closed_pipe_is_no_error", cli::closed_pipe),
        session("cli::every_format_is_written_whole", cli::formats),
        Test { name: "cli::no_such_process_is_bad_input", needs: &[], run: cli::no_such_process },
        Test { name: "cli::unwritable_output_is_refused_first", needs: &[], run: cli::unwritable },
        Test { name: "cli::thread_id_is_refused_with_its_process", needs: &[], run: cli::thread_id },
        Test {
            name: "cli::command_that_is_not_there_is_refused",
            needs: &[],
            run: cli::command_that_is_not_there,
        },
        session("cli::command_is_watched_from_its_first_instruction", cli::command),
        session("cli::command_that_outlives_its_window_is_ended", cli::command_that_outlives_its_window),
        session("cli::several_processes_are_in_one_report", cli::several_processes),
        session("cli::thread_state_and_length_filter_the_stacks", cli::filters),
        session("cli::id_inside_a_namespace_is_refused_with_the_hosts", cli::inside_a_namespace),
        session("cli::doctor_tells_root_and_an_ordinary_user_what_works", cli::doctor),
        session("cli::rung_that_is_asked_for_is_used_and_named", cli::asked_rung),
        session("cli::without_capabilities_they_are_named", cli::ordinary_user),
        session("cli::one_missing_capability_is_named", cli::without_one_capability),
    ])
}
