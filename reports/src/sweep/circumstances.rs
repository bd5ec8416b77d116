//! What a sweep knows of a BRANCH beside its figures: which run it is of, and what the host did meanwhile.

/// The columns, in the order in which they are written. A CSV without them is a sweep all the same.
pub const COLUMNS: [&str; 12] = [
    "run_id",
    "mode",
    "neighbour",
    "disk_bps",
    "seed",
    "order",
    "start_unix_ns",
    "call_ns",
    "disk_written_bytes",
    "pending_kib",
    "steal_pct",
    "guard",
];

/// Under which circumstances a BRANCH was taken. Where a CSV says nothing of them, all of it is empty or 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Circumstances {
    /// The run: a UUID, the same in its `run.json`. Rows of one run were taken on one host, in turns.
    pub run_id: String,
    /// What was asked of Firecracker: `diff` or `full`.
    pub mode: String,
    /// What else used the file system meanwhile: `none`, `write`, `fsync`, `read`.
    pub neighbour: String,
    /// What the disk below was throttled to, in bytes a second each way; `None` where it was not.
    pub disk_bps: Option<u64>,
    /// What drew the order of the cells and, with the BRANCH index, the contents of the dirtied pages.
    pub seed: u64,
    /// Which trial of the whole run it was in, in the order in which they were measured, from 1; 0 where not known.
    pub order: u32,
    /// When the BRANCH was asked for, in nanoseconds since the Unix epoch.
    pub start_unix_ns: u64,
    /// From then to the answer, which may have waited for the disk.
    pub call_ns: u64,
    /// What the block device below the snapshots was told to write since the BRANCH before (for the first: since
    /// the disks were idle), to the answer of this one; `None` where there is no such device.
    pub disk_written_bytes: Option<u64>,
    /// Dirty and in-flight memory of the host when the trial's first BRANCH was prepared.
    pub pending_kib: u64,
    /// Share of the host's processor time that its hypervisor gave to others, from the dirtying to the answer.
    pub steal_pct: f64,
    /// What the host guard found wrong, joined by `+`: `dirty`, `steal`, `space`, `memory`; empty for nothing.
    pub guard: String,
}

impl Circumstances {
    /// The fields of [`COLUMNS`].
    pub(super) fn fields(&self) -> [String; COLUMNS.len()] {
        let number = |figure: Option<u64>| figure.map_or_else(String::new, |figure| figure.to_string());
        [
            self.run_id.clone(),
            self.mode.clone(),
            self.neighbour.clone(),
            number(self.disk_bps),
            self.seed.to_string(),
            self.order.to_string(),
            self.start_unix_ns.to_string(),
            self.call_ns.to_string(),
            number(self.disk_written_bytes),
            self.pending_kib.to_string(),
            format!("{:.2}", self.steal_pct),
            self.guard.clone(),
        ]
    }
}
