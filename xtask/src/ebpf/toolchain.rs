//! Finds, or installs, what compiles for BPF.
//!
//! Stable Rust has no BPF target's `core`, so it is compiled along (`-Z build-std`), which takes a compiler
//! with its own library sources: Debian's `rustc-web` with `rust-web-src`, or rustup's nightly with
//! `rust-src`. The linker is `bpf-linker`, which loads the LLVM of the pinned toolchain.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{process, setup, workspace};

const LINKER_VERSION: &str = "0.10.1";
/// The packages that bring a compiler for BPF.
pub const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// Variables that cargo sets for what it runs, or a user for the host's builds; they must not reach the
/// build for BPF.
const NOT_INHERITED: [&str; 14] = [
    "CARGO",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_INCREMENTAL",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "CARGO_TARGET_DIR",
    "LD_LIBRARY_PATH",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];

/// A compiler with its library's sources, and the linker.
#[derive(Debug)]
pub struct Toolchain {
    /// The compiler.
    pub rustc: PathBuf,
    /// Its cargo.
    pub cargo: PathBuf,
    /// The directory that holds `bpf-linker`.
    pub linker_dir: PathBuf,
    /// The pinned toolchain's libraries, among them the LLVM that `bpf-linker` loads.
    pub llvm_dir: PathBuf,
    /// The pinned toolchain's `rust-objcopy`.
    pub objcopy: PathBuf,
    /// Where the compiler's library sources lie.
    pub rust_src: PathBuf,
    versions: BTreeMap<String, String>,
}

impl Toolchain {
    /// What this host has; installs what is missing, and says so.
    pub fn find_or_install() -> Result<Self> {
        let (rustc, cargo) = match compiler() {
            Some(found) => found,
            None => {
                install_compiler()?;
                compiler().context("the compiler was installed, and still is not found")?
            }
        };
        let mut pinned = Command::new("rustc");
        clean(&mut pinned).current_dir(workspace::root()).args(["--print", "sysroot"]);
        let pinned = PathBuf::from(printed(&mut pinned)?);
        let linker_dir = linker_dir()?;
        let rust_src = rust_src(&rustc).context("the compiler's library sources are gone")?;
        let host = host(&rustc)?;
        let versions = versions(&rustc, &linker_dir)?;
        let llvm_dir = pinned.join("lib");
        let objcopy = pinned.join("lib/rustlib").join(host).join("bin/rust-objcopy");
        Ok(Self { rustc, cargo, linker_dir, llvm_dir, objcopy, rust_src, versions })
    }

    /// Versions of everything that can change the bytes of an object.
    pub fn describe(&self) -> BTreeMap<String, String> {
        self.versions.clone()
    }
}

/// A command that does not see what cargo told this process.
pub fn clean(command: &mut Command) -> &mut Command {
    for name in NOT_INHERITED {
        command.env_remove(name);
    }
    command
}

/// A compiler and its cargo that have the library's sources, where the host has such.
pub fn compiler() -> Option<(PathBuf, PathBuf)> {
    let debian = (PathBuf::from("/usr/bin/rustc"), PathBuf::from("/usr/bin/cargo"));
    if debian.1.is_file() && rust_src(&debian.0).is_some() {
        return Some(debian);
    }
    let which = |tool: &str| {
        let mut rustup = Command::new("rustup");
        printed(clean(&mut rustup).args(["which", "--toolchain", "nightly", tool])).ok().map(PathBuf::from)
    };
    let nightly = (which("rustc")?, which("cargo")?);
    rust_src(&nightly.0).map(|_| nightly)
}

fn rust_src(rustc: &Path) -> Option<PathBuf> {
    let sysroot = printed(clean(&mut Command::new(rustc)).args(["--print", "sysroot"])).ok()?;
    let sources = Path::new(&sysroot).join("lib/rustlib/src/rust");
    sources.join("library/core/Cargo.toml").is_file().then_some(sources)
}

fn install_compiler() -> Result<()> {
    setup::install_packages(&DEBIAN_PACKAGES)
        .context("no compiler for BPF (`rustup toolchain install nightly --component rust-src` is one too)")
}

fn linker_dir() -> Result<PathBuf> {
    let ours = workspace::tools_dir().join("bin");
    let on_path = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>();
    let is_right = |dir: &PathBuf| {
        let version = printed(Command::new(dir.join("bpf-linker")).arg("--version")).unwrap_or_default();
        version == format!("bpf-linker {LINKER_VERSION}")
    };
    if let Some(found) = std::iter::once(ours.clone()).chain(on_path).find(is_right) {
        return Ok(found);
    }
    println!("ebpf: compiling bpf-linker {LINKER_VERSION}, which takes a minute or two, once");
    let mut cargo = Command::new("cargo");
    clean(&mut cargo).current_dir(workspace::root()).args(["install", "--locked", "--root"]);
    process::run(cargo.arg(workspace::tools_dir()).arg(format!("bpf-linker@{LINKER_VERSION}")))?;
    Ok(ours)
}

fn versions(rustc: &Path, linker_dir: &Path) -> Result<BTreeMap<String, String>> {
    let mut versions = BTreeMap::new();
    let verbose = printed(clean(&mut Command::new(rustc)).arg("-vV"))?;
    let llvm = verbose.lines().find_map(|line| line.strip_prefix("LLVM version: ")).unwrap_or("unknown");
    versions.insert("rustc".to_owned(), verbose.lines().next().unwrap_or("unknown").to_owned());
    versions.insert("llvm".to_owned(), llvm.to_owned());
    let pinned = printed(clean(&mut Command::new("rustc")).arg("--version").current_dir(workspace::root()))?;
    versions.insert("linker_llvm_of".to_owned(), pinned);
    versions
        .insert("linker".to_owned(), printed(Command::new(linker_dir.join("bpf-linker")).arg("--version"))?);
    for package in DEBIAN_PACKAGES.iter().filter(|_| rustc == Path::new("/usr/bin/rustc")) {
        let mut query = Command::new("dpkg-query");
        let version = printed(query.args(["--show", "--showformat=${Version}", package]));
        versions.insert((*package).to_owned(), version.unwrap_or_else(|_| "not a package".to_owned()));
    }
    Ok(versions)
}

fn host(rustc: &Path) -> Result<String> {
    let verbose = printed(clean(&mut Command::new(rustc)).arg("-vV"))?;
    let host = verbose.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV names no host")
}

fn printed(command: &mut Command) -> Result<String> {
    process::output(command).map(|text| text.trim().to_owned())
}
