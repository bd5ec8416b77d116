//! Whose pages a request carries. The thread that writes them back is often the kernel's own: the pages are
//! charged to the process that dirtied them.

use std::collections::{BTreeMap, HashMap};

use probes_common::{Dirtied, Dirtier};

use super::requests::{Class, File, Origin};
use crate::comm::Comm;

/// `PAGE_SIZE`.
const PAGE_BYTES: u64 = 4096;

/// What was dirtied in a window, and by whom.
#[derive(Clone, Debug, Default)]
pub struct Dirtiers {
    /// Of each file, the process that dirtied most of its pages.
    by_file: HashMap<File, u32>,
    /// Bytes by process and device.
    bytes: BTreeMap<(u32, u32), u64>,
    comms: HashMap<u32, Comm>,
}

impl Dirtiers {
    /// From what the kernel side counted.
    pub fn new(counted: &[(Dirtier, Dirtied)]) -> Self {
        let mut this = Self::default();
        let mut most: HashMap<File, (u64, u32)> = HashMap::new();
        let mut counted = counted.to_vec();
        counted.sort_by_key(|(key, _)| *key);
        for (Dirtier { inode, device, tgid }, Dirtied { pages, comm }) in counted {
            let bytes = this.bytes.entry((tgid, device)).or_default();
            // Counts from a file may be anything.
            *bytes = bytes.saturating_add(pages.saturating_mul(PAGE_BYTES));
            this.comms.entry(tgid).or_insert(Comm::new(comm));
            // The pages of a device itself are metadata: everybody's.
            if inode == 0 {
                continue;
            }
            let best = most.entry(File { inode, device }).or_insert((pages, tgid));
            if pages > best.0 {
                *best = (pages, tgid);
            }
        }
        this.by_file = most.into_iter().map(|(file, (_, tgid))| (file, tgid)).collect();
        this
    }

    /// The process that a request is charged to: the one that dirtied most of its file's pages in the window, where
    /// it writes pages of a file and that is known; else the one that made it.
    pub fn charge(&self, class: Class, origin: &Origin) -> u32 {
        let dirtier = origin.file.filter(|_| class.is_write()).and_then(|file| self.by_file.get(&file));
        dirtier.copied().unwrap_or(origin.tgid)
    }

    /// Bytes that went from clean to dirty, by process and device.
    pub const fn bytes(&self) -> &BTreeMap<(u32, u32), u64> {
        &self.bytes
    }

    /// The name of a process that dirtied something.
    pub fn comm(&self, tgid: u32) -> Option<Comm> {
        self.comms.get(&tgid).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirtied(inode: u64, tgid: u32, pages: u64) -> (Dirtier, Dirtied) {
        (Dirtier { inode, device: 1, tgid }, Dirtied { pages, comm: *Comm::from_text("writer").bytes() })
    }

    fn origin(inode: Option<u64>) -> Origin {
        Origin { tgid: 9, by_kernel: true, file: inode.map(|inode| File { inode, device: 1 }) }
    }

    #[test]
    fn the_dirtier_is_charged_and_not_the_flusher() {
        let dirtiers = Dirtiers::new(&[dirtied(5, 100, 3), dirtied(5, 200, 4), dirtied(6, 100, 1)]);
        assert_eq!(dirtiers.charge(Class::BackgroundWrite, &origin(Some(5))), 200);
        assert_eq!(dirtiers.charge(Class::SyncWrite, &origin(Some(6))), 100);
        assert_eq!(dirtiers.bytes()[&(100, 1)], 4 * 4096);
    }

    #[test]
    fn where_no_dirtier_is_known_the_maker_is_charged() {
        let dirtiers = Dirtiers::new(&[dirtied(5, 100, 3), dirtied(0, 100, 3)]);
        assert_eq!(dirtiers.charge(Class::Write, &origin(Some(7))), 9, "dirtied before the window");
        assert_eq!(dirtiers.charge(Class::Write, &origin(None)), 9, "no page of a file");
        assert_eq!(dirtiers.charge(Class::Read, &origin(Some(5))), 9, "a read");
        assert_eq!(dirtiers.charge(Class::Write, &origin(Some(0))), 9, "metadata");
    }

    #[test]
    fn of_two_that_dirtied_as_much_the_lower_id_is_charged_in_any_order() {
        let pairs = [dirtied(5, 200, 4), dirtied(5, 100, 4)];
        let back = [pairs[1], pairs[0]];
        for counted in [&pairs, &back] {
            assert_eq!(Dirtiers::new(counted).charge(Class::Write, &origin(Some(5))), 100);
        }
    }
}
