//! `forkd-bench gate` from the command line to its exit code: on files, and on real microVMs.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use bench::host::mountinfo;
use serde_json::Value;
use testkit::{Need, Outcome, Test, run};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    const VM: &[Need] = &[Need::Root, Need::Kvm, Need::Firecracker, Need::LoopExt4];
    const PROBE: &[Need] = &[Need::Root, Need::Kvm, Need::Firecracker, Need::LoopExt4, Need::Btf];
    let test = |name, needs, run| Test { name, needs, run };
    run(vec![
        test("gate::each_verdict_has_its_exit_code_and_its_files", &[], each_verdict),
        test("gate::bad_files_are_exit_2_with_file_line_and_column", &[], bad_files),
        test("gate::a_pull_request_gets_a_summary_and_an_annotation", &[], summary_and_annotation),
        test("gate::too_few_blocks_are_refused_at_the_start", &[], too_few_blocks),
        test(
            "gate::a_missing_firecracker_is_not_a_regression",
            &[Need::Root, Need::Kvm],
            missing_firecracker,
        ),
        test("gate::the_tree_against_itself_is_no_regression", VM, the_tree_against_itself),
        test("gate::the_fix_taken_out_is_a_regression", PROBE, the_fix_taken_out),
    ])
}

/// Folders of one test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Result<Self> {
        // On the disk: /tmp may be a tmpfs, which has no room for guests.
        Ok(Self(tempfile::Builder::new().prefix("forkd-gate-test-").tempdir_in("/var/tmp")?))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A CSV of the field's five columns: `trials` trials of 4 BRANCHes around `level_ms`.
    fn csv(&self, name: &str, trials: u32, level_ms: f64) -> Result<PathBuf> {
        let mut csv = "trial,branch_idx,pause_ms,diff_ms,diff_physical_bytes\n".to_owned();
        for trial in 1..=trials {
            for index in 1..=4 {
                let pause_ms =
                    level_ms * (1.0 + f64::from(trial * 7 % 10) * 0.004 + f64::from(index) * 0.001);
                writeln!(csv, "{trial},{index},{pause_ms},{},4096", pause_ms / 2.0)?;
            }
        }
        fs::write(self.path(name), csv)?;
        Ok(self.path(name))
    }

    fn gate(&self, baseline: &Path, candidate: &Path, out: &str, more: &[&str]) -> Result<Output> {
        let mut command = gate();
        command.arg("--baseline").arg(baseline).arg("--candidate").arg(candidate);
        Ok(command.arg("--out").arg(self.path(out)).args(more).output()?)
    }

    /// A quick gate on microVMs, with what it left checked.
    fn measure(&self, out: &str, more: &[&str]) -> Result<Output> {
        let (work, out) = (self.path("work"), self.path(out));
        let output =
            gate().args(["--quick", "--out"]).arg(&out).arg("--work-dir").arg(&work).args(more).output()?;
        let mounts = mountinfo::below(&work.canonicalize()?)?;
        assert!(mounts.is_empty(), "{mounts:?}");
        assert!(!work.join("arms").exists(), "the programs stayed");
        Ok(output)
    }

    fn result(&self, out: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&fs::read(self.path(out).join("gate.json"))?)?)
    }

    fn read(&self, out: &str, name: &str) -> Result<String> {
        Ok(fs::read_to_string(self.path(out).join(name))?)
    }
}

/// The command, without what a continuous integration around the test says.
fn gate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forkd-bench"));
    command.arg("gate").env_remove("GITHUB_ACTIONS").env_remove("GITHUB_STEP_SUMMARY");
    command
}

#[track_caller]
fn expect_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

