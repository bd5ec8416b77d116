//! The compiled kernel side.

use std::borrow::Cow;
use std::path::PathBuf;
use std::{env, fs};

use crate::error::AttachError;

/// Names a file to load in place of the embedded object, so that a rebuilt one can be tested.
const OVERRIDE: &str = "FORKD_BPF_OBJECT";

/// The loader reads headers in place, which wants them aligned.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static EMBEDDED: &Aligned<[u8]> = &Aligned(*include_bytes!("../ebpf/forkd-probes.bpf.o"));

/// The object of `cargo xtask ebpf` that this crate was built with, or the file that `FORKD_BPF_OBJECT`
/// names.
pub fn bytes() -> Result<Cow<'static, [u8]>, AttachError> {
    match env::var_os(OVERRIDE).map(PathBuf::from) {
        None => Ok(Cow::Borrowed(&EMBEDDED.0)),
        Some(path) => fs::read(&path).map(Cow::Owned).map_err(|source| AttachError::Object { path, source }),
    }
}
