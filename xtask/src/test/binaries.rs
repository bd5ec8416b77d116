//! Builds all test binaries with cargo and runs them one after the other.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::output::{self, Report, Verdict};
use super::record::Record;
use super::steps::TestsFailed;
use crate::{process, workspace};

/// More failures than this in one binary, or in the lab, are no accident of the host, and are not tried again.
pub const MOST_REPEATED: usize = 3;

/// One compiled test binary.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TestBinary {
    /// Integration tests share one host, its loop devices and its two file systems: one test at a time.
    pub is_integration: bool,
    /// `package::binary`, the beginning of the full names of its tests.
    pub name: String,
    /// The program.
    pub executable: PathBuf,
    /// Its package's folder, from which it is run.
    pub package_dir: PathBuf,
}

/// What the tests are told by environment variables.
pub struct Environment {
    /// The Firecracker binary to run.
    pub firecracker: Option<PathBuf>,
    /// The eBPF object to load instead of the committed one.
    pub bpf_object: Option<PathBuf>,
}

/// Compiles every test of the workspace; unit tests come first in the list.
pub fn build() -> Result<Vec<TestBinary>> {
    let mut command = workspace::cargo();
    command.args(["test", "--workspace", "--locked", "--no-run"]);
    command.arg("--message-format=json-render-diagnostics");
    println!("+ {}", process::line(&command));
    // Warnings and errors go to standard error, as text.
    let output = command.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the tests do not compile");
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut binaries: Vec<TestBinary> = messages.lines().filter_map(test_binary).collect();
    binaries.sort();
    Ok(binaries)
}

/// The test binary that one line of cargo's JSON tells of.
fn test_binary(message: &str) -> Option<TestBinary> {
    let message: Value = serde_json::from_str(message).ok()?;
    if message["profile"]["test"] != true {
        return None;
    }
    let target = &message["target"];
    let kind = target["kind"][0].as_str()?;
    let package = package_name(message["package_id"].as_str()?);
    let binary = if matches!(kind, "test" | "bench" | "example") {
        target["name"].as_str()?.to_owned()
    } else {
        // A library and a program may share a name.
        format!("{kind}-{}", target["name"].as_str()?)
    };
    Some(TestBinary {
        is_integration: kind == "test",
        name: format!("{package}::{binary}"),
        executable: message["executable"].as_str()?.into(),
        package_dir: Path::new(message["manifest_path"].as_str()?).parent()?.to_owned(),
    })
}

/// `forkd` of `path+file:///src/forkd#0.1.0`, and of `path+file:///src/daemon#forkd@0.1.0`.
fn package_name(package_id: &str) -> &str {
    let (source, version) = package_id.rsplit_once('#').unwrap_or((package_id, ""));
    match version.split_once('@') {
        Some((name, _)) => name,
        None => source.rsplit('/').next().unwrap_or(source),
    }
}

impl TestBinary {
    /// Runs its tests, passes their output through, and records how each ended. A test of the running system shares
    /// the host with everything on it: one that fails is run once more by itself, and is recorded as flaky if it
    /// passes then.
    pub fn run(&self, environment: &Environment, filter: Option<&str>, record: &mut Record) -> Result<()> {
        let (mut report, status) = self.report(environment, filter.as_slice())?;
        if self.is_integration {
            self.repeat_failed(environment, &mut report)?;
        }
        settle(&self.name, report, status, record)
    }

    /// The names of all its tests.
    pub fn list(&self) -> Result<Vec<String>> {
        let mut command = Command::new(&self.executable);
        command.current_dir(&self.package_dir).env("CARGO_MANIFEST_DIR", &self.package_dir).arg("--list");
        Ok(parse_list(&process::output(&mut command)?))
    }

    fn report(&self, environment: &Environment, arguments: &[&str]) -> Result<(Report, ExitStatus)> {
        let mut command = Command::new(&self.executable);
        // As `cargo test` does: a test may open files by a path that begins at its package.
        command.current_dir(&self.package_dir).env("CARGO_MANIFEST_DIR", &self.package_dir);
        if self.is_integration {
            command.arg("--test-threads=1");
        }
        report_of(&self.name, environment.apply_to(command.args(arguments)))
    }

