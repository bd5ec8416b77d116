//! The compiled kernel side of the probes: built from source, recorded, and compared.
//!
//! The object is committed, so that a user needs stable Rust only. What it was built from, and with, is
//! recorded beside it. Its bytes depend on neither the place of the clone nor the name of the registry.

mod build;
mod record;
mod toolchain;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace;
use record::Record;
use toolchain::Toolchain;
pub use toolchain::{DEBIAN_PACKAGES, compiler};

const OBJECT: &str = "probes/ebpf/forkd-probes.bpf.o";

/// Builds the object, and writes it and its record into the repository. Installs what that needs.
pub fn rebuild(root: &Path) -> Result<()> {
    let toolchain = Toolchain::find_or_install()?;
    let object = build::object(root, &toolchain)?;
    let record = Record::of(root, &object, &toolchain)?;
    let path = root.join(OBJECT);
    fs::write(&path, &object).with_context(|| format!("writing {}", path.display()))?;
    record.write(root)?;
    println!("{OBJECT}: {} bytes, sha256 {}", object.len(), record.object_sha256);
    Ok(())
}

/// An object that was built beside the committed one.
pub struct Rebuilt {
    /// Where it is, for `FORKD_BPF_OBJECT`.
    pub path: PathBuf,
    /// Why its bytes could not be compared with the committed ones; they are the same where this is absent.
    pub not_compared: Option<String>,
}

/// Builds the object beside the committed one and compares the two. Installs what that needs.
///
/// The same toolchain must give the same bytes. Another may not, and then they are not compared.
pub fn check(root: &Path) -> Result<Rebuilt> {
    let committed = Record::read(root)?;
    if committed.sources_sha256 != record::sources_sha256(root)? {
        bail!("{OBJECT} was built from other sources than are here: run `cargo xtask ebpf`");
    }
    let toolchain = Toolchain::find_or_install()?;
    let object = build::object(root, &toolchain)?;
    let here = toolchain.describe();
    let not_compared = (committed.toolchain != here)
        .then(|| format!("recorded with {:?}, built here with {here:?}", committed.toolchain));
    if not_compared.is_some() {
        println!("{OBJECT}: rebuilt from source with another toolchain, so not compared");
    } else if fs::read(root.join(OBJECT)).with_context(|| format!("reading {OBJECT}"))? != object {
        bail!("{OBJECT} is not what its sources give with the toolchain it records: run `cargo xtask ebpf`");
    } else {
        println!("{OBJECT}: rebuilt from source, byte for byte the same");
    }
    let path = workspace::target_dir().join("ebpf").join("forkd-probes.bpf.o");
    fs::write(&path, &object).with_context(|| format!("writing {}", path.display()))?;
    Ok(Rebuilt { path, not_compared })
}
