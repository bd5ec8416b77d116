//! Which file something is of.

use crate::kernel::{Typed, Untyped, constant};

#[unsafe(no_mangle)]
static INODE_INO: u32 = 0;
#[unsafe(no_mangle)]
static INODE_MODE: u32 = 0;
#[unsafe(no_mangle)]
static INODE_RDEV: u32 = 0;
#[unsafe(no_mangle)]
static INODE_SB: u32 = 0;
#[unsafe(no_mangle)]
static SB_DEV: u32 = 0;
#[unsafe(no_mangle)]
static MAPPING_HOST: u32 = 0;
#[unsafe(no_mangle)]
static PAGE_COMPOUND_HEAD: u32 = 0;
#[unsafe(no_mangle)]
static FOLIO_MAPPING: u32 = 0;
#[unsafe(no_mangle)]
static FOLIO_FLAGS: u32 = 0;
/// The field that holds a large folio's pages; [`ABSENT`] where the kernel keeps none.
#[unsafe(no_mangle)]
static FOLIO_PAGES: u32 = ABSENT;
/// The number of the bit in a folio's flags that says that it has more than one page.
#[unsafe(no_mangle)]
static FOLIO_LARGE_BIT: u32 = 0;

/// An offset of a field that this kernel does not have.
const ABSENT: u32 = u32::MAX;
/// `S_IFMT` and `S_IFBLK` (include/uapi/linux/stat.h).
const FILE_TYPE: u16 = 0o170_000;
const BLOCK_DEVICE: u16 = 0o060_000;
/// The low bits of a page's mapping that say that it is no file's (include/linux/page-flags.h, `PAGE_MAPPING_FLAGS`).
const NO_FILE: u64 = 3;
/// The low bit of `compound_head` that says that the rest is the address of the first page.
const IS_TAIL: u64 = 1;

/// A file, by number and device.
#[derive(Clone, Copy, Default)]
pub struct File {
    /// 0 for none, and for a block device's own pages.
    pub inode: u64,
    pub device: u32,
}

impl File {
    /// The file of an inode.
    #[inline(always)]
    pub fn of(inode: Untyped) -> Self {
        if inode.0 == 0 {
            return Self::default();
        }
        let mode: u16 = inode.field(&INODE_MODE);
        if mode & FILE_TYPE == BLOCK_DEVICE {
            return Self { inode: 0, device: inode.field(&INODE_RDEV) };
        }
        Self { inode: inode.field(&INODE_INO), device: inode.follow(&INODE_SB).field(&SB_DEV) }
    }

    /// The file whose page cache has a page.
    #[inline(always)]
    pub fn of_page(page: Untyped) -> Self {
        let head: u64 = page.field(&PAGE_COMPOUND_HEAD);
        let folio = if head & IS_TAIL != 0 { Untyped(head - IS_TAIL) } else { page };
        let mapping: u64 = folio.field(&FOLIO_MAPPING);
        if mapping == 0 || mapping & NO_FILE != 0 {
            return Self::default();
        }
        Self::of(Untyped(mapping).follow(&MAPPING_HOST))
    }

    /// The file of an `address_space`.
    #[inline(always)]
    pub fn of_mapping(mapping: Typed) -> Self {
        Self::of(mapping.untyped().follow(&MAPPING_HOST))
    }
}

/// How many pages a folio has.
#[inline(always)]
pub fn folio_pages(folio: Typed) -> u64 {
    if constant(&FOLIO_PAGES) == ABSENT {
        return 1;
    }
    let folio = folio.untyped();
    let flags: u64 = folio.field(&FOLIO_FLAGS);
    if flags >> (constant(&FOLIO_LARGE_BIT) & 63) & 1 == 0 {
        return 1;
    }
    u64::from(folio.field::<u32>(&FOLIO_PAGES)).max(1)
}
