//! Which tests run in the lab, and on which kernels.

/// One test, or all whose name begins like this.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    /// `package::binary`, as it is recorded.
    pub binary: &'static str,
    /// The beginning of the tests' names.
    pub tests: &'static str,
    /// Whether it belongs to the quick matrix, which `cargo xtask test` runs.
    pub is_quick: bool,
    /// The one kernel it runs on; `None` for every kernel.
    pub only_on: Option<&'static str>,
}

const fn quick(binary: &'static str, tests: &'static str) -> Suite {
    Suite { binary, tests, is_quick: true, only_on: None }
}

const fn full(binary: &'static str, tests: &'static str) -> Suite {
    Suite { binary, tests, is_quick: false, only_on: None }
}

/// A C program that a test compiles for itself where there is a compiler. Inside there is none: it is compiled
/// beforehand, and its path is in a variable.
#[derive(Clone, Copy, Debug)]
pub struct Compiled {
    /// The test binary that wants it.
    pub binary: &'static str,
    /// The variable.
    pub variable: &'static str,
    /// Its source, from the repository's root.
    pub source: &'static str,
}

/// All of them.
pub const COMPILED: &[Compiled] = &[Compiled {
    binary: "probes::explain",
    variable: "FORKD_TEST_EXPLAIN_SUBJECT",
    source: "probes/tests/explain/subject.c",
}];

/// In the order in which they run.
pub const SUITES: &[Suite] = &[
    quick("probes::ladder", "ladder::all_that_there_are_agree_at_once"),
    quick("probes::by_rung", "by_rung::"),
    quick("probes::by_rung", "refused::"),
    quick("probes::wbt", "by_rung::"),
    quick("probes::wbt", "wbt::the_dirty_pages_are_the_writers_and_the_device_has_a_target"),
    quick("probes::explain", "windows::"),
    quick("probes::offcpu", "offcpu::sleeper_through_the_whole_window_is_counted"),
    quick("probes::offcpu", "offcpu::waker_through_a_pipe_is_named"),
    quick("probes::offcpu", "offcpu::dropped_session_leaves_nothing_loaded"),
    quick("probes::futex", "futex::thread_parked_through_the_window_was_woken_by_nobody"),
    quick("probes::syscalls", "syscalls::threads_time_is_whole"),
    quick(PEER, "peer::"),
    quick("forkd::e2e", "memory::stage_diff"),
    quick("forkd::e2e", "sandboxes::limits_hold_and_their_groups_go_with_the_sandbox"),
    Suite {
        only_on: Some("6.12"),
        ..quick("forkd::e2e", "linux::a_child_goes_on_with_the_drive_of_the_pause")
    },
    full("probes::ladder", "ladder::"),
    full("probes::wbt", "wbt::"),
    full("probes::offcpu", "offcpu::"),
    full("probes::futex", "futex::"),
    full("probes::syscalls", "syscalls::"),
    full("probes::io", "io::"),
    full("forkd::e2e", "memory::"),
    full("forkd::e2e", "layers::"),
    full("forkd::e2e", "faults::"),
    Suite { only_on: Some("6.12"), ..full("forkd::e2e", LINUX_GUEST) },
];

/// The test binary that runs another project's tool beside ours.
pub const PEER: &str = "bench::peer";
/// Tests that boot a Linux guest, which has to be built.
pub const LINUX_GUEST: &str = "linux::";

/// What runs on a kernel. With a filter, suites of which a full name `lab-KERNEL::BINARY::TESTS` contains it.
pub fn chosen(kernel: &str, quick_only: bool, filter: Option<&str>) -> Vec<Suite> {
    let mut chosen: Vec<Suite> = Vec::new();
    for suite in SUITES {
        let is_wanted = (suite.is_quick || !quick_only)
            && suite.only_on.is_none_or(|only| only == kernel)
            && filter.is_none_or(|filter| suite.full_name(kernel).contains(filter));
        // What a later suite runs as well runs once.
        let is_covered = !quick_only
            && SUITES.iter().any(|other| {
                !other.is_quick
                    && other.binary == suite.binary
                    && suite.tests.starts_with(other.tests)
                    && suite.tests != other.tests
            });
        if is_wanted && !is_covered {
            chosen.push(*suite);
        }
    }
    chosen
}

impl Suite {
    /// What the names of its tests begin with in the record.
    pub fn full_name(&self, kernel: &str) -> String {
        format!("{}::{}", recorded_binary(kernel, self.binary), self.tests)
    }
}

/// The name of the same test outside the lab; `None` where it did not run in the lab.
pub fn outside(full_name: &str) -> Option<&str> {
    full_name.strip_prefix(PREFIX)?.split_once("::").map(|(_, name)| name)
}

/// The kernel of the lab on which a test ran; `None` where it did not run in the lab.
pub fn kernel_of(full_name: &str) -> Option<&str> {
    full_name.strip_prefix(PREFIX)?.split_once("::").map(|(kernel, _)| kernel)
}

/// The name under which a binary's tests are recorded that ran on a kernel of the lab.
pub fn recorded_binary(kernel: &str, binary: &str) -> String {
    format!("{PREFIX}{kernel}::{binary}")
}

const PREFIX: &str = "lab-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_recorded_by_its_kernel_and_found_again_without_it() {
        let name = format!("{}::linux::boots", recorded_binary("6.1", "forkd::e2e"));
        assert_eq!(name, "lab-6.1::forkd::e2e::linux::boots");
        assert_eq!(outside(&name), Some("forkd::e2e::linux::boots"));
        assert_eq!(kernel_of(&name), Some("6.1"));
        assert_eq!((outside(&name[9..]), kernel_of(&name[9..])), (None, None));
    }

    #[test]
    fn a_kernel_gets_what_is_meant_for_it_and_the_full_matrix_runs_nothing_twice() {
        let names = |suites: Vec<Suite>| -> Vec<String> {
            suites.iter().map(|suite| format!("{}::{}", suite.binary, suite.tests)).collect()
        };
        let linux = "forkd::e2e::linux::a_child_goes_on_with_the_drive_of_the_pause".to_owned();
        assert!(names(chosen("6.12", true, None)).contains(&linux));
        assert!(!names(chosen("6.1", true, None)).contains(&linux));
        let full = names(chosen("6.12", false, None));
        for (index, name) in full.iter().enumerate() {
            let covers = |other: &String| name.starts_with(other) || other.starts_with(name);
            assert!(!full[index + 1..].iter().any(covers), "{name} runs twice");
        }
        assert_eq!(names(chosen("6.12", true, Some("lab-6.12::forkd::e2e::linux"))), [linux]);
        assert!(chosen("6.12", true, Some("nothing is named so")).is_empty());
    }
}
