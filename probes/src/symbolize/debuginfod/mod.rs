//! Debug files from servers, by build-id (debuginfod(8) of elfutils). They are asked only where `DEBUGINFOD_URLS` names
//! some and nothing is being recorded. What they gave lies in the cache that all clients of the protocol share, and
//! is taken from there at any time.

#[cfg(test)]
pub mod server;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::NamedTempFile;
use thiserror::Error;
use ureq::Agent;

pub use settings::Settings;

use super::build_id;

/// Files that could not be had, and are listed by name.
const LISTED: usize = 4;
/// Bytes that are taken from a server at once.
const PIECE: usize = 64 << 10;

/// Why a debug file was not had.
#[derive(Debug, Error)]
enum FetchError {
    /// Each server said so.
    #[error("no server has it")]
    NotThere,
    /// A server cannot be reached, or breaks off.
    #[error("{url} does not answer: {reason}")]
    Silent { url: String, reason: String },
    /// A server takes too long.
    #[error("{url} takes longer than {} s: DEBUGINFOD_MAXTIME allows for more", max_time.as_secs_f32())]
    Slow { url: String, max_time: Duration },
    /// A server refuses, or has trouble of its own.
    #[error("{url} answers with status {status}")]
    Status { url: String, status: u16 },
    /// It is larger than is allowed.
    #[error("it has more than {max_bytes} bytes: DEBUGINFOD_MAXSIZE allows for more")]
    TooLarge { max_bytes: u64 },
    /// A server sent something else.
    #[error("{url} sent a file of another build")]
    OtherBuild { url: String },
    /// There is nowhere to put it.
    #[error("there is no place to keep it: name one with DEBUGINFOD_CACHE_PATH")]
    NoCache,
    /// It cannot be put there.
    #[error("cannot write {}: {source}", path.display())]
    Cache { path: PathBuf, source: io::Error },
}

/// What there is of a binary's symbols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A debug file of this very build.
    File(PathBuf),
    /// Nothing, but servers have not been asked yet.
    NotAsked,
    /// Nothing.
    Nothing,
}

/// A client.
#[derive(Debug)]
pub struct Debuginfod {
    settings: Settings,
    agent: Agent,
    may_fetch: bool,
    /// What became of each build-id that servers were asked for.
    asked: BTreeMap<String, Option<PathBuf>>,
    /// Servers that did not answer, and are not waited for again.
    silent: BTreeSet<String>,
    /// Each file that could not be had, and why.
    failures: Vec<String>,
}

