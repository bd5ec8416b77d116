//! The cells of a sweep: a data path on a snapshot root.

use std::fmt;
use std::str::FromStr;

use forkd::api::DataPath;

/// What a snapshot root lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Root {
    /// A fresh ext4 with default options, in a sparse file on a loop device.
    Ext4Loop,
    /// A fresh tmpfs: the control without a disk.
    Tmpfs,
    /// Whatever the daemon at `--url` uses.
    Daemon,
}

impl Root {
    /// Its name in cells, files and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4Loop => "ext4-loop",
            Self::Tmpfs => "tmpfs",
            Self::Daemon => "daemon",
        }
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Root {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "ext4-loop" => Ok(Self::Ext4Loop),
            "tmpfs" => Ok(Self::Tmpfs),
            _ => Err(format!("no snapshot root is called '{name}': use ext4-loop or tmpfs")),
        }
    }
}

/// One combination that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cell {
    /// How the BRANCH's bytes get to disk.
    pub data_path: DataPath,
    /// Where they go.
    pub root: Root,
}

impl Cell {
    /// Every data path on every root, root by root.
    pub fn matrix(data_paths: &[DataPath], roots: &[Root]) -> Vec<Self> {
        let pairs = roots.iter().flat_map(|&root| data_paths.iter().map(move |&data_path| (data_path, root)));
        let mut cells = Vec::new();
        for (data_path, root) in pairs {
            let cell = Self { data_path, root };
            if !cells.contains(&cell) {
                cells.push(cell);
            }
        }
        cells
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.data_path.name(), self.root)
    }
}

impl FromStr for Cell {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (data_path, root) = text
            .split_once('@')
            .ok_or_else(|| format!("'{text}' is not DATA_PATH@ROOT, as naive@tmpfs is"))?;
        Ok(Self { data_path: data_path.parse()?, root: root.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::{Cell, Root};
    use forkd::api::DataPath;

    #[test]
    fn a_cell_reads_back_from_its_name() {
        for cell in Cell::matrix(&[DataPath::Naive, DataPath::Fallocate], &[Root::Ext4Loop, Root::Tmpfs]) {
            assert_eq!(cell.to_string().parse(), Ok(cell));
        }
        assert!("naive".parse::<Cell>().is_err());
        assert!("naive@floppy".parse::<Cell>().unwrap_err().contains("use ext4-loop or tmpfs"));
    }

    #[test]
    fn what_is_named_twice_is_measured_once() {
        assert_eq!(Cell::matrix(&[DataPath::Naive; 2], &[Root::Tmpfs; 2]).len(), 1);
    }
}
