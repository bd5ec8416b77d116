//! Which tests run in the lab, and on which kernels.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::test::binaries::TestBinary;

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

/// What runs of a suite: all of it, or one test where a filter asks for less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// `package::binary`, as it is recorded.
    pub binary: &'static str,
    /// The beginning of the tests' names, or the whole name of one.
    pub tests: String,
    /// Whether it is the name of one.
    pub is_one_test: bool,
}

/// The names of all tests of the binaries that the lab runs, by `package::binary`.
pub type TestNames = BTreeMap<String, Vec<String>>;

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
    quick("forkd::e2e", "sandboxes::limits_outlive_a_crash_and_their_groups_go_with_the_sandbox"),
    quick("forkd::e2e", "sandboxes::a_kill_for_want_of_memory_is_told_as_such"),
    Suite {
        only_on: Some("6.12"),
        ..quick("forkd::e2e", "linux::a_child_goes_on_with_the_drive_of_the_pause")
    },
    Suite {
        only_on: Some("6.12"),
        ..quick("forkd::e2e", "linux::two_children_draw_different_random_numbers")
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
    full("forkd::e2e", "preallocation::"),
    full("forkd::e2e", "bad_input::"),
    full("forkd::e2e", "pack::"),
    full("forkd::e2e", "sandboxes::"),
    full("forkd::e2e", "service::"),
    full("forkd::e2e", "attribution::"),
    full("forkd::e2e", "explain::"),
    full("bench::battery", "battery::a_cpu_quota_is_named"),
    full("bench::battery", "battery::the_freezer_is_named"),
    Suite { only_on: Some("6.12"), ..full("forkd::e2e", LINUX_GUEST) },
];

/// The test binary that runs another project's tool beside ours.
pub const PEER: &str = "bench::peer";
/// Tests that boot a Linux guest, which has to be built.
pub const LINUX_GUEST: &str = "linux::";

/// What runs on a kernel. With a filter, suites of which the full name `lab-KERNEL::BINARY::TESTS` contains it, and of
/// the others those of their tests whose full names do.
pub fn chosen(kernel: &str, quick_only: bool, filter: Option<&str>, names: &TestNames) -> Vec<Selection> {
    let mut chosen: Vec<Selection> = Vec::new();
    for suite in SUITES {
        let is_meant = (suite.is_quick || !quick_only) && suite.only_on.is_none_or(|only| only == kernel);
        if is_meant && (quick_only || !suite.is_part_of_another()) {
            chosen.extend(suite.selected(kernel, filter, names));
        }
    }
    chosen
}

/// Asks the test binaries that the lab runs for the names of their tests; those that were not built have none.
pub fn list_tests(binaries: &[TestBinary]) -> Result<TestNames> {
    let is_of_the_lab = |binary: &&TestBinary| SUITES.iter().any(|suite| suite.binary == binary.name);
    let list = |binary: &TestBinary| {
        let names = binary.list().with_context(|| format!("cannot list the tests of {}", binary.name))?;
        Ok((binary.name.clone(), names))
    };
    binaries.iter().filter(is_of_the_lab).map(list).collect()
}

impl Suite {
    /// What the full matrix runs in another suite as well runs once.
    fn is_part_of_another(&self) -> bool {
        SUITES.iter().any(|other| {
            !other.is_quick
                && other.binary == self.binary
                && self.tests.starts_with(other.tests)
                && self.tests != other.tests
        })
    }

    fn selected(&self, kernel: &str, filter: Option<&str>, names: &TestNames) -> Vec<Selection> {
        let selection = |tests: &str, is_one_test| Selection {
            binary: self.binary,
            tests: tests.to_owned(),
            is_one_test,
        };
        let is_wanted =
            |selection: &Selection| filter.is_none_or(|filter| selection.full_name(kernel).contains(filter));
        let whole = selection(self.tests, false);
        if is_wanted(&whole) {
            return vec![whole];
        }
        let names = names.get(self.binary).map(Vec::as_slice).unwrap_or_default();
        let below = names.iter().filter(|name| name.starts_with(self.tests));
        below.map(|name| selection(name, true)).filter(is_wanted).collect()
    }
}

