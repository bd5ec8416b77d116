//! What the loop devices of a sweep were throttled to.

use super::{Sample, Sweep};

impl Sweep {
    /// `loop devices throttled to 100 MB/s`, where every BRANCH on a loop device has the same limit. `None` where none
    /// has one, and where they differ, which the cells' names tell.
    pub fn throttle_words(&self) -> Option<String> {
        let on_loop = |sample: &&Sample| sample.root.ends_with("-loop");
        let mut limits = self.samples.iter().filter(on_loop).map(|sample| sample.circumstances.disk_bps);
        let bps = limits.next()??;
        let is_shared = limits.all(|limit| limit == Some(bps));
        is_shared.then(|| format!("loop devices throttled to {} MB/s", bps as f64 / 1e6))
    }
}

#[cfg(test)]
mod tests {
    use crate::sweep::{Sweep, read};

    /// The golden sweep, its BRANCHes on a loop device with these limits in turn.
    fn words(limits: &[Option<u64>]) -> Option<String> {
        let csv = include_str!("../../tests/golden/sweep.csv");
        let mut sweep = read("sweep.csv", csv.as_bytes()).unwrap();
        let on_loop = sweep.samples.iter_mut().filter(|sample| sample.root == "ext4-loop");
        for (sample, limit) in on_loop.zip(limits.iter().cycle()) {
            sample.circumstances.disk_bps = *limit;
        }
        sweep.throttle_words()
    }

    #[test]
    fn a_limit_is_told_where_all_loop_devices_have_it() {
        // The golden sweep is on tmpfs too, which has no disk to be throttled.
        assert_eq!(words(&[Some(2_500_000)]).as_deref(), Some("loop devices throttled to 2.5 MB/s"));
        for limits in [&[None] as &[_], &[Some(2_500_000), None], &[Some(2_500_000), Some(1)]] {
            assert_eq!(words(limits), None, "{limits:?}");
        }
        assert_eq!(Sweep::default().throttle_words(), None);
    }
}
