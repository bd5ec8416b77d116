//! The steps of one BRANCH, in the order in which they begin.

/// One step of a BRANCH. The daemon times it, reports and tables name it; there is no second list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum BranchPhase {
    /// Before the pause: staging directory, destination file, preallocation where the data path asks for it.
    Prepare,
    /// From sending the pause request to its answer; the guest stops somewhere inside.
    Pause,
    /// Firecracker writes guest memory and device state; the guest stands still for all of it.
    Create,
    /// From sending the resume request to its answer; the guest runs again somewhere inside.
    Resume,
    /// The parent's memory image is copied into the new snapshot; may begin before the pause and run beside it.
    Copy,
    /// The pages that the guest dirtied are written over the copy.
    Merge,
    /// Files are synced, the manifest is written last, and the directory is renamed into place.
    Publish,
}

impl BranchPhase {
    /// Every phase, in the order in which they begin.
    pub const ALL: [Self; 7] =
        [Self::Prepare, Self::Pause, Self::Create, Self::Resume, Self::Copy, Self::Merge, Self::Publish];

    /// The phase's name in JSON, CSV, logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Pause => "pause",
            Self::Create => "create",
            Self::Resume => "resume",
            Self::Copy => "copy",
            Self::Merge => "merge",
            Self::Publish => "publish",
        }
    }

    /// Whether the guest stands still during this phase: these sum to `pause_ns`.
    pub const fn stops_the_guest(self) -> bool {
        matches!(self, Self::Pause | Self::Create | Self::Resume)
    }
}

#[cfg(test)]
mod tests {
    use super::BranchPhase;

    #[test]
    fn all_lists_every_phase_once_in_discriminant_order() {
        for (index, phase) in BranchPhase::ALL.iter().enumerate() {
            assert_eq!(*phase as usize, index);
        }
    }

    #[test]
    fn the_guest_stands_still_from_pause_to_resume_and_in_no_other_phase() {
        let stopped: [bool; 7] = BranchPhase::ALL.map(BranchPhase::stops_the_guest);
        assert_eq!(stopped, [false, true, true, true, false, false, false]);
    }
}
