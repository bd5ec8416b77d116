//! The user stacks of every watched process.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use probes_common::{CODE_SPANS, CodeSpan};

use super::{UserFrames, UserStacks};
use crate::decode::{UserSample, UserSide};
use crate::images::{Images, Place};

/// User stacks by process.
#[derive(Debug, Default)]
pub struct ProcessStacks(BTreeMap<u32, UserStacks>);

impl ProcessStacks {
    /// For these processes, with what they have mapped now; and why some will have no user stacks, which is
    /// no reason not to record.
    pub fn of(pids: &[u32]) -> (Self, Vec<String>) {
        let mut unreadable = Vec::new();
        let mut one = |pid: &u32| {
            let stacks = UserStacks::of(*pid).unwrap_or_else(|error| {
                unreadable.push(format!("no user stacks: /proc/{pid}/maps cannot be read ({error})"));
                UserStacks::default()
            });
            (*pid, stacks)
        };
        let stacks = pids.iter().map(&mut one).collect();
        (Self(stacks), unreadable)
    }

    /// Those of one process, to be read and added to.
    pub fn process(&mut self, pid: u32) -> &mut UserStacks {
        self.0.entry(pid).or_default()
    }

    /// Unwinds a stack that the kernel side copied.
    pub fn take(&mut self, sample: &UserSample<'_>) {
        self.process(sample.tgid).take(sample);
    }

    /// Forgets processes that have ended, whose files would stay open.
    pub fn forget_ended(&mut self) {
        self.0.retain(|_, stacks| stacks.images().is_alive());
    }

    /// Looks at what a process has mapped now, and gives where its code lies.
    pub fn look_at(&mut self, pid: u32) -> [CodeSpan; CODE_SPANS] {
        match self.0.entry(pid) {
            Entry::Occupied(known) => {
                let stacks = known.into_mut();
                stacks.refresh(true);
                stacks.code_spans()
            }
            // Without what it has mapped there are no user stacks, which is no reason not to record.
            Entry::Vacant(new) => new.insert(UserStacks::of(pid).unwrap_or_default()).code_spans(),
        }
    }

    /// See [`UserStacks::canonical`].
    pub fn canonical(&self, pid: u32, user: UserSide) -> UserSide {
        self.0.get(&pid).map_or(user, |stacks| stacks.canonical(user))
    }

    /// The frames; the instruction alone, truncated, where no stack came.
    pub fn frames(&self, pid: u32, user: &UserSide) -> Arc<UserFrames> {
        let unknown = || Place { mapping: None, address: user.ip };
        self.0.get(&pid).map_or_else(
            || Arc::new(UserFrames { places: vec![unknown()], truncated: true }),
            |stacks| stacks.frames(user),
        )
    }

    /// Whether the stack that this names is kept.
    pub fn has(&self, pid: u32, user: &UserSide) -> bool {
        let stacks = self.0.get(&pid);
        stacks.zip(user.stack).is_some_and(|(stacks, signature)| stacks.has(signature))
    }

    /// The processes.
    pub fn pids(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.keys().copied()
    }

    /// What a process had mapped.
    pub fn images(&self, pid: u32) -> Option<&Images> {
        self.0.get(&pid).map(UserStacks::images)
    }

    /// Looks again at what is mapped: see [`UserStacks::refresh`]. Whether any spans of code have changed.
    pub fn refresh(&mut self, now: bool) -> bool {
        let mut has_changed = false;
        for stacks in self.0.values_mut() {
            has_changed |= stacks.refresh(now).is_some();
        }
        has_changed
    }

    /// Where code of a process can lie.
    pub fn code_spans(&self, pid: u32) -> [CodeSpan; CODE_SPANS] {
        self.0.get(&pid).map(UserStacks::code_spans).unwrap_or_default()
    }

    /// Different stacks that are kept.
    pub fn count(&self) -> usize {
        self.0.values().map(UserStacks::len).sum()
    }

    /// Stacks for which there was no place left.
    pub fn unkept(&self) -> u64 {
        self.0.values().map(UserStacks::unkept).sum()
    }
}

impl From<(u32, UserStacks)> for ProcessStacks {
    fn from((pid, stacks): (u32, UserStacks)) -> Self {
        Self([(pid, stacks)].into())
    }
}
