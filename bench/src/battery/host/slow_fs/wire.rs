//! The messages of FUSE, as far as they are used here: `include/uapi/linux/fuse.h` of the kernel.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::tree::Attributes;

/// Bytes of the head of each request.
const HEAD_BYTES: usize = 40;
/// The version whose structures these are.
const VERSION: (u32, u32) = (7, 31);
/// `FUSE_BIG_WRITES`: writes of more than a page.
const BIG_WRITES: u32 = 1 << 5;
/// The most that one write carries.
pub const MAX_WRITE: u32 = 128 << 10;
/// How long the kernel may keep what it was told, in seconds: nobody changes a file but by way of it.
const VALID_S: u64 = 60;
const BLOCK: u32 = 4096;

/// A request, cut into its parts.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What is asked for.
    pub opcode: u32,
    /// Which request the answer is to.
    pub unique: u64,
    /// The node.
    pub node: u64,
    body: &'a [u8],
}

impl<'a> Request<'a> {
    /// Reads one, as the kernel hands it out; `None` of what is too short to be one.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (head, body) = bytes.split_at_checked(HEAD_BYTES)?;
        let head = Request { opcode: 0, unique: 0, node: 0, body: head };
        Some(Self { opcode: head.u32(4), unique: head.u64(8), node: head.u64(16), body })
    }

    /// A number of the body; 0 beyond its end.
    pub fn u32(&self, at: usize) -> u32 {
        self.body.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
    }

    /// A number of the body; 0 beyond its end.
    pub fn u64(&self, at: usize) -> u64 {
        self.body.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes)
    }

    /// The `index`-th of the names that the body has from `at` on, each with a zero behind it.
    pub fn name(&self, at: usize, index: usize) -> &'a OsStr {
        let names = self.body.get(at..).unwrap_or_default();
        OsStr::from_bytes(names.split(|byte| *byte == 0).nth(index).unwrap_or_default())
    }

    /// What the body has from `at` on.
    pub fn bytes(&self, at: usize) -> &'a [u8] {
        self.body.get(at..).unwrap_or_default()
    }
}

/// The body of an answer.
#[derive(Debug, Default)]
pub struct Body(Vec<u8>);

impl Body {
    fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn zeros(mut self, bytes: usize) -> Self {
        self.0.resize(self.0.len() + bytes, 0);
        self
    }

    /// `struct fuse_init_out`.
    pub fn init() -> Self {
        let this = Self::default().u32(VERSION.0).u32(VERSION.1).u32(MAX_WRITE).u32(BIG_WRITES);
        this.u16(12).u16(9).u32(MAX_WRITE).u32(1).zeros(36)
    }

    /// `struct fuse_attr`.
    fn node(self, of: Attributes) -> Self {
        let this = self.u64(of.number).u64(of.size).u64(of.size.div_ceil(512));
        let times = this.u64(of.changed_s).u64(of.changed_s).u64(of.changed_s).zeros(12);
        times.u32(of.mode).u32(1).zeros(12).u32(BLOCK).zeros(4)
    }

    /// `struct fuse_attr_out`.
    pub fn attributes(of: Attributes) -> Self {
        Self::default().u64(VALID_S).zeros(8).node(of)
    }

    /// `struct fuse_entry_out`.
    pub fn entry(of: Attributes) -> Self {
        Self::default().u64(of.number).u64(0).u64(VALID_S).u64(VALID_S).zeros(8).node(of)
    }

    /// With `struct fuse_open_out` behind it.
    pub fn opened(self) -> Self {
        self.zeros(16)
    }

    /// `struct fuse_write_out`.
    pub fn written(bytes: u32) -> Self {
        Self::default().u32(bytes).zeros(4)
    }

    /// `struct fuse_statfs_out`, of a file system of `bytes` bytes that is empty.
    pub fn statfs(bytes: u64) -> Self {
        let blocks = bytes / u64::from(BLOCK);
        let this = Self::default().u64(blocks).u64(blocks).u64(blocks).u64(1 << 20).u64(1 << 20);
        this.u32(BLOCK).u32(255).u32(BLOCK).zeros(28)
    }

    /// Bytes of a file.
    pub fn bytes(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// With `struct fuse_dirent` behind it: the entry number `at`, counted from 1.
    pub fn directory_entry(self, at: u64, number: u64, mode: u32, name: &OsStr) -> Self {
        let this = self.u64(number).u64(at).u32(name.len() as u32).u32(mode >> 12);
        let mut this = this;
        this.0.extend(name.as_bytes());
        let whole = this.0.len().next_multiple_of(8);
        this.0.resize(whole, 0);
        this
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The answer to the request `unique`: `struct fuse_out_header`, then this.
    pub fn answer(self, unique: u64) -> Vec<u8> {
        Body::default().u32(16 + self.0.len() as u32).u32(0).u64(unique).0.into_iter().chain(self.0).collect()
    }
}

/// The answer that says that the request `unique` was refused.
pub fn refusal(unique: u64, error: rustix::io::Errno) -> Vec<u8> {
    let negative = (-error.raw_os_error()).cast_unsigned();
    Body::default().u32(16).u32(negative).u64(unique).0
}

#[cfg(test)]
mod tests {
    use super::{Body, Request};
    use crate::battery::host::slow_fs::tree::{Attributes, FILE};

    #[test]
    fn structures_have_the_sizes_of_the_kernels() {
        let of = Attributes { number: 2, size: 5, mode: FILE | 0o600, changed_s: 1 };
        let sizes = [
            (Body::init(), 64),
            (Body::attributes(of), 104),
            (Body::entry(of), 128),
            (Body::entry(of).opened(), 144),
            (Body::written(1), 8),
            (Body::statfs(1 << 30), 80),
            (Body::default().directory_entry(1, 2, FILE, "name".as_ref()), 32),
        ];
        for (body, bytes) in sizes {
            assert_eq!(body.len(), bytes, "{body:?}");
        }
        assert_eq!(Body::written(1).answer(9).len(), 24);
    }

    #[test]
    fn a_request_that_is_cut_off_is_none_and_its_numbers_are_zero() {
        assert!(Request::parse(&[0; 39]).is_none());
        let request = Request::parse(&[0; 40]).unwrap();
        assert_eq!((request.u64(0), request.u32(4), request.name(0, 1).len()), (0, 0, 0));
    }
}
