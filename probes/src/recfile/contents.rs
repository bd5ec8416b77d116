//! What a recording holds, and what a report is made of.

use serde::{Deserialize, Serialize};

use probes_common::CallFilter;

use super::error::ReadError;
use super::facts::OpeningFacts;
use crate::recording::Group;
use crate::{io, wbt};

/// Which system calls a recording holds beside the switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordedCalls {
    /// None.
    None,
    /// Those of the futex family.
    Futex,
    /// All.
    All,
}

/// Which events on the way between processes and disks a recording holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordedDevices {
    /// None.
    #[default]
    None,
    /// Those that `io` is made of.
    Io,
    /// Those that `wbt` is made of.
    Wbt,
    /// All.
    All,
}

/// What a report is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needed {
    switches: bool,
    calls: RecordedCalls,
    devices: RecordedDevices,
}

impl Needed {
    /// Switches of threads.
    pub const SWITCHES: Self =
        Self { switches: true, calls: RecordedCalls::None, devices: RecordedDevices::None };
    /// What `io` is made of.
    pub const IO: Self = Self { switches: false, calls: RecordedCalls::None, devices: RecordedDevices::Io };
    /// What `wbt` is made of.
    pub const WBT: Self = Self { devices: RecordedDevices::Wbt, ..Self::SWITCHES };

    /// Switches, and these calls.
    pub const fn calls(calls: RecordedCalls) -> Self {
        Self { calls, ..Self::SWITCHES }
    }

    /// Refuses a recording that lacks some of it.
    pub(super) fn check(self, facts: &OpeningFacts) -> Result<(), ReadError> {
        if self.switches && !facts.switches {
            return Err(ReadError::NoSwitches);
        }
        if !facts.calls.holds(self.calls) {
            let (recorded, needed) = (facts.calls.name(), self.calls.name());
            return Err(ReadError::Lacks { option: "--calls", recorded, needed });
        }
        if !facts.devices.holds(self.devices) {
            let (recorded, needed) = (facts.devices.name(), self.devices.name());
            return Err(ReadError::Lacks { option: "--devices", recorded, needed });
        }
        Ok(())
    }
}

impl RecordedCalls {
    /// As `--calls` spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Futex => "futex",
            Self::All => "all",
        }
    }

    /// Whether a recording of these calls serves a report that needs those.
    fn holds(self, needed: Self) -> bool {
        needed == Self::None || self == Self::All || self == needed
    }
}

impl From<Option<CallFilter>> for RecordedCalls {
    fn from(filter: Option<CallFilter>) -> Self {
        match filter {
            None => Self::None,
            Some(CallFilter::Futex) => Self::Futex,
            Some(CallFilter::All) => Self::All,
        }
    }
}

impl RecordedDevices {
    /// As `--devices` spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Io => "io",
            Self::Wbt => "wbt",
            Self::All => "all",
        }
    }

    /// The programs that record them.
    pub fn groups(self) -> Vec<Group> {
        let (io, wbt) = (io::GROUPS.as_slice(), wbt::GROUPS.as_slice());
        let mut groups = match self {
            Self::None => Vec::new(),
            Self::Io => io.to_vec(),
            Self::Wbt => wbt.to_vec(),
            Self::All => [io, wbt].concat(),
        };
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// What these programs record.
    pub(crate) fn of(groups: &[Group]) -> Self {
        let has = |needed: &[Group]| needed.iter().all(|group| groups.contains(group));
        match (has(&io::GROUPS), has(&wbt::GROUPS)) {
            (false, false) => Self::None,
            (true, false) => Self::Io,
            (false, true) => Self::Wbt,
            (true, true) => Self::All,
        }
    }

    /// Whether a recording of these events serves a report that needs those.
    fn holds(self, needed: Self) -> bool {
        needed == Self::None || self == Self::All || self == needed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_groups_of_programs_record_is_what_they_were_chosen_for() {
        use RecordedDevices::{All, Io, None, Wbt};
        for devices in [None, Io, Wbt, All] {
            assert_eq!(RecordedDevices::of(&devices.groups()), devices);
        }
        assert_eq!(RecordedDevices::of(&[Group::Sched, Group::Block, Group::Journal, Group::Dirty]), None);
    }

    #[test]
    fn a_report_is_refused_where_the_recording_lacks_what_it_is_made_of() {
        let check = |calls, devices, switches, needed: Needed| {
            let facts = OpeningFacts { devices, switches, ..OpeningFacts::empty(calls, 1, 1) };
            needed.check(&facts).map_err(|error| error.to_string())
        };
        let (calls, devices) = (RecordedCalls::None, RecordedDevices::Io);
        assert_eq!(check(calls, devices, false, Needed::IO), Ok(()));
        assert_eq!(check(calls, RecordedDevices::All, true, Needed::WBT), Ok(()));
        let refused = check(calls, devices, false, Needed::WBT).unwrap_err();
        assert!(refused.contains("holds no switches"), "{refused}");
        let refused = check(calls, devices, true, Needed::WBT).unwrap_err();
        assert!(refused.contains("with --devices io, and this report needs --devices wbt"), "{refused}");
        let refused = check(calls, devices, true, Needed::calls(RecordedCalls::All)).unwrap_err();
        assert!(refused.contains("with --calls none, and this report needs --calls all"), "{refused}");
    }
}