impl Selection {
    /// What the names of its tests begin with in the record.
    pub fn full_name(&self, kernel: &str) -> String {
        format!("{}::{}", recorded_binary(kernel, self.binary), self.tests)
    }

    /// The full names of its tests, or what they begin with where they are not known.
    pub fn full_names(&self, kernel: &str, names: &TestNames) -> Vec<String> {
        let names = names.get(self.binary).map(Vec::as_slice).unwrap_or_default();
        let below = names.iter().filter(|name| name.starts_with(&self.tests));
        let binary = recorded_binary(kernel, self.binary);
        let full: Vec<String> = below.map(|name| format!("{binary}::{name}")).collect();
        if full.is_empty() { vec![self.full_name(kernel)] } else { full }
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

    fn names() -> TestNames {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        TestNames::from([
            (
                "probes::by_rung".to_owned(),
                list(&["by_rung::futex::kprobe", "by_rung::offcpu::kprobe", "by_rung::offcpu::tp_btf"]),
            ),
            (
                "forkd::e2e".to_owned(),
                list(&[
                    "sandboxes::limits_hold_and_their_groups_go_with_the_sandbox",
                    "out_of_the_lab::a_test",
                ]),
            ),
        ])
    }

    fn chosen_names(kernel: &str, quick_only: bool, filter: Option<&str>) -> Vec<String> {
        let shown = |selection: &Selection| {
            let alone = if selection.is_one_test { ", alone" } else { "" };
            format!("{}::{}{alone}", selection.binary, selection.tests)
        };
        chosen(kernel, quick_only, filter, &names()).iter().map(shown).collect()
    }

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
        let linux = "forkd::e2e::linux::a_child_goes_on_with_the_drive_of_the_pause".to_owned();
        assert!(chosen_names("6.12", true, None).contains(&linux));
        assert!(!chosen_names("6.1", true, None).contains(&linux));
        let full = chosen_names("6.12", false, None);
        for (index, name) in full.iter().enumerate() {
            let covers = |other: &String| name.starts_with(other) || other.starts_with(name);
            assert!(!full[index + 1..].iter().any(covers), "{name} runs twice");
        }
    }

    #[test]
    fn a_filter_takes_whole_suites_and_of_others_the_tests_that_match() {
        let both = chosen_names("6.12", true, Some("lab-6.12::forkd::e2e::linux"));
        assert_eq!(both.len(), 2);
        assert!(both.iter().all(|name| name.starts_with("forkd::e2e::linux::")), "{both:?}");
        assert_eq!(
            chosen_names("6.1", false, Some("6.1::probes::by_rung::by_rung")),
            ["probes::by_rung::by_rung::"]
        );
        assert_eq!(
            chosen_names("6.1", true, Some("kprobe")),
            [
                "probes::by_rung::by_rung::futex::kprobe, alone",
                "probes::by_rung::by_rung::offcpu::kprobe, alone",
            ]
        );
        // A suite of one test that the full matrix runs as part of another.
        assert_eq!(
            chosen_names("6.1", false, Some("limits_hold")),
            ["forkd::e2e::sandboxes::limits_hold_and_their_groups_go_with_the_sandbox, alone"]
        );
        assert!(chosen_names("6.1", false, Some("out_of_the_lab")).is_empty());
    }

    #[test]
    fn tests_that_did_not_run_are_named_one_by_one_where_they_are_known() {
        let selection = |tests: &str| Selection {
            binary: "probes::by_rung",
            tests: tests.to_owned(),
            is_one_test: false,
        };
        assert_eq!(
            selection("by_rung::").full_names("6.1", &names()),
            [
                "lab-6.1::probes::by_rung::by_rung::futex::kprobe",
                "lab-6.1::probes::by_rung::by_rung::offcpu::kprobe",
                "lab-6.1::probes::by_rung::by_rung::offcpu::tp_btf",
            ]
        );
        assert_eq!(selection("m::").full_names("6.1", &names()), ["lab-6.1::probes::by_rung::m::"]);
    }
}
