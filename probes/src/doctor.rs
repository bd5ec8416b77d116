//! What this host offers the probe: every command is started as for a recording, and ended at once.

use std::fs;
use std::path::Path;

use probes_common::CallFilter;
use reports::doctor::{Doctor, SCHEMA, Setting, Trial};

use crate::error::{AttachError, KERNEL_BTF};
use crate::host::AttachKind;
use crate::io;
use crate::load::{Plan, Probes};
use crate::oncpu;
use crate::proc::{self, monotonic_ns};
use crate::recording::{Options, SwitchRung, try_rung};
use crate::symbolize::hidden_kernel_symbols;
use crate::wbt;

/// Files of one line that decide over what may be recorded.
const SETTINGS: [(&str, &str); 5] = [
    ("kernel.perf_event_paranoid", "/proc/sys/kernel/perf_event_paranoid"),
    ("kernel.perf_event_max_sample_rate", "/proc/sys/kernel/perf_event_max_sample_rate"),
    ("kernel.kptr_restrict", "/proc/sys/kernel/kptr_restrict"),
    ("kernel.yama.ptrace_scope", "/proc/sys/kernel/yama/ptrace_scope"),
    ("lockdown", "/sys/kernel/security/lockdown"),
];

/// Tries everything. Nothing is left attached.
pub fn examine() -> Doctor {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let attach = AttachKind::ALL.into_iter().map(|kind| {
        trial(kind.name(), || kind.try_on_this_host().map(|()| None).map_err(|refusal| refusal.to_string()))
    });
    Doctor {
        schema: SCHEMA.to_owned(),
        kernel,
        commands: commands(),
        attach: attach.collect(),
        settings: settings(),
    }
}

fn commands() -> Vec<Trial> {
    let record = |calls: Option<CallFilter>| {
        let ring_bytes = Options::default().ring_bytes;
        move || match Probes::attach(&Plan::new(ring_bytes, calls)) {
            Ok(_) => Ok(hidden_kernel_symbols()),
            Err(error) => Err(told(&error)),
        }
    };
    let by = |rung: SwitchRung| {
        let name = format!("offcpu --attach {rung}");
        trial(&name, || try_rung(rung).map(|ladder| Some(ladder.hook)).map_err(|error| told(&error)))
    };
    let mut trials = vec![
        trial("offcpu", record(None)),
        trial("futex", record(Some(CallFilter::Futex))),
        trial("syscalls", record(Some(CallFilter::All))),
        trial("wbt", || throttling().map_err(|error| told(&error))),
        trial("io", || block_io().map_err(|error| told(&error))),
        trial("oncpu", || oncpu::try_to_open().map_err(|error| told(&error))),
        trial("stacks", stacks),
    ];
    trials.extend(SwitchRung::ALL.map(by));
    trials
}

/// Without some of its programs `io` goes on with less.
fn block_io() -> Result<Option<String>, AttachError> {
    let plan = Plan::devices(Options::default().ring_bytes, &io::GROUPS);
    Ok(io::refused(Probes::attach(&plan)?.refused()))
}

/// Where no function can be probed, `wbt` finds waits by stacks.
fn throttling() -> Result<Option<String>, AttachError> {
    let plan = Plan::new(Options::default().ring_bytes, None).with(&wbt::GROUPS);
    Ok(io::refused(Probes::attach(&plan)?.refused()))
}

/// Without whole stacks it still shows the function that a thread sleeps in.
fn stacks() -> Result<Option<String>, String> {
    let own = std::process::id();
    let stack = fs::read_to_string(proc::thread_file(own, own, "stack"));
    Ok(stack.err().map(|error| {
        format!("only the function that a thread sleeps in, without CAP_SYS_ADMIN: /proc/PID/stack is refused ({error})")
    }))
}

fn settings() -> Vec<Setting> {
    let setting = |name: &str, value: String| Setting { name: name.to_owned(), value };
    let file = |(name, path): (&str, &str)| {
        let value = fs::read_to_string(path)
            .map_or_else(|error| format!("not there ({error})"), |text| text.trim().to_owned());
        setting(name, value)
    };
    let mut settings: Vec<Setting> = SETTINGS.into_iter().map(file).collect();
    let has_btf = if Path::new(KERNEL_BTF).exists() { "present" } else { "missing: CONFIG_DEBUG_INFO_BTF=y" };
    settings.push(setting("type information", has_btf.to_owned()));
    let pmus = oncpu::core_pmus(Path::new(oncpu::DEVICES));
    let names: Vec<&str> = pmus.iter().map(|pmu| pmu.name.as_str()).collect();
    let counters =
        if names.is_empty() { "none: oncpu samples by a clock".to_owned() } else { names.join(", ") };
    settings.push(setting("CPU counters", counters));
    settings
}

/// Tries one thing; `Ok` may hold what is less than whole about it.
fn trial(name: &str, act: impl FnOnce() -> Result<Option<String>, String>) -> Trial {
    let begun_ns = monotonic_ns();
    let outcome = act();
    let took_ns = monotonic_ns() - begun_ns;
    let (works, note) = match outcome {
        Ok(note) => (true, note),
        Err(why) => (false, Some(why)),
    };
    Trial { name: name.to_owned(), works, took_ns, note }
}

fn told(error: &AttachError) -> String {
    error.to_string()
}