    fn repeat_failed(&self, environment: &Environment, report: &mut Report) -> Result<()> {
        let failed: Vec<String> = report.failed().map(str::to_owned).collect();
        if failed.len() > MOST_REPEATED || !report.doubts.is_empty() {
            return Ok(());
        }
        for test in failed {
            println!("\nonce more by itself: {}::{test}", self.name);
            let (again, _) = self.report(environment, &["--exact", &test])?;
            if again.verdicts == [(test.clone(), Verdict::Passed)] {
                report.passed_when_repeated(&test);
            }
        }
        Ok(())
    }
}

/// The names in lines of the form `NAME: test`.
fn parse_list(said: &str) -> Vec<String> {
    said.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

/// Runs the examples in the documentation of every library.
pub fn run_doc_tests(environment: &Environment, filter: Option<&str>, record: &mut Record) -> Result<()> {
    let mut command = workspace::cargo();
    command.args(["test", "--workspace", "--locked", "--doc", "--no-fail-fast", "--"]).args(filter);
    println!("+ {}", process::line(&command));
    let (report, status) = report_of("workspace::doc", environment.apply_to(&mut command))?;
    settle("workspace::doc", report, status, record)
}

impl Environment {
    /// The variables and the files that they name.
    pub fn variables(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let all = [("FORKD_FIRECRACKER", &self.firecracker), ("FORKD_BPF_OBJECT", &self.bpf_object)];
        all.into_iter().filter_map(|(name, path)| Some((name, path.as_deref()?)))
    }

    fn apply_to<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.envs(self.variables())
    }
}

fn report_of(name: &str, command: &mut Command) -> Result<(Report, ExitStatus)> {
    let (said, status) = stream(command).with_context(|| format!("cannot run {name}"))?;
    Ok((output::parse(&said), status))
}

/// Records what a binary said; an error unless all is well.
fn settle(name: &str, report: Report, status: ExitStatus, record: &mut Record) -> Result<()> {
    let is_settled = status.success() || report.has_flaky();
    let failed = record.add(name, report);
    match (is_settled, failed) {
        (true, 0) => Ok(()),
        (_, 0) => bail!("{name} {}, and named no failed test", process::ending(status)),
        _ => Err(TestsFailed(format!("{failed} failed")).into()),
    }
}

