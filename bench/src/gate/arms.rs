//! The two programs that are measured, each in a place of its own below the work folder, with paths of equal length:
//! a longer path is a larger stack at start, and shifts what lies on it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::cell::Cell;
use crate::site::Programs;
use crate::work::Work;
use forkd::api::DataPath;

use super::disturb::Disturbance;
use super::revisions;

/// Where an arm's daemon comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A program.
    Binary(PathBuf),
    /// A git revision of the repository in the current folder, which is built.
    Revision(String),
}

/// One arm, as asked for.
#[derive(Clone, Debug)]
pub struct ArmRequest {
    /// Its daemon.
    pub source: Source,
    /// Its data path, in place of that of the cells.
    pub data_path: Option<DataPath>,
    /// Further arguments of its `forkd serve`.
    pub serve_args: Vec<String>,
    /// What is done to it while it is measured, to see whether the gate notices.
    pub disturbance: Option<Disturbance>,
}

impl ArmRequest {
    /// What it is, for people.
    pub fn what(&self) -> String {
        let source = match &self.source {
            Source::Binary(path) => near(path).display().to_string(),
            Source::Revision(revision) => format!("revision {revision}"),
        };
        let data_path = self.data_path.map(|data_path| format!("data path {}", data_path.name()));
        let arguments = (!self.serve_args.is_empty()).then(|| self.serve_args.join(" "));
        let disturbance = self.disturbance.as_ref().map(ToString::to_string);
        let parts = [Some(source), data_path, arguments, disturbance];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// The cell that this arm measures where `cell` is asked for.
    pub fn cell(&self, cell: Cell) -> Cell {
        let data_path = self.data_path.unwrap_or(cell.data_path);
        let elsewhere = cell.name.split_once('@').map_or("", |(_, elsewhere)| elsewhere);
        Cell { data_path, name: format!("{}@{elsewhere}", data_path.name()), ..cell }
    }
}

/// The arms' programs. Dropping it removes them.
#[derive(Debug)]
pub struct Arms {
    folder: PathBuf,
    /// Baseline and candidate.
    pub programs: [Programs; 2],
}

impl Arms {
    /// Builds what must be built, and puts each program into its place.
    pub fn ready(work: &Work, requests: [&ArmRequest; 2], firecracker: &Path) -> Result<Self, Error> {
        let folder = work.folder().join("arms");
        remove(&folder)?;
        let place = |name: &str| folder.join(name).join("forkd");
        let places = [place("a"), place("b")];
        let programs = [0, 1].map(|arm| Programs {
            forkd: places[arm].clone(),
            firecracker: firecracker.to_owned(),
            serve_args: requests[arm].serve_args.clone(),
        });
        let arms = Self { folder: folder.clone(), programs };
        for (request, place) in requests.into_iter().zip(&places) {
            let parent = place.parent().unwrap_or(&folder);
            fs::create_dir_all(parent).map_err(Error::file("create", parent))?;
            match &request.source {
                Source::Binary(path) => copy(path, place)?,
                Source::Revision(revision) => revisions::build(revision, &folder, place)?,
            }
        }
        Ok(arms)
    }
}

impl Drop for Arms {
    fn drop(&mut self) {
        let _ = remove(&self.folder);
    }
}

/// The path as seen from the current folder, where it lies below.
fn near(path: &Path) -> &Path {
    let here = std::env::current_dir().ok();
    here.and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path)
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    fs::copy(from, to).map(drop).map_err(Error::file("copy", from))
}

fn remove(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::file("remove", folder)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_have_paths_of_one_length_and_go_with_their_guard() {
        let folder = tempfile::tempdir().unwrap();
        let programs = ["old", "a-much-longer-name"].map(|name| {
            let path = folder.path().join(name);
            fs::write(&path, name).unwrap();
            path
        });
        let request = |path: &PathBuf, data_path| ArmRequest {
            source: Source::Binary(path.clone()),
            data_path,
            serve_args: vec!["--x".to_owned()],
            disturbance: None,
        };
        let requests = [request(&programs[0], None), request(&programs[1], Some(DataPath::Naive))];
        let (work, _) = Work::take(&folder.path().join("work")).unwrap();
        let arms = Arms::ready(&work, [&requests[0], &requests[1]], Path::new("/vmm")).unwrap();
        let placed = arms.programs.clone().map(|programs| programs.forkd);
        assert_eq!(placed[0].as_os_str().len(), placed[1].as_os_str().len());
        assert_eq!(
            placed.clone().map(|path| fs::read_to_string(path).unwrap()),
            ["old", "a-much-longer-name"]
        );
        assert!(requests[1].what().ends_with("a-much-longer-name, data path naive, --x"));
        drop(arms);
        assert!(!placed[0].exists() && !placed[1].exists());
    }
}
