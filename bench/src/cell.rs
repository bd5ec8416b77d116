//! Cells: what is measured against what.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use forkd::api::{BranchMode, DataPath};

use crate::neighbour::Neighbour;

/// What a snapshot root lies on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Root {
    /// A fresh file system with default options, in a sparse file on a loop device.
    Loop(FileSystem),
    /// A fresh tmpfs: the control without a disk.
    Tmpfs,
    /// A fresh folder below this one, on the file system that is there.
    Folder(PathBuf),
    /// Whatever the daemon at `--url` uses.
    Daemon,
}

/// A file system that can be made on a loop device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileSystem {
    /// Journalled, in blocks that are overwritten in place.
    Ext4,
    /// Journals metadata, allocates late, can share blocks.
    Xfs,
    /// Never overwrites in place, can share blocks.
    Btrfs,
}

impl FileSystem {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    /// The kernel's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }
}

impl Root {
    /// Its name in files; that of a folder does not say which.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Loop(FileSystem::Ext4) => "ext4-loop",
            Self::Loop(FileSystem::Xfs) => "xfs-loop",
            Self::Loop(FileSystem::Btrfs) => "btrfs-loop",
            Self::Tmpfs => "tmpfs",
            Self::Folder(_) => "folder",
            Self::Daemon => "daemon",
        }
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "folder:{}", path.display()),
            _ => f.write_str(self.name()),
        }
    }
}

impl FromStr for Root {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let on_loop = FileSystem::ALL.map(Self::Loop).into_iter().find(|root| root.name() == name);
        match (on_loop, name, name.strip_prefix("folder:")) {
            (Some(root), ..) => Ok(root),
            (_, "tmpfs", _) => Ok(Self::Tmpfs),
            (_, _, Some(path)) if path.starts_with('/') => Ok(Self::Folder(PathBuf::from(path))),
            _ => Err(format!(
                "no snapshot root is called '{name}': use ext4-loop, xfs-loop, btrfs-loop, tmpfs or folder:/PATH"
            )),
        }
    }
}

/// A data path on a snapshot root.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// How the BRANCH's bytes get to disk.
    pub data_path: DataPath,
    /// Where they go.
    pub root: Root,
}

impl Place {
    /// Every data path on every root, root by root.
    pub fn matrix(data_paths: &[DataPath], roots: &[Root]) -> Vec<Self> {
        let pairs = roots.iter().flat_map(|root| data_paths.iter().map(move |data_path| (*data_path, root)));
        pairs.map(|(data_path, root)| Self { data_path, root: root.clone() }).collect()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.data_path.name(), self.root)
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (data_path, root) = text
            .split_once('@')
            .ok_or_else(|| format!("'{text}' is not DATA_PATH@ROOT, as naive@tmpfs is"))?;
        Ok(Self { data_path: data_path.parse()?, root: root.parse()? })
    }
}

/// One combination that is measured.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cell {
    /// How the BRANCH's bytes get to disk.
    pub data_path: DataPath,
    /// Where they go.
    pub root: Root,
    /// What is asked of Firecracker.
    pub mode: BranchMode,
    /// Guest memory in MiB.
    pub mem_mib: u32,
    /// Pages (4 KiB) that the guest dirties before each BRANCH.
    pub dirty_pages: u64,
    /// Time between dirtying the pages and the BRANCH.
    pub gap_ms: u64,
    /// What else uses the file system meanwhile.
    pub neighbour: Neighbour,
    /// What the loop device is throttled to, in bytes a second each way.
    pub disk_bps: Option<u64>,
    /// Its name within its sweep: the data path and the root, and whatever else differs between the cells.
    pub name: String,
}

/// Every value of every condition; a cell is one of each.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// Data paths on roots.
    pub places: Vec<Place>,
    /// Modes of the BRANCH.
    pub modes: Vec<BranchMode>,
    /// Guest memory in MiB.
    pub mem_mib: Vec<u32>,
    /// Pages that are dirtied before each BRANCH.
    pub dirty_pages: Vec<u64>,
    /// Time between dirtying and the BRANCH.
    pub gap_ms: Vec<u64>,
    /// Loads beside the BRANCHes.
    pub neighbours: Vec<Neighbour>,
    /// Speeds of the loop device, in bytes a second; `None` for as fast as it is.
    pub disk_bps: Vec<Option<u64>>,
}

impl Matrix {
    /// One value of every condition, the usual one, on these places.
    pub fn of(places: Vec<Place>) -> Self {
        Self {
            places,
            modes: vec![BranchMode::Diff],
            mem_mib: vec![512],
            dirty_pages: vec![4096],
            gap_ms: vec![3000],
            neighbours: vec![Neighbour::None],
            disk_bps: vec![None],
        }
    }

