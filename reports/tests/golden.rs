//! Every rendering of a recorded report equals the file under `tests/golden`. After a wanted change run
//! `BLESS=1 cargo test -p reports --test golden`, and look at the files before committing them.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::fs;
use std::path::PathBuf;

use reports::explain::{self, Explain, Form};
use reports::futex::Futex;
use reports::offcpu::{Format, OffCpu, render};
use reports::plot::{Words, distribution_png, phases_png, sweep_png, written_png};
use reports::run::Run;
use reports::sweep::{self, Sweep};
use reports::sweep_report::{Measured, Picture, SweepReport, html, markdown};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Compares through `view`, so that a difference is shown in the file's own terms.
fn check<T: PartialEq + std::fmt::Debug>(name: &str, bytes: &[u8], view: impl Fn(&[u8]) -> T) {
    let path = golden(name);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, bytes).unwrap();
    }
    let expected = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if view(bytes) != view(&expected) {
        let actual = std::env::temp_dir().join(format!("actual-{name}"));
        fs::write(&actual, bytes).unwrap();
        panic!("{} differs from {}", actual.display(), path.display());
    }
}

fn lines(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect()
}

/// Size and pixels: another encoder may pack the same picture into other bytes.
fn pixels(file: &[u8]) -> (u32, u32, Vec<u8>) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut pixels).unwrap();
    (frame.width, frame.height, pixels)
}

fn offcpu(format: Format) -> Vec<u8> {
    let report: OffCpu = serde_json::from_slice(&fs::read(golden("offcpu.json")).unwrap()).unwrap();
    render(&report, format).unwrap()
}

fn explain(form: Form) -> Vec<u8> {
    let report: Explain = serde_json::from_slice(&fs::read(golden("explain.json")).unwrap()).unwrap();
    explain::render(&report, form).unwrap()
}

#[test]
fn explain_text() {
    check("explain.txt", &explain(Form::Text), lines);
}

#[test]
fn explain_flame_graph() {
    check("explain.svg", &explain(Form::Svg), lines);
}

#[test]
fn explain_timeline() {
    check("explain.perfetto.json", &explain(Form::Perfetto), lines);
}

#[test]
fn off_cpu_table() {
    check("offcpu.txt", &offcpu(Format::Table), lines);
}

#[test]
fn off_cpu_folded_stacks() {
    check("offcpu.folded", &offcpu(Format::Folded), lines);
}

#[test]
fn off_cpu_flame_graph() {
    check("offcpu.svg", &offcpu(Format::Svg), lines);
}

/// A report of any kind from its golden file, drawn.
macro_rules! drawn {
    ($kind:ident, $model:ident, $format:expr) => {{
        let name = concat!(stringify!($kind), ".json");
        let report: reports::$kind::$model =
            serde_json::from_slice(&fs::read(golden(name)).unwrap()).unwrap();
        reports::$kind::render(&report, $format).unwrap()
    }};
}

/// No line of a table is wider than the narrowest terminal.
fn fits(table: &[u8]) {
    for line in lines(table) {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn system_calls_table_and_stacks() {
    let table = drawn!(syscalls, Syscalls, Format::Table);
    fits(&table);
    check("syscalls.txt", &table, lines);
    check("syscalls.folded", &drawn!(syscalls, Syscalls, Format::Folded), lines);
}

#[test]
fn polled_stacks_table_and_stacks() {
    let table = drawn!(stacks, Stacks, Format::Table);
    fits(&table);
    check("stacks.txt", &table, lines);
    check("stacks.folded", &drawn!(stacks, Stacks, Format::Folded), lines);
}

#[test]
fn block_io_table_and_stacks() {
    let table = drawn!(io, Io, Format::Table);
    fits(&table);
    check("io.txt", &table, lines);
    check("io.folded", &drawn!(io, Io, Format::Folded), lines);
}

#[test]
fn writeback_throttling_table_and_stacks() {
    let table = drawn!(wbt, Wbt, Format::Table);
    fits(&table);
    check("wbt.txt", &table, lines);
    check("wbt.folded", &drawn!(wbt, Wbt, Format::Folded), lines);
}

#[test]
fn samples_table_and_stacks() {
    let table = drawn!(oncpu, OnCpu, Format::Table);
    fits(&table);
    check("oncpu.txt", &table, lines);
    check("oncpu.folded", &drawn!(oncpu, OnCpu, Format::Folded), lines);
}

/// Only what a reader sees above the graph: golden files hold the stacks as text.
#[test]
fn flame_graphs_of_futexes_and_calls_name_their_hooks_and_losses() {
    let subtitle = "tp_btf/sched_switch, tp_btf/sys_enter, tp_btf/sys_exit; no event lost<";
    for svg in [futex(Format::Svg), drawn!(syscalls, Syscalls, Format::Svg)] {
        let svg = String::from_utf8(svg).unwrap();
        assert!(svg.contains(subtitle), "{svg}");
    }
}

fn futex(format: Format) -> Vec<u8> {
    let report: Futex = serde_json::from_slice(&fs::read(golden("futex.json")).unwrap()).unwrap();
    reports::futex::render(&report, format).unwrap()
}

#[test]
fn futex_table() {
    check("futex.txt", &futex(Format::Table), lines);
}

#[test]
fn futex_folded_stacks() {
    check("futex.folded", &futex(Format::Folded), lines);
}

/// The golden sweep, with what later sweeps know of a device beside it.
fn sweep() -> Sweep {
    let mut sweep = sweep::read("sweep.csv", fs::File::open(golden("sweep.csv")).unwrap()).unwrap();
    for sample in sweep.samples.iter_mut().filter(|sample| sample.root != "tmpfs") {
        let copied_bytes = u64::from(sample.mem_mib) << 20;
        let share = u64::from(sample.branch_idx + sample.trial);
        sample.circumstances.disk_written_bytes = Some(copied_bytes * share / 8);
    }
    sweep
}

#[test]
fn sweep_pictures() {
    let words = Words {
        title: "Pause of consecutive diff BRANCHes".to_owned(),
        caption: "512 MiB guest, 16 MiB dirtied 3 s before each BRANCH, 3 trials, Linux 6.18".to_owned(),
    };
    check("sweep.png", &sweep_png(&sweep(), &words).unwrap(), pixels);
    check("distribution.png", &distribution_png(&sweep(), &words).unwrap(), pixels);
    check("phases.png", &phases_png(&sweep(), &words).unwrap(), pixels);
    check("written.png", &written_png(&sweep(), &words).unwrap(), pixels);
}

#[test]
fn sweep_report_text() {
    let run: Run = serde_json::from_slice(&fs::read(golden("run.json")).unwrap()).unwrap();
    let measured = Measured { label: "one".to_owned(), run: Some(run), sweep: sweep() };
    let report = SweepReport::new(vec![measured]);
    // The pictures have golden files of their own.
    let pictures: Vec<Picture> = report.pictures().unwrap();
    let without_pixels = pictures.into_iter().map(|picture| Picture { png: b"pixels".to_vec(), ..picture });
    let pictures: Vec<Picture> = without_pixels.collect();
    check("sweep_report.md", markdown(&report, &pictures).as_bytes(), lines);
    check("sweep_report.html", html(&report, &pictures, b"samples").as_bytes(), lines);
}
