//! What is known of files, devices and limits beside the threads.

/// A file being made durable for one thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncSpan {
    /// The thread.
    pub tid: u32,
    /// When it began, in nanoseconds of CLOCK_MONOTONIC; before the window where that was not seen.
    pub start_ns: u64,
    /// When it ended; after the window where that was not seen.
    pub end_ns: u64,
    /// The file's name, or its inode where it has none that was found.
    pub file: String,
    /// The device of its file system.
    pub device: String,
}

/// One request to a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestSpan {
    /// The disk.
    pub device: String,
    /// When it was made.
    pub made_ns: u64,
    /// When the driver took it.
    pub issued_ns: u64,
    /// When it was complete; after the window where that was not seen.
    pub completed_ns: u64,
    /// Its bytes.
    pub bytes: u64,
    /// `read`, `write`, `flush`, `discard`.
    pub operation: &'static str,
    /// The thread that made it.
    pub tid: u32,
    /// Its name.
    pub comm: String,
    /// Whose pages it writes, where that is another one than who made it: `cp(4711)`.
    pub owner: Option<String>,
}

/// A journal's commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitSpan {
    /// The device of the file system.
    pub device: String,
    /// When it began.
    pub start_ns: u64,
    /// When it was durable; after the window where that was not seen.
    pub end_ns: u64,
}

/// Pages that a process dirtied up to the end of the window, and that lie on one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirty {
    /// The device.
    pub device: String,
    /// The process.
    pub tgid: u32,
    /// The name of its thread that dirtied the first of them.
    pub comm: String,
    /// Bytes.
    pub bytes: u64,
}

/// All of it. What was not recorded is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Syncs.
    pub syncs: Vec<SyncSpan>,
    /// Requests, in the order in which they were made.
    pub requests: Vec<RequestSpan>,
    /// Journal commits.
    pub commits: Vec<CommitSpan>,
    /// Dirty pages, most bytes first.
    pub dirty: Vec<Dirty>,
    /// Watched processes, and the nanoseconds for which their CPU quota held them back, as `cpu.stat` counts them.
    pub throttled: Vec<(u32, u64)>,
}

impl Facts {
    /// The sync that `tid` was in at `time_ns`.
    pub fn sync(&self, tid: u32, time_ns: u64) -> Option<&SyncSpan> {
        let holds = |sync: &&SyncSpan| sync.tid == tid && (sync.start_ns..sync.end_ns).contains(&time_ns);
        self.syncs.iter().find(holds)
    }

    /// The journal commit that was under way through most of `start_ns..end_ns`, on `device` where that is known.
    pub fn commit(&self, device: Option<&str>, start_ns: u64, end_ns: u64) -> Option<&CommitSpan> {
        let overlap_ns = |commit: &&CommitSpan| overlap(commit.start_ns, commit.end_ns, start_ns, end_ns);
        let fits = |commit: &&CommitSpan| device.is_none_or(|device| device == commit.device);
        self.commits.iter().filter(fits).max_by_key(overlap_ns).filter(|commit| overlap_ns(commit) > 0)
    }

    /// Requests that were on their way inside `start_ns..end_ns`, on `device` where that is known.
    pub fn in_flight<'a>(
        &'a self,
        device: Option<&'a str>,
        start_ns: u64,
        end_ns: u64,
    ) -> impl Iterator<Item = &'a RequestSpan> {
        self.requests.iter().filter(move |request| {
            device.is_none_or(|device| device == request.device)
                && overlap(request.made_ns, request.completed_ns, start_ns, end_ns) > 0
        })
    }

    /// The request whose completion ended a wait of `tid` at `time_ns`: the last that completed before, within
    /// `reach_ns`; one that the thread made itself sooner than another's.
    pub fn completed_by(&self, tid: u32, time_ns: u64, reach_ns: u64) -> Option<&RequestSpan> {
        let near = |request: &&RequestSpan| {
            request.completed_ns <= time_ns && request.completed_ns + reach_ns >= time_ns
        };
        self.requests.iter().filter(near).max_by_key(|request| (request.tid == tid, request.completed_ns))
    }

    /// For how long a CPU quota held the process `pid` back; 0 for one that is not watched.
    pub fn throttled_ns(&self, pid: u32) -> u64 {
        self.throttled.iter().find(|(known, _)| *known == pid).map_or(0, |(_, ns)| *ns)
    }
}

/// How much of two stretches of time is the same.
pub fn overlap(a_start: u64, a_end: u64, b_start: u64, b_end: u64) -> u64 {
    a_end.min(b_end).saturating_sub(a_start.max(b_start))
}
