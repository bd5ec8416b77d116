//! What the BPF programs say of themselves.

use std::collections::HashSet;
use std::fs;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use aya::programs::loaded_programs;
use log::{Log, Metadata, Record};
use probes::offcpu::{Options, Session};
use reports::offcpu::OffCpu;
use testkit::Outcome;

use crate::subject::Subject;

/// Whatever has been said in this process.
struct Said(Mutex<Vec<String>>);

static SAID: Said = Said(Mutex::new(Vec::new()));

impl Log for Said {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

fn probe(subject: &Subject, arguments: &[&str]) -> std::io::Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forkd-probe"));
    command.args(["offcpu", "--duration", "300ms", "--format", "json", "--pid", &subject.pid().to_string()]);
    command.args(arguments).output()
}

pub fn told_where_asked_for() -> Outcome {
    let subject = Subject::start("naps");
    let quiet = probe(&subject, &[])?;
    assert!(quiet.status.success() && quiet.stderr.is_empty(), "{quiet:?}");
    let output = probe(&subject, &["--log-bpf"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("forkd-probe: bpf: first record"), "{said}");
    assert!(said.lines().all(|line| line.starts_with("forkd-probe: bpf: ")), "{said}");
    let report: OffCpu = serde_json::from_slice(&output.stdout)?;
    assert!(report.threads.iter().any(|thread| thread.comm == "napper"), "{report:#?}");
    Ok(())
}

/// The size of the largest program of this name that this process holds, translated.
fn largest(name: &str) -> u32 {
    let links = fs::read_dir("/proc/self/fdinfo").unwrap().filter_map(Result::ok);
    let texts = links.filter_map(|link| fs::read_to_string(link.path()).ok());
    let id = |text: String| text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok());
    let held: HashSet<u32> = texts.filter_map(id).collect();
    let ours = loaded_programs().filter_map(Result::ok).filter(|info| held.contains(&info.id()));
    let named = ours.filter(|info| info.name_as_str() == Some(name));
    named.filter_map(|info| info.size_translated()).max().unwrap_or(0)
}

pub fn cost_nothing_where_nobody_listens() -> Outcome {
    log::set_logger(&SAID)?;
    let subject = Subject::start("storm");
    let options = || Options { ring_bytes: 4096, ..Options::default() };
    let quiet = Session::attach(subject.pid(), options())?;
    let quiet_bytes = largest("sched_switch");
    let listening = Session::attach(subject.pid(), Options { log_bpf: true, ..options() })?;
    let listening_bytes = largest("sched_switch");
    thread::sleep(Duration::from_millis(400));
    let report = listening.finish()?;
    assert!(quiet.finish()?.loss["ring_full"] > 0 && report.loss["ring_full"] > 0, "{report:#?}");
    assert!(0 < quiet_bytes && quiet_bytes < listening_bytes, "{quiet_bytes} {listening_bytes}");
    let said = SAID.0.lock().unwrap();
    let losses = said.iter().filter(|said| said.contains("ring_full")).count();
    let cpus = thread::available_parallelism()?.get();
    // A loss is told once a CPU, however many there are.
    assert!((1..=cpus).contains(&losses), "{said:?}");
    Ok(())
}
