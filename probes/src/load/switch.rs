//! Turns recording on and off: one write to a map, from any thread.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::Pod;
use aya::maps::{Array, MapData};
use probes_common::{
    CODE_SPANS, CONTROL_MAP, CodeSpan, Control, IDLE, MACHINE, MAX_TARGETS, ONE_TARGET, TARGETS,
};

use super::map_error;
use crate::error::AttachError;

/// A process to watch.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// Its id in the initial pid namespace.
    pub pid: u32,
    /// Where its code lies.
    pub code: [CodeSpan; CODE_SPANS],
}

/// Whose switches and wake-ups are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those of the targets' threads.
    Targets,
    /// Those of every thread of the host but this process's, and the idle tasks. User stacks are those of the
    /// targets' threads; system calls are the targets'.
    Machine,
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct ControlValue(Control);
// SAFETY: `Control` is `repr(C)` of an even number of `u32`s, then `u64`s: no padding, and every bit
// pattern is a value.
unsafe impl Pod for ControlValue {}

/// The one word that every program reads first. Clones turn the same programs on and off.
#[derive(Clone)]
pub struct Switch(Arc<Mutex<Word>>);

impl fmt::Debug for Switch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Switch").field("scope", &self.word().scope()).finish()
    }
}

struct Word {
    map: Array<MapData, ControlValue>,
    control: Control,
}

impl Switch {
    /// Off, and for no targets.
    pub(super) fn new(map: aya::maps::Map) -> Result<Self, AttachError> {
        let map = Array::try_from(map).map_err(|error| map_error(CONTROL_MAP, &error))?;
        Ok(Self(Arc::new(Mutex::new(Word { map, control: Control::IDLE }))))
    }

    /// Says who the targets are, each with where its code lies. A recording that is on goes on with these, and one
    /// that is off stays off.
    pub fn watch(&self, targets: &[Watch]) -> Result<(), AttachError> {
        if targets.len() > MAX_TARGETS {
            return Err(AttachError::Targets(targets.len()));
        }
        let mut word = self.word();
        let scope = word.scope();
        let recording = word.control.recording;
        let mut control = Control { target_count: targets.len() as u32, recording, ..Control::IDLE };
        for (index, target) in targets.iter().enumerate() {
            control.targets[index] = target.pid;
            control.code[index] = target.code;
        }
        word.control = control;
        match scope {
            Some(scope) => word.on(scope),
            None => word.write(),
        }
    }

    /// Records from now on.
    pub fn on(&self, scope: Scope) -> Result<(), AttachError> {
        self.word().on(scope)
    }

    /// Records nothing from now on. A program that is running ends first, within microseconds.
    pub fn off(&self) -> Result<(), AttachError> {
        let mut word = self.word();
        word.control.disarm();
        word.write()
    }

    fn word(&self) -> MutexGuard<'_, Word> {
        // The word is whole whatever happened to another holder: it is written in one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Word {
    fn scope(&self) -> Option<Scope> {
        match self.control.armed {
            IDLE => None,
            MACHINE => Some(Scope::Machine),
            _ => Some(Scope::Targets),
        }
    }

    fn on(&mut self, scope: Scope) -> Result<(), AttachError> {
        self.control.tracer = std::process::id();
        self.control.armed = match (scope, self.control.target_count) {
            (Scope::Machine, _) => MACHINE,
            (Scope::Targets, 0) => return Err(AttachError::Targets(0)),
            (Scope::Targets, 1) => ONE_TARGET,
            (Scope::Targets, _) => TARGETS,
        };
        self.write()
    }

    fn write(&mut self) -> Result<(), AttachError> {
        let value = ControlValue(self.control);
        self.map.set(0, value, 0).map_err(|error| map_error(CONTROL_MAP, &error))
    }
}
