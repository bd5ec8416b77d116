//! The report on sweeps that were measured: reads their folders, writes pictures, tables and one page.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

use reports::run::Run;
use reports::sweep::{read, to_csv};
use reports::sweep_report::{Measured, SweepReport, html, markdown};

use crate::progress::print;
use crate::sweep::{RUN, SAMPLES, render_error};
use crate::{Error, files};

/// Writes `report.html`, `report.md`, `report.csv` and the pictures into `out`, and prints their paths. Replaces an
/// earlier report there, and no sweep.
pub fn write(folders: &[impl AsRef<Path>], out: &Path) -> Result<(), Error> {
    let sweeps = folders.iter().map(|folder| measured(folder.as_ref())).collect::<Result<_, _>>()?;
    let report = SweepReport::new(sweeps);
    if report.all.samples.is_empty() {
        return Err(Error::Usage("none of the sweeps has a sample: there is nothing to report".to_owned()));
    }
    let pictures = report.pictures().map_err(|error| render_error("the pictures", error))?;
    let csv = to_csv(&report.all).map_err(|error| render_error("report.csv", error))?;
    fs::create_dir_all(out).map_err(Error::file("create", out))?;
    let mut written = vec![
        files::write(out, "report.html", html(&report, &pictures, &csv).as_bytes())?,
        files::write(out, "report.md", markdown(&report, &pictures).as_bytes())?,
        files::write(out, "report.csv", &csv)?,
    ];
    for picture in &pictures {
        written.push(files::write(out, picture.file, &picture.png)?);
    }
    for path in written {
        print(format_args!("{}\n", path.display()));
    }
    Ok(())
}

fn measured(folder: &Path) -> Result<Measured, Error> {
    let path = folder.join(SAMPLES);
    let file = File::open(&path).map_err(|error| {
        Error::Usage(format!("{} holds no sweep: cannot read {}: {error}", folder.display(), path.display()))
    })?;
    let sweep = read(&path.display().to_string(), file).map_err(|error| Error::Usage(error.to_string()))?;
    let label = folder
        .canonicalize()
        .ok()
        .and_then(|folder| Some(folder.file_name()?.to_string_lossy().into_owned()));
    let label = label.unwrap_or_else(|| folder.display().to_string());
    Ok(Measured { label, run: run(&folder.join(RUN))?, sweep })
}

/// The run's description, where there is one: samples of other programs have none.
fn run(path: &Path) -> Result<Option<Run>, Error> {
    match fs::read(path) {
        Ok(json) => serde_json::from_slice(&json)
            .map(Some)
            .map_err(|error| Error::Usage(format!("{}: {error}", path.display()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("read", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use reports::sweep::{Sweep, to_csv};

    use super::write;
    use crate::sweep::testing::sample;

    #[test]
    fn samples_without_a_run_are_reported_and_the_page_holds_them() {
        let folder = tempfile::tempdir().unwrap();
        let samples = (1..=3).map(|index| sample("naive@tmpfs", 1, index, f64::from(index))).collect();
        let csv = to_csv(&Sweep { phases: Vec::new(), samples }).unwrap();
        std::fs::write(folder.path().join("sweep.csv"), csv).unwrap();
        let out = folder.path().join("out");
        write(&[folder.path()], &out).unwrap();
        let mut names: Vec<String> = std::fs::read_dir(&out)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        // No phases are known, and so there is no picture of them.
        let expected =
            ["distribution.png", "pause.png", "report.csv", "report.html", "report.md", "written.png"];
        assert_eq!(names, expected);
        let page = std::fs::read_to_string(out.join("report.html")).unwrap();
        assert!(page.contains("naive@tmpfs") && page.contains("there is no run.json"));
    }

    #[test]
    fn a_folder_without_samples_is_refused_in_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let error = write(&[folder.path()], folder.path()).unwrap_err();
        assert_eq!((error.exit_code(), error.to_string().lines().count()), (2, 1));
        let header = to_csv(&Sweep::default()).unwrap();
        std::fs::write(folder.path().join("sweep.csv"), header).unwrap();
        assert!(
            write(&[folder.path()], folder.path()).unwrap_err().to_string().contains("nothing to report")
        );
        std::fs::write(folder.path().join("sweep.csv"), "a,b\n1,2\n").unwrap();
        let error = write(&[folder.path()], folder.path()).unwrap_err().to_string();
        assert!(error.contains("sweep.csv, line 1: column 'cell' is missing"), "{error}");
    }
}