    /// Every combination once, the places outermost. A root without a loop device is not throttled, and stands
    /// once for all speeds.
    pub fn cells(&self) -> Vec<Cell> {
        let mut cells: Vec<Cell> = Vec::new();
        for place in &self.places {
            for mut cell in self.at(place) {
                cell.disk_bps = cell.disk_bps.filter(|_| matches!(cell.root, Root::Loop(_)));
                if !cells.contains(&cell) {
                    cells.push(cell);
                }
            }
        }
        for cell in &mut cells {
            cell.name = self.name(cell);
        }
        cells
    }

    fn at(&self, place: &Place) -> Vec<Cell> {
        let mut cells = vec![Cell {
            data_path: place.data_path,
            root: place.root.clone(),
            mode: BranchMode::Diff,
            mem_mib: 0,
            dirty_pages: 0,
            gap_ms: 0,
            neighbour: Neighbour::None,
            disk_bps: None,
            name: String::new(),
        }];
        cross(&mut cells, &self.modes, |cell, mode| cell.mode = mode);
        cross(&mut cells, &self.mem_mib, |cell, mem_mib| cell.mem_mib = mem_mib);
        cross(&mut cells, &self.dirty_pages, |cell, pages| cell.dirty_pages = pages);
        cross(&mut cells, &self.gap_ms, |cell, gap_ms| cell.gap_ms = gap_ms);
        cross(&mut cells, &self.disk_bps, |cell, bps| cell.disk_bps = bps);
        cross(&mut cells, &self.neighbours, |cell, neighbour| cell.neighbour = neighbour);
        cells
    }

    /// `naive@ext4-loop`, then what has several values here, as in `naive@ext4-loop full 512MiB beside fsync`.
    fn name(&self, cell: &Cell) -> String {
        let several = [
            (self.modes.len() > 1, cell.mode.name().to_owned()),
            (self.mem_mib.len() > 1, format!("{}MiB", cell.mem_mib)),
            (self.dirty_pages.len() > 1, format!("{}p", cell.dirty_pages)),
            (self.gap_ms.len() > 1, format!("{}ms", cell.gap_ms)),
            (self.disk_bps.len() > 1, speed(cell.disk_bps)),
            (self.neighbours.len() > 1, format!("beside {}", cell.neighbour.name())),
        ];
        let place = Place { data_path: cell.data_path, root: cell.root.clone() }.to_string();
        let named = several.into_iter().filter(|(several, name)| *several && !name.is_empty());
        named.fold(place, |name, (_, part)| format!("{name} {part}"))
    }
}

/// Each of `cells` once with each of `values`.
fn cross<T: Copy>(cells: &mut Vec<Cell>, values: &[T], set: impl Fn(&mut Cell, T)) {
    let with = |cell: &Cell, value: T| {
        let mut cell = cell.clone();
        set(&mut cell, value);
        cell
    };
    *cells = cells
        .iter()
        .flat_map(|cell| values.iter().map(|&value| with(cell, value)).collect::<Vec<_>>())
        .collect();
}

/// `100MB/s`: disks are sold in powers of ten. Empty for a disk that is not throttled.
fn speed(bps: Option<u64>) -> String {
    bps.map_or_else(String::new, |bps| format!("{}MB/s", bps as f64 / 1e6))
}

#[cfg(test)]
mod tests {
    use super::{FileSystem, Matrix, Neighbour, Place, Root};
    use forkd::api::{BranchMode, DataPath};

    #[test]
    fn a_place_reads_back_from_its_name() {
        let folder = Root::Folder("/mnt/disk".into());
        let roots = [Root::Loop(FileSystem::Ext4), Root::Loop(FileSystem::Btrfs), Root::Tmpfs, folder];
        for place in Place::matrix(&[DataPath::Naive, DataPath::Fallocate], &roots) {
            assert_eq!(place.to_string().parse(), Ok(place));
        }
        assert!("naive".parse::<Place>().is_err());
        assert!("naive@folder:here".parse::<Place>().is_err());
        assert!("naive@floppy".parse::<Place>().unwrap_err().contains("use ext4-loop, xfs-loop"));
    }

    #[test]
    fn what_is_named_twice_is_measured_once() {
        let places = Place::matrix(&[DataPath::Naive; 2], &[Root::Tmpfs, Root::Tmpfs]);
        assert_eq!(Matrix::of(places).cells().len(), 1);
    }

    #[test]
    fn a_cell_is_named_by_what_differs_and_the_names_are_all_different() {
        let places = Place::matrix(&[DataPath::Naive], &[Root::Loop(FileSystem::Ext4), Root::Tmpfs]);
        let cells = Matrix {
            modes: vec![BranchMode::Diff, BranchMode::Full],
            disk_bps: vec![None, Some(100_000_000)],
            neighbours: vec![Neighbour::None, Neighbour::Fsync],
            ..Matrix::of(places)
        }
        .cells();
        // tmpfs has no disk to throttle.
        assert_eq!(cells.len(), 2 * 2 * 2 + 2 * 2);
        assert_eq!(cells[0].name, "naive@ext4-loop diff beside none");
        assert_eq!(cells[3].name, "naive@ext4-loop diff 100MB/s beside fsync");
        let mut names: Vec<_> = cells.iter().map(|cell| &cell.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), cells.len());
    }
}
