//! The pairs: on each guest, a floor and a stage BRANCH one after the other, in an order that is drawn.

use forkd::api::DataPath;

use super::accounts::Disk;
use super::guest::{Guest, disk, phases};
use super::rows::{Arm, Row, Set};
use super::{Gathered, Settings, blocks};
use crate::Error;
use crate::site::Site;
use crate::work::Work;

const STAGE: Arm = Arm::Daemon(DataPath::Stage);

/// BRANCHes of each arm before the first that counts: a guest just forked has touched little of its memory.
const WARM_UP: u32 = 2;

/// Takes all pairs, and the compared blocks between them. Returns the tag of the newest layer.
pub async fn take(
    site: &Site,
    work: &Work,
    settings: &Settings,
    gathered: &mut Gathered,
) -> Result<String, Error> {
    gathered.progress.step("base snapshot");
    site.api.create_snapshot("base", settings.mem_mib).await?;
    let disk = disk(site)?;
    // One guest for each set: the daemon takes the last diff of a guest for the next one's likely pages, and
    // both sets in one guest would mislead it in a way that neither does alone.
    let mut repeated = Guest::fork(site, work, settings, ("base", 1)).await?;
    let mut moving = Guest::fork(site, work, settings, ("base", 2)).await?;
    for _ in 0..WARM_UP {
        for (guest, set) in [(&mut repeated, Set::Repeated), (&mut moving, Set::Moving)] {
            for arm in [Arm::Floor, STAGE] {
                one(guest, (arm, set, 0), settings, &disk).await?;
            }
        }
    }
    let mut random = fastrand::Rng::with_seed(settings.seed);
    for index in 1..=settings.pairs {
        gathered.progress.step(&format!("pair {index} of {}", settings.pairs));
        let mut turns = [
            (Arm::Floor, Set::Repeated),
            (STAGE, Set::Repeated),
            (Arm::Floor, Set::Moving),
            (STAGE, Set::Moving),
        ];
        random.shuffle(&mut turns);
        for (arm, set) in turns {
            let guest = if set == Set::Repeated { &mut repeated } else { &mut moving };
            let row = one(guest, (arm, set, index), settings, &disk).await?;
            gathered.add(row);
        }
        for block in blocks::due(settings, index) {
            blocks::take(site, work, settings, (block, &disk), gathered).await?;
        }
        if index % 50 == 0 {
            gathered.progress.note(&format!("{index} of {} pairs", settings.pairs));
        }
    }
    Ok(format!("{}-{}", Set::Repeated, settings.pairs + WARM_UP))
}

/// One BRANCH of one arm. The disk is synced before and after, so that what it writes is its own.
async fn one(
    guest: &mut Guest<'_>,
    (arm, set, index): (Arm, Set, u32),
    settings: &Settings,
    disk: &Disk,
) -> Result<Row, Error> {
    let before = disk.synced_written_bytes()?;
    let pages = guest.dirty(set, settings.gap_ms).await?;
    let (phases, dirty_bytes) = match arm {
        Arm::Floor => guest.branch_bare(pages)?,
        Arm::Daemon(data_path) => {
            let branch = guest.branch(&set.to_string(), data_path, true).await?;
            if let Some(warning) = branch.warnings.first() {
                return Err(Error::Daemon { what: "could not do as asked".to_owned(), log: warning.clone() });
            }
            (phases(&branch), branch.diff_physical_bytes)
        }
    };
    let disk_bytes = Some(disk.synced_written_bytes()?.saturating_sub(before));
    Ok(Row { arm, set, index, phases, dirty_bytes, disk_bytes })
}