/// Runs a command and returns its standard output, which is also passed through as it comes.
fn stream(command: &mut Command) -> Result<(String, ExitStatus)> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut said = Vec::new();
    let mut pipe = child.stdout.take().context("the child has no standard output")?;
    let mut chunk = [0; 8192];
    loop {
        let length = pipe.read(&mut chunk)?;
        if length == 0 {
            break;
        }
        said.extend_from_slice(&chunk[..length]);
        // Not to the stream itself: this module's own tests must not say what a run of tests would take for verdicts.
        print!("{}", String::from_utf8_lossy(&chunk[..length]));
        std::io::stdout().flush()?;
    }
    let status = child.wait()?;
    Ok((String::from_utf8_lossy(&said).into_owned(), status))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_package_is_named_by_its_id() {
        assert_eq!(package_name("path+file:///src/forkd#0.1.0"), "forkd");
        assert_eq!(package_name("path+file:///src/daemon#forkd@0.1.0"), "forkd");
    }

    #[test]
    fn test_binaries_are_found_among_cargos_messages() {
        let message = |kind: &str, is_test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"path+file:///src/forkd#0.1.0",
                "manifest_path":"/src/forkd/Cargo.toml","target":{{"kind":["{kind}"],"name":"api"}},
                "profile":{{"test":{is_test}}},"executable":"/target/debug/deps/api-1"}}"#
            )
        };
        let integration = test_binary(&message("test", true)).unwrap();
        assert!(integration.is_integration);
        assert_eq!(integration.name, "forkd::api");
        assert_eq!(integration.package_dir, Path::new("/src/forkd"));
        assert_eq!(test_binary(&message("lib", true)).unwrap().name, "forkd::lib-api");
        assert_eq!(test_binary(&message("bin", false)), None);
        assert_eq!(test_binary(r#"{"reason":"build-finished","success":true}"#), None);
    }

    #[test]
    fn tests_are_listed_by_name_and_nothing_else_is() {
        let said = "SKIP a: needs root\na::b: test\nc: benchmark\nd::e::f: test\n\n2 tests, 1 benchmark\n";
        assert_eq!(parse_list(said), ["a::b", "d::e::f"]);
    }

    /// Runs a script in the place of a test binary; in it, `$again` is set when it is to run one test only.
    fn run_script(script: &str, is_integration: bool) -> (Result<()>, Record) {
        let folder = tempfile::tempdir().unwrap();
        let executable = folder.path().join("tests");
        let prologue = "#!/bin/sh\ncase \"$*\" in *--exact*) again=yes;; esac\n";
        std::fs::write(&executable, format!("{prologue}{script}")).unwrap();
        std::fs::set_permissions(&executable, std::fs::Permissions::from_mode(0o755)).unwrap();
        let binary = TestBinary {
            is_integration,
            name: "p::b".to_owned(),
            executable,
            package_dir: folder.path().to_owned(),
        };
        let mut record = Record::default();
        let outcome = binary.run(&Environment { firecracker: None, bpf_object: None }, None, &mut record);
        (outcome, record)
    }

    const FAILS_ONCE: &str = "echo running 1 test\n\
        [ $again ] && echo 'test a ... ok' && echo 'test result: ok. 1 passed; 0 failed; 0 ignored' && exit\n\
        echo 'test a ... FAILED'; echo 'test result: FAILED. 0 passed; 1 failed; 0 ignored'; exit 101\n";

    #[test]
    fn a_test_of_the_running_system_that_passes_by_itself_is_flaky() {
        let (outcome, record) = run_script(FAILS_ONCE, true);
        outcome.unwrap();
        assert_eq!((&record.passed[..], record.failed.len()), (&["p::b::a".to_owned()][..], 0));
        assert_eq!(
            record.listing(),
            "flaky   p::b::a: failed, and passed when it was run once more by itself\n"
        );
    }

    #[test]
    fn a_unit_test_that_fails_has_failed() {
        let (outcome, record) = run_script(FAILS_ONCE, false);
        assert!(outcome.unwrap_err().is::<TestsFailed>());
        assert_eq!(record.failed, ["p::b::a"]);
    }

    #[test]
    fn a_test_that_fails_twice_or_is_one_of_many_has_failed() {
        let always = "echo running 1 test; echo 'test a ... FAILED'\n\
            echo 'test result: FAILED. 0 passed; 1 failed; 0 ignored'; exit 101\n";
        let many = "echo running 4 tests; for t in a b c d; do echo \"test $t ... FAILED\"; done\n\
            echo 'test result: FAILED. 0 passed; 4 failed; 0 ignored'; [ $again ] && echo again >&2; exit 101\n";
        for (script, failed) in [(always, 1), (many, 4)] {
            let (outcome, record) = run_script(script, true);
            assert!(outcome.unwrap_err().is::<TestsFailed>());
            assert_eq!((record.failed.len(), record.flaky.len()), (failed, 0));
        }
    }

    #[test]
    fn a_binary_that_fails_without_naming_a_test_fails_its_step() {
        let mut record = Record::default();
        let (report, status) = report_of("p::b", Command::new("sh").args(["-c", "exit 2"])).unwrap();
        let error = settle("p::b", report, status, &mut record).unwrap_err();
        assert!(!error.is::<TestsFailed>());
        assert_eq!(error.to_string(), "p::b ended with exit code 2, and named no failed test");
    }
}
