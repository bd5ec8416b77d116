//! What can be done about causes, and which of them it takes away: one declarative table.

use super::causes::Cause;

/// One thing that can be done.
#[derive(Clone, Copy, Debug)]
pub struct Remedy {
    /// What to do, for people.
    pub text: &'static str,
    /// What the daemon can set to do it, as `key=value`; `None` where only a person can.
    pub action: Option<&'static str>,
    /// The causes that are gone then. The time of all of them is what it promises to save.
    pub removes: &'static [Cause],
}

/// Every one, in the order in which those that save the same time are listed.
pub const REMEDIES: [Remedy; 22] = [
    Remedy {
        text: "stage in memory: the pause then writes to no disk, and what it wrote is synced after the resume",
        action: Some("data_path=stage"),
        removes: &[
            Cause::WritebackThrottle,
            Cause::DirtyThrottle,
            Cause::OwnWriteback,
            Cause::JournalCommit,
            Cause::BlockAllocation,
            Cause::FileSystemWork,
            Cause::InodeLock,
            Cause::RequestQueue,
            Cause::DeviceTime,
            Cause::RemoteFileSystem,
        ],
    },
    Remedy {
        text: "preallocate the destination and do not truncate it",
        action: Some("data_path=fallocate"),
        removes: &[Cause::BlockAllocation],
    },
    by_hand("raise wbt_lat_usec of the device", &[Cause::WritebackThrottle]),
    by_hand("move the neighbour that dirties pages, or raise vm.dirty_bytes", &[Cause::DirtyThrottle]),
    by_hand("keep neighbours that sync off this file system", &[Cause::JournalCommit]),
    by_hand("keep other writers off the files that the pause writes", &[Cause::InodeLock]),
    by_hand("move the neighbour whose requests are ahead to another device", &[Cause::RequestQueue]),
    by_hand("put the snapshots on a faster device", &[Cause::OwnWriteback, Cause::DeviceTime]),
    by_hand("keep the snapshots on a local file system", &[Cause::RemoteFileSystem]),
    by_hand(
        "BRANCH more often, or have the guest dirty fewer pages between two BRANCHes",
        &[Cause::DirtyPageCopy],
    ),
    by_hand("allocate the memory before the window opens", &[Cause::PageFaultMinor]),
    by_hand(
        "read the file into memory before the window opens, or keep its pages with mlock",
        &[Cause::PageFaultMajor],
    ),
    by_hand("have the handler of userfaultfd fill pages ahead", &[Cause::PageFaultUser]),
    by_hand("leave more memory free: raise vm.min_free_kbytes, or run fewer sandboxes", &[Cause::Reclaim]),
    by_hand("raise the sandbox's memory limit, or stage outside of its cgroup", &[Cause::CgroupMemory]),
    by_hand(
        "keep the guest's memory from being swapped: raise the memory limit, or lower vm.swappiness",
        &[Cause::SwapIn],
    ),
    by_hand("move the neighbour to other CPUs, or give this process a higher priority", &[Cause::RunQueue]),
    by_hand("lift the CPU quota of the process's cgroup", &[Cause::CpuQuota]),
    by_hand("find who stops or freezes the process, and keep that out of the window", &[Cause::Stopped]),
    by_hand("hold the lock for a shorter time, or not across the window", &[Cause::FutexContention]),
    by_hand(
        "use a smaller guest, a kernel with the dirty ring, or give the vCPU threads CPUs of their own",
        &[Cause::KvmDirtyLog, Cause::VcpuExit],
    ),
    by_hand("sleep outside of the window", &[Cause::Timer]),
];

const fn by_hand(text: &'static str, removes: &'static [Cause]) -> Remedy {
    Remedy { text, action: None, removes }
}

impl Remedy {
    /// Whether it takes away the cause with this id.
    pub fn removes(&self, id: &str) -> bool {
        self.removes.iter().any(|cause| cause.entry().id == id)
    }

    /// What a window of `window_ns` would be when it is done, out of the ids and times of the window's causes. It is
    /// a bound from below: what lay behind a cause may come to light.
    pub fn predicted_ns<'a>(&self, window_ns: u64, causes: impl IntoIterator<Item = (&'a str, u64)>) -> u64 {
        let removed = causes.into_iter().filter(|(id, _)| self.removes(id)).map(|(_, ns)| ns);
        window_ns.saturating_sub(removed.sum())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::REMEDIES;

    #[test]
    fn each_remedy_removes_something_and_stands_once() {
        assert!(REMEDIES.iter().all(|remedy| !remedy.removes.is_empty()));
        let texts: BTreeSet<&str> = REMEDIES.iter().map(|remedy| remedy.text).collect();
        let actions = || REMEDIES.iter().filter_map(|remedy| remedy.action);
        assert_eq!(texts.len(), REMEDIES.len());
        assert_eq!(actions().collect::<BTreeSet<_>>().len(), actions().count());
    }

    #[test]
    fn a_cause_is_known_by_its_id() {
        let stage = &REMEDIES[0];
        assert!(stage.removes("own_writeback") && !stage.removes("dirty_page_copy"));
        assert!(!stage.removes("no such cause"));
    }

    #[test]
    fn the_time_of_all_causes_that_are_removed_is_saved() {
        let causes = [("own_writeback", 500), ("dirty_page_copy", 300), ("journal_commit", 150)];
        assert_eq!(REMEDIES[0].predicted_ns(1000, causes), 350);
        assert_eq!(REMEDIES[1].predicted_ns(1000, causes), 1000);
    }
}
