//! Climbs down the ways of seeing switches until the kernel takes one.

use aya::Ebpf;

use super::Plan;
use super::attach::{attach_program, detach, without_log};
use super::fields::Constants;
use super::programs::{Entry, Group, PROGRAMS};
use super::rung::{Ladder, RefusedRung, SwitchRung};
use crate::error::AttachError;

/// What the running kernel gives to the programs.
pub struct Kernel<'a> {
    /// Its type information, where it has any.
    pub btf: Option<&'a aya::Btf>,
    /// What that says.
    pub constants: &'a Constants,
    /// Why tracepoints cannot be read by their printed form, where they cannot.
    pub formats: Result<(), String>,
}

/// Attaches the first rung that the kernel takes, if switches are asked for; gives its programs.
pub fn attach(
    ebpf: &mut Ebpf,
    plan: &Plan,
    kernel: &Kernel<'_>,
) -> Result<Option<(Ladder, Vec<&'static Entry>)>, AttachError> {
    if !plan.groups.contains(&Group::Sched) {
        return Ok(None);
    }
    let mut refused = Vec::new();
    for rung in plan.rung.map_or_else(|| SwitchRung::ALL.to_vec(), |rung| vec![rung]) {
        match kernel.check(rung).and_then(|()| attach_rung(ebpf, rung, kernel)) {
            Ok((hook, programs)) => return Ok(Some((Ladder { rung, hook, refused }, programs))),
            Err(reason) => refused.push(RefusedRung { rung, reason }),
        }
    }
    Err(AttachError::NoRung(refused.iter().map(RefusedRung::to_string).collect::<Vec<_>>().join("; ")))
}

/// Attaches all programs of a rung, or none; gives the hook that sees the switches.
fn attach_rung(
    ebpf: &mut Ebpf,
    rung: SwitchRung,
    kernel: &Kernel<'_>,
) -> Result<(String, Vec<&'static Entry>), String> {
    let programs: Vec<&Entry> = PROGRAMS.iter().filter(|entry| entry.rungs.contains(&rung)).collect();
    let attached: Result<Vec<String>, AttachError> =
        programs.iter().map(|entry| attach_program(ebpf, entry, kernel.btf)).collect();
    match attached {
        Ok(hooks) => Ok((hooks.into_iter().next().unwrap_or_default(), programs)),
        Err(error) => {
            programs.iter().for_each(|entry| detach(ebpf, entry));
            Err(without_log(&error.to_string()))
        }
    }
}

impl Kernel<'_> {
    /// Refuses a rung that cannot be right here, before the kernel is asked.
    fn check(&self, rung: SwitchRung) -> Result<(), String> {
        /// That the programs read: the last is the state.
        const SWITCH_ARGUMENTS: usize = 4;
        let found = self.constants.switch_arguments;
        match rung {
            SwitchRung::Tracepoint => self.formats.clone(),
            _ if self.btf.is_none() => Err("it needs the kernel's type information".to_owned()),
            SwitchRung::TpBtf | SwitchRung::RawTracepoint if found < SWITCH_ARGUMENTS => {
                let error =
                    AttachError::Tracepoint { name: "sched_switch", found, expected: SWITCH_ARGUMENTS };
                Err(error.to_string())
            }
            _ => Ok(()),
        }
    }
}