fn each_verdict() -> Outcome {
    let folder = Folder::new()?;
    let a = folder.csv("a.csv", 12, 10.0)?;
    let check = |name: &str, level_ms, more: &[&str], code, class: &str, element: &str| -> Outcome {
        let b = folder.csv(&format!("{name}.csv"), 12, level_ms)?;
        if class == "INCONCLUSIVE" {
            // One trial far below the others: too much for so small an alpha.
            let csv = fs::read_to_string(&b)?;
            let low = |line: &str| {
                if line.starts_with("1,") {
                    format!("{},5,1,0\n", &line[..3])
                } else {
                    line.to_owned() + "\n"
                }
            };
            fs::write(&b, csv.lines().map(low).collect::<String>())?;
        }
        expect_code(&folder.gate(&a, &b, name, more)?, code);
        let result = folder.result(name)?;
        assert_eq!((&result["class"], &result["schema"]), (&class.into(), &"forkd.gate/1".into()));
        assert_eq!(result["cells"][0]["evidence"]["design"], "unpaired");
        assert!(folder.read(name, "gate.md")?.starts_with(&format!("## forkd gate: {class}\n")));
        let junit = folder.read(name, "gate.xml")?;
        assert_eq!(junit.matches("<testcase ").count(), 1, "{junit}");
        assert!(junit.contains(element), "{junit}");
        Ok(())
    };
    check("same", 10.0, &[], 0, "PASS", "failures=\"0\" errors=\"0\" skipped=\"0\"")?;
    check("slower", 15.0, &[], 3, "REGRESS", "<failure message=")?;
    check("faster", 5.0, &[], 0, "PASS", "failures=\"0\"")?;
    check("over_limit", 10.0, &["--limit-ms", "9"], 3, "REGRESS", "over the limit of 9 ms")?;
    check("open", 11.7, &["--alpha", "0.000001"], 4, "INCONCLUSIVE", "<skipped message=")?;
    check("warned", 11.7, &["--alpha", "0.000001", "--inconclusive=warn"], 0, "INCONCLUSIVE", "<skipped")?;
    Ok(())
}

fn bad_files() -> Outcome {
    let folder = Folder::new()?;
    let good = folder.csv("good.csv", 12, 10.0)?;
    let header = "trial,branch_idx,pause_ms,diff_ms,diff_physical_bytes";
    let check = |csv: &str, expected: &str| -> Outcome {
        let bad = folder.path("bad.csv");
        fs::write(&bad, csv)?;
        let output = folder.gate(&good, &bad, "out", &[])?;
        expect_code(&output, 2);
        let expected = format!("forkd-bench: {}, {expected}", bad.display());
        assert!(said(&output).starts_with(&expected), "{} is not {expected}", said(&output));
        assert!(!folder.path("out").join("gate.json").exists(), "nothing was judged");
        Ok(())
    };
    check(&format!("{header}\n1,1,NaN,1,1\n"), "line 2, column 'pause_ms': 'NaN' is not")?;
    check(&format!("{header}\n1,1,0,1,1\n"), "line 2, column 'pause_ms': '0' is not")?;
    check(
        &format!("{header}\n1,1,3,1\n"),
        "line 2, column 'diff_physical_bytes': it is missing: 4 fields, and the header has 5",
    )?;
    check("trial,pause_ms\n", "line 1, column 'branch_idx': it is missing")?;
    check(
        &format!("{header},machine\n1,1,3,1,1,x\n1,2,3,1,1,y\n"),
        "line 3, column 'machine': 'y' is not 'x'",
    )?;
    let cut = fs::read_to_string(&good)?;
    let cut = cut.trim_end().rsplit_once('\n').ok_or("one line")?.0;
    check(cut, "line 48, column 'branch_idx': trial 12 of pauses has BRANCH 1 to 3, others have 1 to 4")?;
    let missing = folder.gate(&good, &folder.path("missing.csv"), "out", &[])?;
    expect_code(&missing, 2);
    Ok(())
}

fn summary_and_annotation() -> Outcome {
    let folder = Folder::new()?;
    let (a, b) = (folder.csv("a.csv", 12, 10.0)?, folder.csv("b.csv", 12, 15.0)?);
    let summary = folder.path("summary.md");
    fs::write(&summary, "before\n")?;
    let mut command = gate();
    command.env("GITHUB_ACTIONS", "true").env("GITHUB_STEP_SUMMARY", &summary);
    command.arg("--baseline").arg(&a).arg("--candidate").arg(&b).arg("--out").arg(folder.path("out"));
    let output = command.output()?;
    expect_code(&output, 3);
    assert!(fs::read_to_string(&summary)?.starts_with("before\n## forkd gate: REGRESS\n"));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let annotations: Vec<&str> = printed.lines().filter(|line| line.starts_with("::")).collect();
    assert_eq!(annotations.len(), 1, "{printed}");
    let escaped = "::error title=forkd gate%3A REGRESS::pauses: REGRESS (12 of 12 trials an arm, unpaired): the pause \
                   is +50.0 %25 against the baseline's";
    assert!(annotations[0].starts_with(escaped), "{}", annotations[0]);
    // A result is not overwritten.
    expect_code(&command.output()?, 2);
    Ok(())
}

