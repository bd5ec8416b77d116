//! The guest's page contents and checksums, computed on the host: the same arithmetic as image/guest.c.

use std::collections::BTreeMap;

use crate::PAGE_BYTES;

/// Each sector of a dirtied page begins with one keyed word; the rest stays zero.
const SECTOR_BYTES: usize = 512;

/// 2^64 divided by the golden ratio, odd: the increment of SplitMix64.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// What page number `page` holds after `dirty` with `seed`.
pub fn page(page: u64, seed: u64) -> [u8; PAGE_BYTES] {
    let mut bytes = [0; PAGE_BYTES];
    let mut key = scramble(seed) ^ scramble(!page);
    for sector in bytes.chunks_exact_mut(SECTOR_BYTES) {
        key = key.wrapping_add(GOLDEN);
        sector[..8].copy_from_slice(&key.to_le_bytes());
    }
    bytes
}

/// The finaliser of SplitMix64: every bit of the input reaches every bit of the output.
fn scramble(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The checksum that the guest's `sum` prints, over `pages` in order.
pub fn sum<'a>(pages: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let words = pages.into_iter().flat_map(|page| page.chunks_exact(8));
    words.fold(0xcbf2_9ce4_8422_2325, |sum, word| {
        // chunks_exact(8) yields slices of 8 bytes only.
        let word = word.try_into().map(u64::from_le_bytes).unwrap_or_default();
        (sum ^ word).rotate_left(29).wrapping_mul(GOLDEN)
    })
}

/// What the memory that commands may touch holds after a series of commands.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    // Pages that were never touched are zero and not listed.
    seeds: BTreeMap<u64, u64>,
}

impl Memory {
    /// The guest's `dirty first count seed`.
    pub fn dirty(&mut self, first: u64, count: u64, seed: u64) {
        self.seeds.extend((first..first + count).map(|page| (page, seed)));
    }

    /// The guest's `zero first count`.
    pub fn zero(&mut self, first: u64, count: u64) {
        for page in first..first + count {
            self.seeds.remove(&page);
        }
    }

    /// The bytes of page number `number`.
    pub fn page(&self, number: u64) -> [u8; PAGE_BYTES] {
        self.seeds.get(&number).map_or([0; PAGE_BYTES], |seed| page(number, *seed))
    }

    /// What the guest's `sum first count` prints.
    pub fn sum(&self, first: u64, count: u64) -> u64 {
        let pages: Vec<_> = (first..first + count).map(|number| self.page(number)).collect();
        sum(pages.iter().map(<[u8; PAGE_BYTES]>::as_slice))
    }
}

#[cfg(test)]
mod tests {
    use super::{Memory, page};

    #[test]
    fn pages_differ_by_number_and_by_seed() {
        assert_ne!(page(1024, 7), page(1025, 7));
        assert_ne!(page(1024, 7), page(1024, 8));
        assert_eq!(page(1024, 7), page(1024, 7));
    }

    #[test]
    fn a_page_set_back_to_its_old_content_sums_as_before() {
        let mut memory = Memory::default();
        memory.dirty(1024, 4, 1);
        let before = memory.sum(1024, 4);
        memory.dirty(1025, 1, 2);
        assert_ne!(memory.sum(1024, 4), before);
        memory.dirty(1025, 1, 1);
        assert_eq!(memory.sum(1024, 4), before);
        memory.zero(1024, 4);
        assert_eq!(memory.sum(1024, 4), Memory::default().sum(1024, 4));
    }
}
