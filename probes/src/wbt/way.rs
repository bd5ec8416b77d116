//! The ways of seeing that a thread is held back.

use std::fmt;
use std::str::FromStr;

use crate::recording::{Group, Rung};

/// A way of seeing that a thread is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Programs at the entry and the exit of the throttle's functions.
    Fentry,
    /// Probes at their first instruction and at their return.
    Kprobe,
    /// The stacks of threads that sleep.
    Stacks,
}

impl Way {
    /// Every way, in the order in which they are tried.
    pub const ALL: [Self; 3] = [Self::Fentry, Self::Kprobe, Self::Stacks];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Stacks => "stacks",
        }
    }

    /// The programs that see waits in this way; stacks come with the switches.
    pub const fn group(self) -> Option<Group> {
        match self {
            Self::Fentry => Some(Group::Throttle(Rung::Fentry)),
            Self::Kprobe => Some(Group::Throttle(Rung::Kprobe)),
            Self::Stacks => None,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Way {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|way| way.name() == text).ok_or_else(|| format!("one of {}", names()))
    }
}

#[cfg(test)]
mod tests {
    use super::Way;

    #[test]
    fn a_ways_name_leads_back_to_it_and_others_are_refused() {
        for way in Way::ALL {
            assert_eq!(way.name().parse(), Ok(way));
        }
        assert_eq!("ftrace".parse::<Way>(), Err("one of fentry, kprobe, stacks".to_owned()));
    }
}
