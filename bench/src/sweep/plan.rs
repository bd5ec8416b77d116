//! Settings as `run.json` has them, and back.

use std::str::FromStr;
use std::time::Duration;

use forkd::api::BranchMode;
use reports::run::{Plan, PlannedCell};

use super::Settings;
use crate::cell::{Cell, Place};

/// What `run.json` says of `settings`.
pub fn of(settings: &Settings) -> Plan {
    Plan {
        cells: settings.cells.iter().map(|cell| cell.name.clone()).collect(),
        matrix: settings.cells.iter().map(planned).collect(),
        trials: settings.trials,
        branches: settings.branches,
        durable: settings.durable,
        seed: settings.seed,
        drain_limit_ms: settings.drain_limit.as_millis() as u64,
        disk_note: settings.disk_note.clone(),
    }
}

/// The settings that `plan` was made of, or which of its words none have.
pub fn settings(plan: &Plan) -> Result<Settings, String> {
    Ok(Settings {
        cells: plan.matrix.iter().map(cell).collect::<Result<_, _>>()?,
        trials: plan.trials,
        branches: plan.branches,
        durable: plan.durable,
        seed: plan.seed,
        drain_limit: Duration::from_millis(plan.drain_limit_ms),
        disk_note: plan.disk_note.clone(),
    })
}

/// A mode of BRANCH from its name.
pub fn mode(name: &str) -> Result<BranchMode, String> {
    let mut modes = [BranchMode::Diff, BranchMode::Full].into_iter();
    let found = modes.find(|mode| mode.name() == name);
    found.ok_or_else(|| format!("no mode is called '{name}': use diff or full"))
}

fn planned(cell: &Cell) -> PlannedCell {
    PlannedCell {
        cell: cell.name.clone(),
        data_path: cell.data_path.name().to_owned(),
        root: cell.root.to_string(),
        mode: cell.mode.name().to_owned(),
        mem_mib: cell.mem_mib,
        dirty_pages: cell.dirty_pages,
        gap_ms: cell.gap_ms,
        neighbour: cell.neighbour.name().to_owned(),
        disk_bps: cell.disk_bps,
    }
}

fn cell(planned: &PlannedCell) -> Result<Cell, String> {
    let Place { data_path, root } = Place::from_str(&format!("{}@{}", planned.data_path, planned.root))?;
    Ok(Cell {
        data_path,
        root,
        mode: mode(&planned.mode)?,
        mem_mib: planned.mem_mib,
        dirty_pages: planned.dirty_pages,
        gap_ms: planned.gap_ms,
        neighbour: planned.neighbour.parse()?,
        disk_bps: planned.disk_bps,
        name: planned.cell.clone(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use forkd::api::{BranchMode, DataPath};

    use super::{of, settings};
    use crate::cell::{FileSystem, Matrix, Place, Root};
    use crate::neighbour::Neighbour;
    use crate::sweep::Settings;

    #[test]
    fn settings_read_back_from_their_plan() {
        let roots = [Root::Loop(FileSystem::Xfs), Root::Tmpfs, Root::Folder("/mnt/a b".into())];
        let matrix = Matrix {
            modes: vec![BranchMode::Diff, BranchMode::Full],
            mem_mib: vec![64, 512],
            dirty_pages: vec![1, 256],
            gap_ms: vec![0],
            neighbours: vec![Neighbour::Read],
            disk_bps: vec![Some(1), None],
            ..Matrix::of(Place::matrix(&DataPath::ALL, &roots))
        };
        let settings_of = Settings {
            cells: matrix.cells(),
            trials: 3,
            branches: 10,
            durable: true,
            seed: u64::MAX,
            drain_limit: Duration::from_secs(5),
            disk_note: Some("QEMU, 100 MB/s".to_owned()),
        };
        assert_eq!(settings(&of(&settings_of)), Ok(settings_of));
    }

    #[test]
    fn a_sweep_of_a_running_daemon_has_no_settings_to_go_on_with() {
        let places = vec![Place { data_path: DataPath::Stage, root: Root::Daemon }];
        let cells = Matrix::of(places).cells();
        let settings_of = Settings {
            cells,
            trials: 1,
            branches: 1,
            durable: false,
            seed: 0,
            drain_limit: Duration::ZERO,
            disk_note: None,
        };
        assert!(settings(&of(&settings_of)).unwrap_err().contains("'daemon'"));
    }
}
