//! Blocks of consecutive BRANCHes by another data path, whose writeback meets the BRANCHes that follow.

use forkd::api::DataPath;

use super::accounts::Disk;
use super::guest::{Guest, phases};
use super::rows::{Arm, Row, Set};
use super::{Gathered, Settings};
use crate::Error;
use crate::site::Site;
use crate::trial::Made;
use crate::work::Work;

/// One block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    data_path: DataPath,
    /// Which of its data path, from 1.
    number: u32,
}

/// The blocks that come after the pair `index`: each data path's are spread evenly, none before the first pair
/// and none after the last but one.
pub fn due(settings: &Settings, index: u32) -> Vec<Block> {
    let numbers = 1..=settings.blocks;
    let after = |number: u32| (settings.pairs * number / (settings.blocks + 1)).max(1);
    let due = numbers.filter(|number| after(*number) == index);
    due.flat_map(|number| settings.compared.iter().map(move |&data_path| Block { data_path, number }))
        .collect()
}

/// Takes a block in a sandbox of its own, then waits until it is on disk and deletes all of it.
pub async fn take(
    site: &Site,
    work: &Work,
    settings: &Settings,
    (block, disk): (Block, &Disk),
    gathered: &mut Gathered,
) -> Result<(), Error> {
    let Block { data_path, number } = block;
    let stream = 16 + u64::from(number) * 16 + data_path as u64;
    let mut guest = Guest::fork(site, work, settings, ("base", stream)).await?;
    let mut made = Made::default();
    made.add_sandbox(&guest.id);
    let prefix = format!("{}-{number}", data_path.name());
    for branch in 1..=settings.block_branches {
        gathered.progress.step(&format!("{}, block {number}: BRANCH {branch}", data_path.name()));
        guest.dirty(Set::Repeated, settings.block_gap_ms).await?;
        let taken = guest.branch(&prefix, data_path, false).await?;
        made.add_tag(&taken.tag);
        for warning in &taken.warnings {
            gathered.warn(format!("{}, block {number}, BRANCH {branch}: {warning}", data_path.name()));
        }
        gathered.add(Row {
            arm: Arm::Daemon(data_path),
            set: Set::Repeated,
            index: branch,
            phases: phases(&taken),
            dirty_bytes: taken.diff_physical_bytes,
            disk_bytes: None,
        });
    }
    // Twice: what is deleted is not written any more, and what deleting writes must not meet the next pair.
    disk.synced_written_bytes()?;
    made.remove(&site.api).await;
    disk.synced_written_bytes()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use forkd::api::DataPath;

    use super::{Settings, due};

    #[test]
    fn blocks_are_spread_over_the_pairs_and_none_is_left_out() {
        let settings = |pairs, blocks| Settings {
            pairs,
            blocks,
            mem_mib: 64,
            dirty_pages: 1,
            gap_ms: 0,
            compared: vec![DataPath::Naive, DataPath::Uring],
            block_branches: 4,
            block_gap_ms: 0,
            children: 1,
            seed: 0,
        };
        let spread = settings(300, 2);
        let at: Vec<u32> = (1..=300).filter(|index| !due(&spread, *index).is_empty()).collect();
        assert_eq!(at, [100, 200]);
        for pairs in 1..20 {
            let settings = settings(pairs, 3);
            assert_eq!((1..=pairs).map(|index| due(&settings, index).len()).sum::<usize>(), 6, "{pairs}");
        }
    }
}
