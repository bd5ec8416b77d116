//! Compiles the object, and takes out of its bytes whatever depends on where it was compiled.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::toolchain::{Toolchain, clean};
use crate::{process, workspace};

const TARGET: &str = "bpfel-unknown-none";
/// Separates flags in `CARGO_ENCODED_RUSTFLAGS`, so that paths may hold spaces.
const FLAG_SEPARATOR: &str = "\x1f";

/// The bytes of the object that the sources under `root` give.
pub fn object(root: &Path, toolchain: &Toolchain) -> Result<Vec<u8>> {
    let target_dir = workspace::target_dir().join("ebpf");
    // First, because the names of the registry's directories are among the paths to be taken out.
    process::run(cargo(root, toolchain)?.args(["fetch", "--locked"]))?;
    let mut build = cargo(root, toolchain)?;
    build
        .env("CARGO_TARGET_DIR", &target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(root, toolchain)?)
        .args(["build", "--locked", "--release", "-Z", "build-std=core", "--target", TARGET]);
    process::run(&mut build)?;
    let linked = target_dir.join(TARGET).join("release/forkd-probes");
    let (renamed, stripped) =
        (target_dir.join("forkd-probes.renamed"), target_dir.join("forkd-probes.stripped"));
    let object = fs::read(&linked).with_context(|| format!("reading {}", linked.display()))?;
    // Before the names are laid out anew, in an order that depends on them.
    fs::write(&renamed, with_valid_union_names(without_symbol_hashes(object)))
        .with_context(|| format!("writing {}", renamed.display()))?;
    // DWARF goes; .BTF and .BTF.ext, which the kernel reads, are no debug sections to this tool.
    process::run(Command::new(&toolchain.objcopy).arg("--strip-debug").arg(&renamed).arg(&stripped))?;
    fs::read(&stripped).with_context(|| format!("reading {}", stripped.display()))
}

/// Overwrites the hash in each mangled name: it is made of the path of the crate, among others. Legacy mangling gives
/// it the same length everywhere: `17h`, sixteen hexadecimal digits, `E`.
fn without_symbol_hashes(mut object: Vec<u8>) -> Vec<u8> {
    const BEFORE: &[u8] = b"17h";
    const DIGITS: usize = 16;
    for at in 0..object.len().saturating_sub(BEFORE.len() + DIGITS) {
        let (start, end) = (at + BEFORE.len(), at + BEFORE.len() + DIGITS);
        let is_hash = object[at..].starts_with(BEFORE)
            && object[start..end].iter().all(u8::is_ascii_hexdigit)
            && object[end] == b'E';
        if is_hash {
            object[start..end].fill(b'0');
        }
    }
    object
}

/// Spells names of generic unions so that the kernel takes them: the linker does it for structures only, and the
/// level of the logging library is one.
fn with_valid_union_names(mut object: Vec<u8>) -> Vec<u8> {
    const UNION: &[u8] = b"MaybeUninit<";
    for at in 0..object.len().saturating_sub(UNION.len()) {
        let name = &mut object[at..];
        if !name.starts_with(UNION) {
            continue;
        }
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        let is_identifier = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        name[..end].iter_mut().filter(|byte| !is_identifier(byte)).for_each(|byte| *byte = b'_');
    }
    object
}

fn cargo(root: &Path, toolchain: &Toolchain) -> Result<Command> {
    let mut command = Command::new(&toolchain.cargo);
    let inherited = env::var_os("PATH").unwrap_or_default();
    let path =
        env::join_paths(std::iter::once(toolchain.linker_dir.clone()).chain(env::split_paths(&inherited)))?;
    clean(&mut command)
        .current_dir(root.join("probes-ebpf"))
        .env("PATH", path)
        .env("RUSTC", &toolchain.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("LD_LIBRARY_PATH", &toolchain.llvm_dir);
    Ok(command)
}

fn flags(root: &Path, toolchain: &Toolchain) -> Result<OsString> {
    let mut flags: Vec<OsString> = [
        "-Clinker=bpf-linker",
        "-Cpanic=abort",
        "-Cdebuginfo=2",
        "-Ctarget-cpu=v3",
        "-Clink-arg=--btf",
        "-Zunstable-options",
        "-Csymbol-mangling-version=legacy",
    ]
    .map(OsString::from)
    .into();
    // The last that matches wins, so the wider come first.
    flags.push(remap(root, "/forkd"));
    for registry in registries()? {
        flags.push(remap(&registry, "/registry"));
    }
    // Debian's is a link to another place, and the compiler names both.
    for sources in [&toolchain.rust_src, &fs::canonicalize(&toolchain.rust_src)?] {
        flags.push(remap(sources, "/rust"));
    }
    Ok(flags.join(std::ffi::OsStr::new(FLAG_SEPARATOR)))
}

fn remap(from: &Path, to: &str) -> OsString {
    let mut flag = OsString::from("--remap-path-prefix=");
    flag.push(from);
    flag.push(format!("={to}"));
    flag
}

/// The directories under `registry/src` of cargo's home: their names hold a hash of the registry's address.
fn registries() -> Result<Vec<PathBuf>> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home =
        home.or_else(|| env::home_dir().map(|home| home.join(".cargo"))).context("no home directory")?;
    let sources = home.join("registry/src");
    let entries = fs::read_dir(&sources).with_context(|| format!("listing {}", sources.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::{with_valid_union_names, without_symbol_hashes};

    #[test]
    fn only_the_hash_of_a_mangled_name_is_overwritten() {
        let text = "_ZN1a1b17h0123456789abcdefE 17h0123 17h0123456789abcdefF 17h0123456789abcdef";
        let expected = text.replacen("0123456789abcdef", "0000000000000000", 1);
        assert_eq!(without_symbol_hashes(text.into()), expected.as_bytes());
        assert_eq!(without_symbol_hashes(Vec::new()), b"");
    }

    #[test]
    fn a_generic_unions_name_is_made_an_identifier_of_the_same_length() {
        let text = b"Global<u8>\0MaybeUninit<a::B, u8>\0MaybeUninit\0<u8>";
        let expected = b"Global<u8>\0MaybeUninit_a__B__u8_\0MaybeUninit\0<u8>";
        assert_eq!(with_valid_union_names(text.to_vec()), expected);
        assert_eq!(with_valid_union_names(Vec::new()), b"");
    }
}
