//! Digests of files: BLAKE3, computed on all processors.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::pace::{Pace, Urgent};

/// Enough for the hash to use all processors on each piece, and little enough for a daemon to keep.
const BUFFER_BYTES: usize = 1 << 20;

/// A BLAKE3 digest, 64 hexadecimal digits in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes).into())
    }

    /// The digest of a file's contents.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        Self::of_open(&File::open(path)?, &Urgent)
    }

    /// The digest of the contents of an open file, whose offset stays. They are read and not mapped: a disk
    /// that fails is an error then, and not a signal. On all processors, unless nobody waits for it.
    pub fn of_open(file: &File, pace: &dyn Pace) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut offset = 0;
        loop {
            pace.next_piece()?;
            match file.read_at(&mut buffer, offset) {
                Ok(0) => return Ok(Self(hasher.finalize().into())),
                Ok(bytes) if pace.is_urgent() => {
                    hasher.update_rayon(&buffer[..bytes]);
                    offset += bytes as u64;
                }
                Ok(bytes) => {
                    hasher.update(&buffer[..bytes]);
                    offset += bytes as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The digest that this hasher has come to.
    pub fn of_hasher(hasher: &blake3::Hasher) -> Self {
        Self(hasher.finalize().into())
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The digest with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match blake3::Hash::from_hex(&text) {
            Ok(hash) => Ok(Self(hash.into())),
            Err(_) => Err(format!("{text:?} is no BLAKE3 digest")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Digest;

    #[test]
    fn text_and_digest_are_turned_into_each_other_and_other_text_is_refused() {
        let digest = Digest::of(b"x");
        assert_eq!(Digest::try_from(digest.to_string()), Ok(digest));
        assert!(Digest::try_from("abc".to_owned()).is_err());
    }

    #[test]
    fn a_file_has_the_digest_of_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![3; 300_000]).unwrap();
        assert_eq!(Digest::of_file(&path).unwrap(), Digest::of(&vec![3; 300_000]));
    }
}
