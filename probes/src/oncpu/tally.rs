//! Samples to counts, and what should have come beside what came. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use reports::oncpu::{Stack, Thread};

use crate::aggregate::{Names, UserNames};
use crate::decode::UserSide;

/// Fewer samples than this are no measure of anything.
const FEW: u64 = 20;

/// One sample of a watched thread.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sample {
    /// Its process.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Kernel return addresses, innermost first; none where it ran in user space.
    pub kernel: Arc<[u64]>,
    /// Where it was in user space.
    pub user: Option<UserSide>,
}

/// A thread's CPU time as it was seen to grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuTime {
    /// Its process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// When it was first seen; 0 for a thread that came to be inside the window.
    pub first_ns: u64,
    /// When it was last seen.
    pub last_ns: u64,
}

/// Counts of samples.
#[derive(Debug, Default)]
pub struct Tally(HashMap<Sample, u64>);

impl Tally {
    /// Counts one.
    pub fn add(&mut self, sample: Sample) {
        *self.0.entry(sample).or_default() += 1;
    }

    /// The report's threads and stacks, of `tids` only unless that is empty.
    pub fn tables(
        self,
        times: &BTreeMap<u32, CpuTime>,
        frequency_hz: u64,
        tids: &[u32],
        names: &mut dyn Names,
    ) -> (Vec<Thread>, Vec<Stack>) {
        let is_asked = |tid: u32| tids.is_empty() || tids.contains(&tid);
        let mut samples_of: BTreeMap<u32, (u32, u64)> = BTreeMap::new();
        let mut merged: HashMap<(u32, Vec<String>, Vec<String>), u64> = HashMap::new();
        for (sample, count) in self.0.into_iter().filter(|(sample, _)| is_asked(sample.tid)) {
            samples_of.entry(sample.tid).or_insert((sample.pid, 0)).1 += count;
            let kernel = names.kernel(&sample.kernel);
            let user = user_frames(&sample, names);
            *merged.entry((sample.tid, kernel, user)).or_default() += count;
        }
        let comm = |tid: u32| times.get(&tid).map_or_else(String::new, |time| time.comm.clone());
        let stack = |((tid, kernel, user), samples)| Stack { tid, comm: comm(tid), samples, kernel, user };
        let mut stacks: Vec<Stack> = merged.into_iter().map(stack).collect();
        stacks.sort_by(|a, b| {
            (Reverse(a.samples), a.tid, &a.kernel, &a.user).cmp(&(
                Reverse(b.samples),
                b.tid,
                &b.kernel,
                &b.user,
            ))
        });
        for (tid, time) in times.iter().filter(|(tid, _)| is_asked(**tid)) {
            samples_of.entry(*tid).or_insert((time.pid, 0));
        }
        let thread = |(tid, (pid, samples)): (u32, (u32, u64))| {
            let ran_ns = times.get(&tid).map_or(0, |time| time.last_ns.saturating_sub(time.first_ns));
            let expected = expected(ran_ns, frequency_hz);
            Thread {
                pid,
                tid,
                comm: comm(tid),
                samples,
                ran_ns,
                expected,
                blind: is_blind(expected, samples),
            }
        };
        let mut threads: Vec<Thread> = samples_of.into_iter().map(thread).collect();
        threads.retain(|thread| thread.ran_ns > 0 || thread.samples > 0);
        threads.sort_by_key(|thread| (Reverse(thread.samples), Reverse(thread.ran_ns), thread.tid));
        (threads, stacks)
    }
}

fn user_frames(sample: &Sample, names: &mut dyn Names) -> Vec<String> {
    let Some(user) = sample.user else { return Vec::new() };
    let UserNames { mut frames, truncated } = names.user(sample.pid, &user);
    frames.extend(truncated.then(|| "[truncated]".to_owned()));
    frames
}

/// Samples that `ran_ns` of CPU time should give.
pub const fn expected(ran_ns: u64, frequency_hz: u64) -> u64 {
    (ran_ns as u128 * frequency_hz as u128 / 1_000_000_000) as u64
}

/// Whether fewer samples came than chance explains: four standard deviations of a Poisson count below what
/// was expected, and a fifth below it at least, since a clock is no Poisson process but runs late at times.
pub fn is_blind(expected: u64, samples: u64) -> bool {
    let least = expected as f64 - 4.0 * (expected as f64).sqrt();
    expected >= FEW && (samples as f64) < least.min(expected as f64 * 0.8)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Numbers;

    impl Names for Numbers {
        fn kernel(&mut self, frames: &[u64]) -> Vec<String> {
            frames.iter().map(|frame| format!("k{}", frame / 10)).collect()
        }

        fn user(&mut self, _: u32, user: &UserSide) -> UserNames {
            UserNames { frames: vec![format!("u{}", user.ip)], truncated: true }
        }
    }

    #[test]
    fn a_blind_spot_is_told_from_chance() {
        let cases = [
            (0, 0, false),
            (19, 0, false),
            (100, 99, false),
            (100, 61, false),
            (100, 59, true),
            (100, 0, true),
            (10_000, 9_000, false),
            (10_000, 7_900, true),
            (100, 300, false),
        ];
        for (expected, samples, blind) in cases {
            assert_eq!(is_blind(expected, samples), blind, "{samples} of {expected}");
        }
        assert_eq!(expected(2_000_000_000, 99), 198);
        assert_eq!(expected(u64::MAX, 1_000), 18_446_744_073_709);
    }

    #[test]
    fn samples_are_summed_by_what_they_read_as_and_silent_threads_are_listed() {
        let mut tally = Tally::default();
        for frame in [21, 22, 31] {
            let user = Some(UserSide { ip: 5, stack: None });
            tally.add(Sample { pid: 7, tid: 8, kernel: Arc::from([frame]), user });
        }
        let time = |comm: &str, last_ns| CpuTime { pid: 7, comm: comm.to_owned(), first_ns: 0, last_ns };
        let times = BTreeMap::from([
            (8, time("runs", 30_000_000)),
            (9, time("unseen", 1_000_000_000)),
            (10, time("idle", 0)),
        ]);
        let (threads, stacks) = tally.tables(&times, 100, &[], &mut Numbers);
        let seen: Vec<_> = stacks.iter().map(|stack| (stack.kernel.join(";"), stack.samples)).collect();
        assert_eq!(seen, [("k2".to_owned(), 2), ("k3".to_owned(), 1)]);
        assert_eq!(stacks[0].user, ["u5", "[truncated]"]);
        let threads: Vec<_> = threads
            .iter()
            .map(|thread| (thread.comm.as_str(), thread.samples, thread.expected, thread.blind))
            .collect();
        assert_eq!(threads, [("runs", 3, 3, false), ("unseen", 0, 100, true)]);
    }
}