impl Debuginfod {
    /// One that looks into the cache only, until [`Self::allow_fetching`].
    pub fn new(settings: Settings) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(settings.max_time))
            .user_agent(concat!("forkd-probe/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            settings,
            agent: Agent::new_with_config(config),
            may_fetch: false,
            asked: BTreeMap::new(),
            silent: BTreeSet::new(),
            failures: Vec::new(),
        }
    }

    /// Has servers asked from now on, which may take as long as the settings allow for each file.
    pub const fn allow_fetching(&mut self) {
        self.may_fetch = true;
    }

    /// The debug file of the build `build_id`, in hexadecimal; `name` is what a warning calls the binary.
    pub fn find(&mut self, build_id: &str, name: &str) -> Found {
        if let Some(place) = self.settings.place(build_id)
            && build_id::of_path(&place).as_deref() == Some(build_id)
        {
            return Found::File(place);
        }
        if !self.may_fetch {
            return Found::NotAsked;
        }
        if !self.asked.contains_key(build_id) {
            let fetched = self.fetch(build_id);
            let fetched = fetched.map_err(|error| self.failures.push(format!("{name} ({error})"))).ok();
            self.asked.insert(build_id.to_owned(), fetched);
        }
        self.asked.get(build_id).cloned().flatten().map_or(Found::Nothing, Found::File)
    }

    /// What could not be had, and why; `None` where there is no such.
    pub fn missed(&self) -> Option<String> {
        let count = self.failures.len();
        let listed = self.failures[..count.min(LISTED)].join(", ");
        let more = if count > LISTED { format!(", and {} more", count - LISTED) } else { String::new() };
        (count > 0).then(|| format!("debuginfod had no symbols for {listed}{more}"))
    }

    /// The same for a report, with what comes of it: one sentence.
    pub fn warning(&self) -> Option<String> {
        let them = if self.failures.len() == 1 { "its" } else { "their" };
        Some(format!("{}: {them} functions and variables are named by their place", self.missed()?))
    }

    /// From the first server that has it.
    fn fetch(&mut self, build_id: &str) -> Result<PathBuf, FetchError> {
        let place = self.settings.place(build_id).ok_or(FetchError::NoCache)?;
        let folder = self.settings.cache.as_deref().ok_or(FetchError::NoCache)?;
        fs::create_dir_all(folder).map_err(unwritable(folder))?;
        let mut why = FetchError::NotThere;
        for url in &self.settings.urls {
            if self.silent.contains(url) {
                why = FetchError::Silent { url: url.clone(), reason: "it did not before".to_owned() };
                continue;
            }
            match self.ask(url, build_id, folder) {
                Ok(file) => return keep(file, place),
                Err(FetchError::NotThere) => {}
                Err(error) => {
                    if matches!(error, FetchError::Silent { .. } | FetchError::Slow { .. }) {
                        self.silent.insert(url.clone());
                    }
                    why = error;
                }
            }
        }
        Err(why)
    }

    /// What one server has, in a file in `folder` that goes if it is not kept.
    fn ask(&self, url: &str, build_id: &str, folder: &Path) -> Result<NamedTempFile, FetchError> {
        let max_bytes = self.settings.max_bytes;
        let answer = self.agent.get(format!("{url}/buildid/{build_id}/debuginfo")).call();
        let body = answer.map_err(|error| self.no_answer(url, &error))?.into_body();
        if body.content_length().is_some_and(|bytes| bytes > max_bytes) {
            return Err(FetchError::TooLarge { max_bytes });
        }
        let mut file = NamedTempFile::new_in(folder).map_err(unwritable(folder))?;
        let (mut reader, mut piece, mut left) = (body.into_reader(), vec![0; PIECE], max_bytes);
        loop {
            let bytes = reader.read(&mut piece).map_err(|error| self.no_answer(url, &error.into()))?;
            if bytes == 0 {
                break;
            }
            left = left.checked_sub(bytes as u64).ok_or(FetchError::TooLarge { max_bytes })?;
            file.write_all(&piece[..bytes]).map_err(unwritable(folder))?;
        }
        match build_id::of_path(file.path()).as_deref() == Some(build_id) {
            true => Ok(file),
            false => Err(FetchError::OtherBuild { url: url.to_owned() }),
        }
    }

    fn no_answer(&self, url: &str, error: &ureq::Error) -> FetchError {
        let url = url.to_owned();
        match error {
            ureq::Error::StatusCode(404) => FetchError::NotThere,
            ureq::Error::StatusCode(status) => FetchError::Status { url, status: *status },
            ureq::Error::Timeout(_) => FetchError::Slow { url, max_time: self.settings.max_time },
            other => FetchError::Silent { url, reason: other.to_string() },
        }
    }
}

/// Puts a whole file into its place: nobody sees it before.
fn keep(file: NamedTempFile, place: PathBuf) -> Result<PathBuf, FetchError> {
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder).map_err(unwritable(folder))?;
    }
    match file.persist(&place) {
        Ok(_) => Ok(place),
        Err(error) => Err(unwritable(&place)(error.error)),
    }
}

fn unwritable(path: &Path) -> impl Fn(io::Error) -> FetchError {
    move |source| FetchError::Cache { path: path.to_owned(), source }
}
