//! Attaches programs, each to what it is made for.

use std::fs;

use aya::Ebpf;
use aya::programs::{BtfTracePoint, FEntry, FExit, KProbe, Program, RawTracePoint};
use probes_common::Throttle;

use super::fields::Constants;
use super::programs::{Entry, Group, Hook, Need, PAUSES, REQUEST_START, REQUEST_START_WITHOUT_ADDRESS, Rung};
use super::{Plan, chain};
use crate::error::AttachError;

/// Something that a recording goes on without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What it is called.
    pub name: String,
    /// Why not, in one line.
    pub reason: String,
}

type Attached = (Vec<&'static Entry>, Vec<Refused>);

/// Attaches the programs of `plan`; gives those that are attached, and what it goes on without.
pub fn attach_all(
    ebpf: &mut Ebpf,
    plan: &Plan,
    constants: &Constants,
    btf: &aya::Btf,
) -> Result<Attached, AttachError> {
    let (mut attached, mut refused): Attached = Default::default();
    let mut given_up: Vec<Group> = Vec::new();
    for entry in plan.programs() {
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
            Ok(()) => attached.push(entry),
            Err(reason) => {
                refused.push(Refused { name: entry.hook.name(), reason });
                if matches!(entry.group, Group::Throttle(_)) {
                    given_up.push(entry.group);
                    detach(ebpf, entry.group, &mut attached);
                }
            }
        }
    }
    refused.retain(|one| !has_stand_in(&one.name, &attached));
    Ok((attached, refused))
}

/// The verifier's log is for who writes programs.
fn without_log(reason: &str) -> String {
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
fn detach(ebpf: &mut Ebpf, rung: Group, attached: &mut Vec<&'static Entry>) {
    attached.retain(|entry| {
        if entry.group == rung {
            // Unloading detaches.
            let _ = match ebpf.program_mut(entry.name) {
                Some(Program::FEntry(program)) => program.unload(),
                Some(Program::FExit(program)) => program.unload(),
                Some(Program::KProbe(program)) => program.unload(),
                _ => Ok(()),
            };
        }
        entry.group != rung
    });
}

fn attach_program(ebpf: &mut Ebpf, entry: &Entry, btf: &aya::Btf) -> Result<(), AttachError> {
    let name = entry.name;
    let program = ebpf.program_mut(name).ok_or(AttachError::Missing(name))?;
    let refused = |error| AttachError::Program { program: name, reason: chain(&error) };
    match entry.hook {
        Hook::TpBtf { tracepoint, .. } => {
            let program: &mut BtfTracePoint = typed(program, name)?;
            program.load(tracepoint, btf).map_err(refused)?;
            program.attach().map(drop).map_err(refused)
        }
        Hook::Raw { tracepoint } => {
            let program: &mut RawTracePoint = typed(program, name)?;
            program.load().map_err(refused)?;
            program.attach(tracepoint).map(drop).map_err(refused)
        }
        Hook::Fentry { function } => {
            let program: &mut FEntry = typed(program, name)?;
            program.load(function, btf).map_err(refused)?;
            program.attach().map(drop).map_err(refused)
        }
        Hook::Fexit { function } => {
            let program: &mut FExit = typed(program, name)?;
            program.load(function, btf).map_err(refused)?;
            program.attach().map(drop).map_err(refused)
        }
        Hook::Kprobe { function } => {
            let symbol = text_symbol(function).ok_or_else(|| AttachError::Program {
                program: name,
                reason: format!("the kernel lists no function {function}"),
            })?;
            let program: &mut KProbe = typed(program, name)?;
            program.load().map_err(refused)?;
            program.attach(&symbol, 0).map(drop).map_err(refused)
        }
    }
}

fn typed<'a, P>(program: &'a mut Program, name: &'static str) -> Result<&'a mut P, AttachError>
where
    &'a mut P: TryFrom<&'a mut Program>,
{
    program.try_into().map_err(|_| AttachError::Missing(name))
}

/// The function as the kernel lists it: by its name, or by what the compiler made of it (`name.isra.0`).
fn text_symbol(function: &str) -> Option<String> {
    let symbols = fs::read_to_string("/proc/kallsyms").ok()?;
    let names = symbols.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let kind = fields.next()?;
        (kind.eq_ignore_ascii_case("t")).then(|| fields.next())?
    });
    let is_it = |name: &&str| {
        let rest = name.strip_prefix(function);
        rest.is_some_and(|rest| {
            rest.is_empty() || rest.starts_with(".isra.") || rest.starts_with(".constprop.")
        })
    };
    names.filter(is_it).min_by_key(|name| name.len()).map(str::to_owned)
}
