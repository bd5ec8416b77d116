//! What is recorded beside the object.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::toolchain::Toolchain;

const RECORD: &str = "probes/ebpf/forkd-probes.json";
/// Everything of ours that the object is made of: files, and directories with all that is below them.
const SOURCES: [&str; 5] = [
    "probes-common/Cargo.toml",
    "probes-common/src",
    "probes-ebpf/Cargo.lock",
    "probes-ebpf/Cargo.toml",
    "probes-ebpf/src",
];

/// Where an object came from.
#[derive(Debug, PartialEq, Eq)]
pub struct Record {
    /// Over the sources, by path in the repository.
    pub sources_sha256: String,
    /// Over the object.
    pub object_sha256: String,
    /// Versions of everything that can change the bytes.
    pub toolchain: BTreeMap<String, String>,
}

impl Record {
    /// Of an object that was just built here.
    pub fn of(root: &Path, object: &[u8], toolchain: &Toolchain) -> Result<Self> {
        Ok(Self {
            sources_sha256: sources_sha256(root)?,
            object_sha256: hex(&Sha256::digest(object)),
            toolchain: toolchain.describe(),
        })
    }

    /// The committed one.
    pub fn read(root: &Path) -> Result<Self> {
        let text = fs::read_to_string(root.join(RECORD)).with_context(|| format!("reading {RECORD}"))?;
        let value: Value = serde_json::from_str(&text).with_context(|| format!("parsing {RECORD}"))?;
        let field = |name: &str| {
            let text = value[name].as_str().with_context(|| format!("{RECORD} has no {name}"))?;
            Ok::<_, anyhow::Error>(text.to_owned())
        };
        let toolchain = serde_json::from_value(value["toolchain"].clone())
            .with_context(|| format!("{RECORD} has no toolchain"))?;
        Ok(Self {
            sources_sha256: field("sources_sha256")?,
            object_sha256: field("object_sha256")?,
            toolchain,
        })
    }

    /// Takes the place of the committed one.
    pub fn write(&self, root: &Path) -> Result<()> {
        let value = json!({
            "sources_sha256": self.sources_sha256,
            "object_sha256": self.object_sha256,
            "toolchain": self.toolchain,
        });
        let text = format!("{}\n", serde_json::to_string_pretty(&value)?);
        fs::write(root.join(RECORD), text).with_context(|| format!("writing {RECORD}"))
    }
}

/// One digest over the paths, lengths and contents of all sources, whatever the place of the clone.
pub fn sources_sha256(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect(&root.join(source), &mut files)?;
    }
    files.sort();
    let mut digest = Sha256::new();
    for file in files {
        let contents = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        let path = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
        digest.update(format!("{path}\0{}\0", contents.len()));
        digest.update(&contents);
    }
    Ok(hex(&digest.finalize()))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(|| format!("listing {}", path.display()))? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn the_committed_object_was_built_from_the_sources_that_are_here() {
        let root = workspace::root();
        let record = Record::read(root).unwrap();
        let message = "the BPF object is older than its sources: run `cargo xtask ebpf`";
        assert_eq!(record.sources_sha256, sources_sha256(root).unwrap(), "{message}");
    }

    #[test]
    fn the_committed_object_is_the_one_that_was_recorded() {
        let root = workspace::root();
        let object = fs::read(root.join(super::super::OBJECT)).unwrap();
        assert_eq!(Record::read(root).unwrap().object_sha256, hex(&Sha256::digest(object)));
    }
}