fn too_few_blocks() -> Outcome {
    let folder = Folder::new()?;
    let few = folder.csv("few.csv", 6, 10.0)?;
    let output = folder.gate(&few, &few, "out", &[])?;
    expect_code(&output, 2);
    assert!(
        said(&output).ends_with("6 trials of an arm cannot reach p < 0.01: take 8 or more"),
        "{}",
        said(&output)
    );
    let measured = gate().args(["--b-data-path", "naive", "--blocks", "6"]).output()?;
    expect_code(&measured, 2);
    assert_eq!(said(&measured), "forkd-bench: 6 blocks cannot reach p < 0.01: take 8 or more (--blocks 8)");
    let cells = ["--b-data-path", "naive", "--cell", "stage@tmpfs,direct@tmpfs,uring@tmpfs,fallocate@tmpfs"];
    let several = gate().args(cells).args(["--blocks", "8"]).output()?;
    expect_code(&several, 2);
    assert!(
        said(&several).ends_with("split over 4 cells: take 9 or more (--blocks 9)"),
        "{}",
        said(&several)
    );
    let looks = gate().args(["--b-data-path", "naive", "--alpha", "0.001"]).output()?;
    expect_code(&looks, 2);
    assert_eq!(
        said(&looks),
        "forkd-bench: 10 blocks at the first look cannot reach p < 0.00033, which is 0.001 split over 3 looks: take 10 or \
         more at one look (--blocks 10)"
    );
    expect_code(&gate().output()?, 2);
    Ok(())
}

/// 3 is a verdict here, and nothing else may be it.
fn missing_firecracker() -> Outcome {
    let output = gate().args(["--b-data-path", "naive", "--firecracker", "/nonexistent"]).output()?;
    expect_code(&output, 1);
    Ok(())
}

/// At p < 0.001, so that this test is no lottery; and not by host, load or luck may it end REGRESS.
fn the_tree_against_itself() -> Outcome {
    let folder = Folder::new()?;
    let forkd = forkd()?;
    let arguments = ["--a", &forkd, "--b", &forkd, "--alpha", "0.001"];
    let output = folder.measure("out", &arguments)?;
    let class = folder.result("out")?["class"].clone();
    assert_ne!(class, "REGRESS", "{}", folder.read("out", "gate.md")?);
    let code = output.status.code();
    assert!(matches!(code, Some(0 | 4 | 5)), "{code:?}: {}", said(&output));
    let result = folder.result("out")?;
    assert_eq!(result["cells"][0]["evidence"]["blocks"], 10);
    // What it measured is judged alike when it is read again.
    let (a, b) = (folder.path("out").join("a.csv"), folder.path("out").join("b.csv"));
    let again = folder.gate(&a, &b, "again", &["--alpha", "0.001"])?;
    assert_eq!(again.status.code(), code, "{}", said(&again));
    let evidence = |result: &Value| result["cells"][0]["evidence"].clone();
    assert_eq!(evidence(&folder.result("again")?), evidence(&result));
    assert_eq!(evidence(&result)["design"], "paired");
    Ok(())
}

/// `stage` against `naive`: a switch at run time, and no second build.
fn the_fix_taken_out() -> Outcome {
    let folder = Folder::new()?;
    forkd()?;
    let arguments = ["--a-data-path", "stage", "--b-data-path", "naive"];
    // An invalid measurement says nothing, and is taken again.
    for out in ["one", "two", "three"] {
        let output = folder.measure(out, &arguments)?;
        if output.status.code() == Some(5) {
            println!("{out}: {}", folder.read(out, "gate.md")?);
            continue;
        }
        expect_code(&output, 3);
        let result = folder.result(out)?;
        assert_eq!(result["class"], "REGRESS");
        assert_eq!(result["cells"][0]["growth"][0]["name"], "create", "{}", result["cells"][0]["growth"]);
        let fsync = |stack: &Value| stack["kernel"].to_string().contains("fsync");
        assert!(
            result["stacks"].as_array().is_some_and(|stacks| stacks.iter().any(fsync)),
            "{}",
            result["stacks"]
        );
        assert!(folder.read(out, "offcpu-difference.svg")?.contains("<svg"));
        return Ok(());
    }
    Err("three invalid measurements in a row".into())
}

/// The daemon that the program finds beside itself.
fn forkd() -> Result<String> {
    let path = Path::new(env!("CARGO_BIN_EXE_forkd-bench")).with_file_name("forkd");
    match path.is_file() {
        true => Ok(path.display().to_string()),
        false => Err(format!("{} is missing: cargo build -p forkd", path.display()).into()),
    }
}
