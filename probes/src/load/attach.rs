//! Attaches programs, each to what it is made for.

use std::fs;

use aya::Ebpf;
use aya::programs::{BtfTracePoint, FEntry, FExit, KProbe, Program, RawTracePoint, TracePoint};
use probes_common::Throttle;
use serde::{Deserialize, Serialize};

use super::fields::Constants;
use super::programs::{Entry, Group, Hook, Need, PAUSES, REQUEST_START, REQUEST_START_WITHOUT_ADDRESS, Rung};
use super::rung::clones;
use super::{Plan, chain};
use crate::error::AttachError;

/// Something that a recording goes on without.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// What it is called.
    pub name: String,
    /// Why not, in one line.
    pub reason: String,
}

type Attached = (Vec<&'static Entry>, Vec<Refused>);

/// Attaches the programs of `plan` that belong to no rung; gives those that are attached, and what it goes on without.
pub fn attach_all(
    ebpf: &mut Ebpf,
    plan: &Plan,
    constants: &Constants,
    btf: Option<&aya::Btf>,
) -> Result<Attached, AttachError> {
    let (mut attached, mut refused): Attached = Default::default();
    let mut given_up: Vec<Group> = Vec::new();
    for entry in plan.programs().filter(|entry| entry.rungs.is_empty()) {
        if is_superfluous(entry, &attached) || given_up.contains(&entry.group) {
            continue;
        }
        let outcome = match constants.refusal(entry.group) {
            Some(lacking) => Err(lacking.reason.clone()),
            None => match attach_program(ebpf, entry, btf) {
                Err(error) if entry.need == Need::Required => return Err(error),
                outcome => outcome.map_err(|error| without_log(&error.to_string())),
            },
        };
        match outcome {
            Ok(_) => attached.push(entry),
            Err(reason) => {
                refused.push(Refused { name: entry.hook.name(), reason });
                if matches!(entry.group, Group::Throttle(_)) {
                    given_up.push(entry.group);
                    detach_group(ebpf, entry.group, &mut attached);
                }
            }
        }
    }
    refused.retain(|one| !has_stand_in(&one.name, &attached));
    Ok((attached, refused))
}

/// The verifier's log is for who writes programs.
pub fn without_log(reason: &str) -> String {
    let end = reason.find(" Verifier output").unwrap_or(reason.len());
    reason[..end].trim_end_matches('.').to_owned()
}

/// Whether another program does the work of one that is refused.
fn has_stand_in(hook: &str, attached: &[&Entry]) -> bool {
    let is_throttle = Throttle::ALL.iter().any(|throttle| hook.ends_with(throttle.function()));
    let stands_in = |entry: &&Entry| match entry.group {
        Group::Throttle(_) => is_throttle,
        Group::Block => entry.name == REQUEST_START_WITHOUT_ADDRESS && hook.ends_with(REQUEST_START),
        _ => entry.hook.name() == hook,
    };
    attached.iter().any(stands_in)
}

/// Whether a better one is attached already.
fn is_superfluous(entry: &Entry, attached: &[&Entry]) -> bool {
    let has = |is: &dyn Fn(&Entry) -> bool| attached.iter().any(|other| is(other));
    match entry.group {
        Group::Throttle(Rung::Kprobe) => has(&|other| other.group == Group::Throttle(Rung::Fentry)),
        Group::Dirty => entry.name == PAUSES && has(&|other| other.hook.name() == entry.hook.name()),
        _ => entry.name == REQUEST_START_WITHOUT_ADDRESS && has(&|other| other.name == REQUEST_START),
    }
}

/// Detaches a rung of which one program is refused: a function that is seen entered and never left tells nothing.
fn detach_group(ebpf: &mut Ebpf, rung: Group, attached: &mut Vec<&'static Entry>) {
    attached.retain(|entry| {
        if entry.group == rung {
            detach(ebpf, entry);
        }
        entry.group != rung
    });
}

/// Attaches one program; gives its hook, as `kind/name`.
pub fn attach_program(ebpf: &mut Ebpf, entry: &Entry, btf: Option<&aya::Btf>) -> Result<String, AttachError> {
    let name = entry.name;
    let program = ebpf.program_mut(name).ok_or(AttachError::Missing(name))?;
    let refused = |error| AttachError::Program { program: name, reason: chain(&error) };
    match entry.hook {
        Hook::TpBtf { tracepoint, .. } => {
            let program: &mut BtfTracePoint = typed(program, name)?;
            program.load(tracepoint, types(btf, name)?).map_err(refused)?;
            program.attach().map_err(refused)?;
        }
        Hook::Raw { tracepoint } => {
            let program: &mut RawTracePoint = typed(program, name)?;
            program.load().map_err(refused)?;
            program.attach(tracepoint).map_err(refused)?;
        }
        Hook::Tracepoint { category, tracepoint } => {
            let program: &mut TracePoint = typed(program, name)?;
            program.load().map_err(refused)?;
            program.attach(category, tracepoint).map_err(refused)?;
        }
        Hook::Fentry { function } => {
            let program: &mut FEntry = typed(program, name)?;
            program.load(function, types(btf, name)?).map_err(refused)?;
            program.attach().map_err(refused)?;
        }
        Hook::Fexit { function } => {
            let program: &mut FExit = typed(program, name)?;
            program.load(function, types(btf, name)?).map_err(refused)?;
            program.attach().map_err(refused)?;
        }
        Hook::Kprobe { function } => return attach_kprobe(typed(program, name)?, function, name),
    }
    Ok(entry.hook.name())
}

/// Attaches to every clone of `function`, because the compiler may call any.
fn attach_kprobe(program: &mut KProbe, function: &str, name: &'static str) -> Result<String, AttachError> {
    let refused = |reason: String| AttachError::Program { program: name, reason };
    let kallsyms = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let functions = clones(&kallsyms, function);
    if functions.is_empty() {
        return Err(refused(format!("the kernel lists no function {function}")));
    }
    program.load().map_err(|error| refused(chain(&error)))?;
    for function in &functions {
        program.attach(function, 0).map_err(|error| refused(chain(&error)))?;
    }
    Ok(format!("kprobe/{}", functions.join("+")))
}

/// Detaches the program of `entry` again, if it is attached, and gives its memory back.
pub fn detach(ebpf: &mut Ebpf, entry: &Entry) {
    // It fails where nothing was loaded.
    let _ = match ebpf.program_mut(entry.name) {
        Some(Program::BtfTracePoint(program)) => program.unload(),
        Some(Program::RawTracePoint(program)) => program.unload(),
        Some(Program::TracePoint(program)) => program.unload(),
        Some(Program::FEntry(program)) => program.unload(),
        Some(Program::FExit(program)) => program.unload(),
        Some(Program::KProbe(program)) => program.unload(),
        _ => Ok(()),
    };
}

fn types<'a>(btf: Option<&'a aya::Btf>, program: &'static str) -> Result<&'a aya::Btf, AttachError> {
    let reason = || "it needs the kernel's type information".to_owned();
    btf.ok_or_else(|| AttachError::Program { program, reason: reason() })
}

fn typed<'a, P>(program: &'a mut Program, name: &'static str) -> Result<&'a mut P, AttachError>
where
    &'a mut P: TryFrom<&'a mut Program>,
{
    program.try_into().map_err(|_| AttachError::Missing(name))
}
