//! The files of a gate, and what it tells the system that runs it.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::progress::{print, say};
use crate::{Error, files};

use super::Document;
use super::render::{annotations, junit, markdown};

/// The file that holds the result.
pub const RESULT: &str = "gate.json";

/// Creates the folder; refuses one that holds a result.
pub fn prepare(out: &Path) -> Result<(), Error> {
    let result = out.join(RESULT);
    if result.exists() {
        let result = result.display();
        return Err(Error::Usage(format!("{result} exists: remove it, or choose another folder with --out")));
    }
    fs::create_dir_all(out).map_err(Error::file("create", out))
}

/// Writes `gate.json`, `gate.xml` and `gate.md`, and prints the summary and the files' paths; under GitHub
/// Actions an annotation for each verdict as well, and the summary to where the step's summary is.
pub fn write(out: &Path, document: &Document, mut written: Vec<PathBuf>) -> Result<(), Error> {
    let json = serde_json::to_vec_pretty(document)
        .map_err(|error| Error::Render { file: RESULT.to_owned(), reason: error.to_string() })?;
    let summary = markdown::render(document);
    written.insert(0, files::write(out, RESULT, &json)?);
    written.push(files::write(out, "gate.xml", junit::render(document).as_bytes())?);
    written.push(files::write(out, "gate.md", summary.as_bytes())?);
    print(&summary);
    print("\n");
    if env::var("GITHUB_ACTIONS").is_ok_and(|value| value == "true") {
        print(annotations::render(document));
    }
    if let Some(path) = env::var_os("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty()) {
        append(Path::new(&path), &summary);
    }
    for path in written {
        print(format_args!("{}\n", path.display()));
    }
    Ok(())
}

/// A summary that cannot be shown changes no verdict.
fn append(path: &Path, summary: &str) {
    let file = OpenOptions::new().create(true).append(true).open(path);
    if let Err(error) = file.and_then(|mut file| file.write_all(summary.as_bytes())) {
        say(format_args!("cannot append to the step's summary {}: {error}", path.display()));
    }
}
