//! Through the command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use reports::offcpu::OffCpu;
use tempfile::TempDir;
use testkit::{Failed, Outcome};

use crate::subject::Subject;

pub fn probe(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forkd-probe"));
    command.args(arguments);
    command
}

/// A recording of `role`, with further arguments.
pub fn recording(role: &str, arguments: &[&str]) -> Result<(TempDir, PathBuf), Failed> {
    let subject = Subject::start(role);
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("recording");
    let pid = subject.pid().to_string();
    let mut command = probe(&["record", "--pid", &pid, "--duration", "500ms", "-o"]);
    let output = command.arg(&path).args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains(" records in "), "{said}");
    Ok((folder, path))
}

pub fn report(path: &Path, arguments: &[&str]) -> std::io::Result<Output> {
    probe(&["report"]).arg(path).args(arguments).output()
}

/// One line on standard error that holds `words`, and this exit code.
pub fn assert_refused(output: &Output, code: i32, words: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains(words), "{said}");
    assert!(output.stdout.is_empty());
}

pub fn every_report() -> Outcome {
    let (_folder, path) = recording("mutex", &[])?;
    for kind in ["offcpu", "futex", "syscalls"] {
        for format in ["table", "folded", "svg", "json"] {
            let output = report(&path, &["--as", kind, "--format", format])?;
            assert!(output.status.success(), "{kind} {format}: {output:?}");
            assert!(output.stdout.len() > 100, "{kind} {format}: {output:?}");
        }
    }
    Ok(())
}

pub fn killed() -> Outcome {
    let subject = Subject::start("pipes");
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("recording");
    let pid = subject.pid().to_string();
    let mut command = probe(&["record", "--pid", &pid, "--duration", "60s", "-o"]);
    let mut child = command.arg(&path).stderr(Stdio::null()).spawn()?;
    // The first block is what was there; the third holds two seconds of records.
    let begun = Instant::now();
    while blocks(&path) < 3 {
        assert!(begun.elapsed() < Duration::from_secs(60), "it writes no blocks");
        thread::sleep(Duration::from_millis(50));
    }
    child.kill()?;
    child.wait()?;
    let output = report(&path, &["--as", "offcpu", "--format", "json", "--partial"])?;
    assert!(output.status.success(), "{output:?}");
    let report: OffCpu = serde_json::from_slice(&output.stdout)?;
    assert!(report.warnings.iter().any(|warning| warning.contains("was cut off")), "{:?}", report.warnings);
    assert!(report.window_ns > 500_000_000, "{}", report.window_ns);
    let is_named =
        |stack: &reports::offcpu::Stack| stack.kernel.iter().any(|frame| frame.contains("pipe_read"));
    assert!(report.stacks.iter().any(is_named), "names are written as they occur: {report:#?}");
    Ok(())
}

/// Blocks that are whole.
fn blocks(path: &Path) -> usize {
    fs::read(path).map_or(0, |bytes| block_offsets(&bytes).len())
}

/// Where the whole blocks begin: behind a head of 16 bytes each, whose second number is the length of the rest.
fn block_offsets(bytes: &[u8]) -> Vec<usize> {
    let mut offsets = Vec::new();
    let mut at = 16;
    while let Some(length) = bytes.get(at + 4..at + 8) {
        let end = at + 16 + u32::from_le_bytes(length.try_into().unwrap()) as usize;
        if end > bytes.len() {
            break;
        }
        offsets.push(at);
        at = end;
    }
    offsets
}

pub fn broken() -> Outcome {
    let (_folder, path) = recording("pipes", &[])?;
    let whole = fs::read(&path)?;
    let last = *block_offsets(&whole).last().ok_or("no blocks")?;
    let check = |bytes: &[u8], words: &str| -> Outcome {
        let broken = path.with_extension("broken");
        fs::write(&broken, bytes)?;
        assert_refused(&report(&broken, &["--as", "offcpu"])?, 2, words);
        Ok(())
    };
    check(&whole[..whole.len() - 1], &format!("ends inside the block at byte {last}:"))?;
    check(&whole[..8], "does not begin as a recording")?;
    check(&whole[..16], "ends at byte 16, before the recording began")?;
    let mut flipped = whole.clone();
    flipped[last + 20] ^= 1;
    check(&flipped, &format!("is damaged at byte {last}:"))?;
    let mut later = whole.clone();
    later[8] = 200;
    check(&later, "version 200")?;
    let cut = path.with_extension("cut");
    fs::write(&cut, &whole[..whole.len() - 1])?;
    let output = report(&cut, &["--as", "offcpu", "--partial"])?;
    assert!(String::from_utf8_lossy(&output.stdout).contains("was cut off"), "{output:?}");
    Ok(())
}

pub fn calls() -> Outcome {
    let (_folder, path) = recording("pipes", &["--calls", "none"])?;
    assert!(report(&path, &["--as", "offcpu"])?.status.success());
    let words = "was recorded with --calls none, and this report needs --calls all";
    assert_refused(&report(&path, &["--as", "syscalls"])?, 2, words);
    assert_refused(&report(&path, &["--as", "futex", "--min-us", "5"])?, 2, "--as offcpu");
    Ok(())
}

pub fn overwrite() -> Outcome {
    let (_folder, path) = recording("pipes", &["--calls", "none"])?;
    let before = fs::read(&path)?;
    let output = probe(&["record", "--pid", "1", "--duration", "100ms", "-o"]).arg(&path).output()?;
    assert_refused(&output, 2, "is there already");
    assert_eq!(fs::read(&path)?, before);
    let other = path.with_extension("other");
    let output = probe(&["record", "--pid", "4194305", "-o"]).arg(&other).output()?;
    assert_refused(&output, 2, "no process 4194305");
    assert!(!other.exists(), "nothing is left of a recording that did not begin");
    Ok(())
}

pub fn no_recording() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("text");
    fs::write(&path, "this is a text, and no recording at all")?;
    assert_refused(&report(&path, &["--as", "offcpu"])?, 2, "does not begin as a recording");
    assert_refused(&report(&folder.path().join("none"), &["--as", "offcpu"])?, 2, "cannot read");
    Ok(())
}
