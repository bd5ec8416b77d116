//! `forkd-bench floor` on real microVMs, from the command line to the files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use bench::host::mountinfo;
use serde_json::Value;
use testkit::{Need, Outcome, Test, run};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    const VM: &[Need] = &[Need::Root, Need::Kvm, Need::Firecracker, Need::LoopExt4];
    let test = |name, needs, run| Test { name, needs, run };
    run(vec![
        test("floor::every_branch_of_both_arms_is_a_row_with_what_it_wrote", VM, rows_and_files),
        test("floor::a_result_is_not_overwritten", VM, not_overwritten),
    ])
}

const DIRTY_BYTES: u64 = 256 * 4096;

fn floor(folder: &Path, arguments: &str) -> Result<Output> {
    let forkd = Path::new(env!("CARGO_BIN_EXE_forkd-bench")).with_file_name("forkd");
    if !forkd.is_file() {
        return Err(format!("{} is missing: cargo build -p forkd", forkd.display()).into());
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_forkd-bench"));
    command.args(["floor", "--mem-mib", "64", "--dirty-pages", "256", "--gap-ms", "0"]);
    command.arg("--work-dir").arg(folder.join("work")).arg("--out").arg(folder.join("out"));
    Ok(command.args(arguments.split_whitespace()).output()?)
}

fn folder() -> Result<(tempfile::TempDir, PathBuf)> {
    // On the disk: /tmp may be a tmpfs, which has no room for guests.
    let folder = tempfile::Builder::new().prefix("forkd-floor-test-").tempdir_in("/var/tmp")?;
    let path = folder.path().canonicalize()?;
    Ok((folder, path))
}

fn rows_and_files() -> Outcome {
    let (_folder, path) = folder()?;
    let output = floor(&path, "--pairs 4 --blocks 1 --block-branches 3 --block-gap-ms 0 --children 3")?;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let csv = fs::read_to_string(path.join("out/floor.csv"))?;
    let rows: Vec<Vec<&str>> = csv.lines().skip(1).map(|line| line.split(',').collect()).collect();
    let of = |arm: &str, set: &str| rows.iter().filter(|row| row[0] == arm && row[1] == set).count();
    for set in ["repeated", "moving"] {
        assert_eq!((of("floor", set), of("stage", set)), (4, 4), "{csv}");
    }
    assert_eq!(of("naive", "repeated"), 3, "{csv}");
    for row in &rows {
        let number = |at: usize| row[at].parse::<u64>();
        assert_eq!(number(3)?, number(4)? + number(5)? + number(6)?, "{row:?}");
        // What the guest was told to dirty, a few pages of its own, and not the whole guest: the floor's memfd
        // counts what was written, and not what was allocated.
        assert!((DIRTY_BYTES..DIRTY_BYTES + (1 << 20)).contains(&number(7)?), "{row:?}");
        match row[0] {
            "floor" => assert!(number(8)? < 256 << 10, "the floor wrote to the disk: {row:?}"),
            "stage" => assert!(number(8)? >= DIRTY_BYTES, "not all of it reached the disk: {row:?}"),
            _ => assert_eq!(row[8], "", "{row:?}"),
        }
    }
    let run: Value = serde_json::from_slice(&fs::read(path.join("out/floor.json"))?)?;
    assert!(run["ended_early_by"].is_null() && run["extras"]["children_ms"].is_f64(), "{run}");
    assert!(run["extras"]["staged_bytes"][0].as_u64() >= Some(DIRTY_BYTES), "{run}");
    assert!(fs::read_to_string(path.join("out/floor.md"))?.contains("p50 of stage / p50 of floor"));
    assert!(fs::read(path.join("out/floor.png"))?.starts_with(b"\x89PNG"));
    let mounts = mountinfo::below(&path)?;
    assert!(mounts.is_empty(), "{mounts:?}");
    Ok(())
}

fn not_overwritten() -> Outcome {
    let (_folder, path) = folder()?;
    fs::create_dir_all(path.join("out"))?;
    fs::write(path.join("out/floor.csv"), "precious")?;
    assert_eq!(floor(&path, "--quick")?.status.code(), Some(2));
    assert_eq!(fs::read(path.join("out/floor.csv"))?, b"precious");
    Ok(())
}
