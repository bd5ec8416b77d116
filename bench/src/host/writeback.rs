//! Waits until the host has written its dirty pages, so that a trial begins with idle disks.

use std::time::{Duration, Instant};

use super::facts::meminfo_kib;

/// Dirty and in-flight memory below which disks count as idle: a few log files are always dirty.
pub const LOW_KIB: u64 = 4 * 1024;
const POLL: Duration = Duration::from_millis(50);

/// Syncs and waits until little is dirty, `limit` at most. Returns the KiB that are dirty or in flight then.
pub async fn drain(limit: Duration) -> u64 {
    let deadline = Instant::now() + limit;
    // Blocks for as long as the disks take; a signal must not wait for it.
    let synced = tokio::task::spawn_blocking(rustix::fs::sync);
    let _ = tokio::time::timeout(limit, synced).await;
    loop {
        let kib = pending_kib();
        match kib {
            ..=LOW_KIB => return kib,
            _ if Instant::now() >= deadline => return kib,
            _ => tokio::time::sleep(POLL).await,
        }
    }
}

/// Memory that is still to be written, in KiB.
pub fn pending_kib() -> u64 {
    ["Dirty", "Writeback"].into_iter().filter_map(meminfo_kib).sum()
}
