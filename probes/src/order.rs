//! Puts items that several CPUs wrote into the order of their time stamps.
//!
//! Each CPU stamps in order, but one CPU's item can reach the reader after a later one of another CPU.
//! Nothing is released before the caller says that nothing earlier can still come.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Holds items back until they can be released in order.
#[derive(Debug)]
pub struct Sorter<T> {
    waiting: BinaryHeap<Waiting<T>>,
    released_ns: u64,
    late: u64,
    pushed: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    time_ns: u64,
    /// Order of arrival: keeps items of one time in the order in which they were pushed.
    arrival: u64,
    item: T,
}

impl<T> Default for Sorter<T> {
    fn default() -> Self {
        Self { waiting: BinaryHeap::new(), released_ns: 0, late: 0, pushed: 0 }
    }
}

impl<T> Sorter<T> {
    /// Takes an item that happened at `time_ns`.
    pub fn push(&mut self, time_ns: u64, item: T) {
        if time_ns < self.released_ns {
            self.late += 1;
        }
        self.waiting.push(Waiting { time_ns, arrival: self.pushed, item });
        self.pushed += 1;
    }

    /// The next item that happened before `watermark_ns`, if there is one. The caller vouches that no
    /// item from before the watermark is still to come; one that comes all the same is [counted](Self::late).
    pub fn pop_before(&mut self, watermark_ns: u64) -> Option<T> {
        self.released_ns = self.released_ns.max(watermark_ns);
        if self.waiting.peek()?.time_ns >= watermark_ns {
            return None;
        }
        self.waiting.pop().map(|waiting| waiting.item)
    }

    /// Items that came after the watermark had passed them, and so may be out of order.
    pub const fn late(&self) -> u64 {
        self.late
    }

    /// Items held back.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

impl<T> Ord for Waiting<T> {
    /// Earliest first out of a heap that yields its greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.time_ns, other.arrival).cmp(&(self.time_ns, self.arrival))
    }
}

impl<T> PartialOrd for Waiting<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Waiting<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Waiting<T> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Sorter;

    fn drain(sorter: &mut Sorter<u64>, watermark_ns: u64) -> Vec<u64> {
        std::iter::from_fn(|| sorter.pop_before(watermark_ns)).collect()
    }

    // cpu 0:  10      30      50
    // cpu 1:      20      40
    //                       ^ watermark 45
    #[test]
    fn two_cpus_are_merged_up_to_the_watermark() {
        let mut sorter = Sorter::default();
        for time_ns in [10, 30, 50, 20, 40] {
            sorter.push(time_ns, time_ns);
        }
        assert_eq!(drain(&mut sorter, 45), [10, 20, 30, 40]);
        assert_eq!(sorter.waiting(), 1);
        assert_eq!(drain(&mut sorter, u64::MAX), [50]);
        assert_eq!(sorter.late(), 0);
    }

    #[test]
    fn an_item_behind_the_watermark_is_counted_and_still_released() {
        let mut sorter = Sorter::default();
        sorter.push(10, 10);
        assert_eq!(drain(&mut sorter, 20), [10]);
        sorter.push(15, 15);
        assert_eq!(sorter.late(), 1);
        assert_eq!(drain(&mut sorter, 20), [15]);
    }

    #[test]
    fn items_of_one_time_keep_the_order_in_which_they_came() {
        let mut sorter = Sorter::default();
        for item in 0..20 {
            sorter.push(7, item);
        }
        assert_eq!(drain(&mut sorter, 8), (0..20).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn everything_comes_out_once_and_in_order(mut times: Vec<u64>) {
            let mut sorter = Sorter::default();
            for time_ns in &times { sorter.push(*time_ns % 1000, *time_ns % 1000); }
            times.iter_mut().for_each(|time_ns| *time_ns %= 1000);
            times.sort_unstable();
            prop_assert_eq!(drain(&mut sorter, u64::MAX), times);
        }
    }
}
