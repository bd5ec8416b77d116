//! How many BRANCHes there may be at once.
//!
//! A BRANCH is refused, and its client told when to try again, where it would be one of too many:
//!
//! - by count: as many as `max_branches` are under way, from their begin to the publishing of their snapshot;
//! - by bytes: it would be staged in memory and would fit into the staging budget alone, and does not fit beside
//!   those that are under way. Until its guest runs again, a BRANCH counts with all of its guest's memory, because
//!   nobody knows how much of it is dirty; after that with what it takes.
//!
//! A BRANCH that would not fit even alone is not refused: waiting would not help it, and it is written to disk. The
//! same holds where the host is short of memory for other reasons. `branch/staging_memory.rs` finds that out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The longest and shortest time that a client is told to wait, in seconds.
const RETRY_AFTER_S: (u64, u64) = (1, 60);

/// Why a BRANCH is refused at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Crowded {
    /// Too many are under way.
    #[error(
        "{under_way} BRANCHes are under way, as many as --max-branches allows: try again in {retry_after_s} s"
    )]
    Count {
        /// How many.
        under_way: u64,
        /// When one of them is likely to have ended.
        retry_after_s: u64,
    },
    /// Staging memory is taken by those under way.
    #[error(
        "{} MiB of staging memory are needed and {} of {} MiB are taken by BRANCHes under way: \
         try again in {retry_after_s} s, or raise --staging-mib",
        needed_bytes >> 20, taken_bytes >> 20, limit_bytes >> 20
    )]
    Bytes {
        /// What the BRANCH needs.
        needed_bytes: u64,
        /// What others have.
        taken_bytes: u64,
        /// What there is.
        limit_bytes: u64,
        /// When one of them is likely to have ended.
        retry_after_s: u64,
    },
}

impl Crowded {
    /// After how many seconds to try again.
    pub fn retry_after_s(self) -> u64 {
        match self {
            Self::Count { retry_after_s, .. } | Self::Bytes { retry_after_s, .. } => retry_after_s,
        }
    }

    /// `count` or `bytes`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Count { .. } => "count",
            Self::Bytes { .. } => "bytes",
        }
    }
}

/// Admits BRANCHes.
#[derive(Clone, Debug)]
pub struct Admission(Arc<Rule>);

#[derive(Debug)]
struct Rule {
    max_branches: u64,
    staging_bytes: u64,
    ledger: Mutex<Ledger>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Ledger {
    waiting: u64,
    writing: u64,
    taken_bytes: u64,
    /// How long a BRANCH takes to its end, the latest ones weighing most.
    length: Duration,
}

/// A BRANCH that was admitted; it counts until this is dropped.
#[derive(Debug)]
pub struct Admitted {
    rule: Arc<Rule>,
    begun: Instant,
    bytes: u64,
    writing: bool,
}

impl Admission {
    /// At most `max_branches` at once, and at most `staging_bytes` of memory between the pause and the disk.
    pub fn new(max_branches: u64, staging_bytes: u64) -> Self {
        Self(Arc::new(Rule { max_branches, staging_bytes, ledger: Mutex::default() }))
    }

    /// Admits a BRANCH that needs up to `staged_bytes` of memory, 0 for one that is not staged.
    pub fn admit(&self, staged_bytes: u64) -> Result<Admitted, Crowded> {
        let rule = &self.0;
        let mut ledger = rule.ledger();
        let retry_after_s = ledger.length.as_secs_f64().ceil() as u64;
        let retry_after_s = retry_after_s.clamp(RETRY_AFTER_S.0, RETRY_AFTER_S.1);
        let under_way = ledger.waiting + ledger.writing;
        if under_way >= rule.max_branches {
            return Err(Crowded::Count { under_way, retry_after_s });
        }
        let fits_alone = staged_bytes <= rule.staging_bytes;
        let bytes = if fits_alone { staged_bytes } else { 0 };
        let (taken_bytes, limit_bytes) = (ledger.taken_bytes, rule.staging_bytes);
        if taken_bytes + bytes > limit_bytes {
            return Err(Crowded::Bytes { needed_bytes: bytes, taken_bytes, limit_bytes, retry_after_s });
        }
        ledger.waiting += 1;
        ledger.taken_bytes += bytes;
        Ok(Admitted { rule: Arc::clone(rule), begun: Instant::now(), bytes, writing: false })
    }

    /// How many have a guest that has yet to run again, and how many are being written.
    pub fn under_way(&self) -> (u64, u64) {
        let ledger = self.0.ledger();
        (ledger.waiting, ledger.writing)
    }
}

impl Admitted {
    /// Notes that the guest runs again and that the snapshot takes `staged_bytes` of memory.
    pub fn resumed(&mut self, staged_bytes: u64) {
        let mut ledger = self.rule.ledger();
        let excess = self.bytes.saturating_sub(staged_bytes);
        ledger.taken_bytes -= excess;
        self.bytes -= excess;
        if !std::mem::replace(&mut self.writing, true) {
            ledger.waiting -= 1;
            ledger.writing += 1;
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut ledger = self.rule.ledger();
        ledger.taken_bytes -= self.bytes;
        ledger.length = (ledger.length * 3 + self.begun.elapsed()) / 4;
        if self.writing {
            ledger.writing -= 1;
        } else {
            ledger.waiting -= 1;
        }
    }
}

impl Rule {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Nothing that holds the lock can leave the ledger half-changed.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Admission, Crowded};

    #[test]
    fn one_more_than_the_count_is_refused_until_one_ends() {
        let admission = Admission::new(2, 100);
        let (_first, mut second) = (admission.admit(0).unwrap(), admission.admit(0).unwrap());
        second.resumed(0);
        assert_eq!(admission.under_way(), (1, 1));
        assert_eq!(admission.admit(0).unwrap_err(), Crowded::Count { under_way: 2, retry_after_s: 1 });
        drop(second);
        assert!(admission.admit(0).is_ok());
    }

    #[test]
    fn a_crowd_is_refused_and_one_that_does_not_fit_alone_is_not() {
        let admission = Admission::new(10, 100);
        let mut first = admission.admit(60).unwrap();
        let refused = admission.admit(60).unwrap_err();
        let expected =
            Crowded::Bytes { needed_bytes: 60, taken_bytes: 60, limit_bytes: 100, retry_after_s: 1 };
        assert_eq!(refused, expected);
        // It goes to disk: no memory is counted for it.
        let _to_disk = admission.admit(101).unwrap();
        // Of the guest's memory 40 bytes were dirty.
        first.resumed(40);
        assert!(admission.admit(60).is_ok());
    }

    proptest! {
        #[test]
        fn limits_hold_and_nothing_is_left_when_all_have_ended(
            steps in proptest::collection::vec((0_u64..150, 0_u64..150, any::<bool>()), 1..60),
        ) {
            let admission = Admission::new(5, 100);
            let mut under_way = Vec::new();
            for (needed, staged, ends) in steps {
                if let Ok(admitted) = admission.admit(needed) {
                    under_way.push(admitted);
                }
                let ledger = *admission.0.ledger();
                prop_assert!(ledger.taken_bytes <= 100 && ledger.waiting + ledger.writing <= 5);
                if let Some(last) = under_way.last_mut() {
                    last.resumed(staged);
                }
                if ends && !under_way.is_empty() {
                    under_way.remove(0);
                }
            }
            drop(under_way);
            prop_assert_eq!(admission.under_way(), (0, 0));
            prop_assert_eq!(admission.0.ledger().taken_bytes, 0);
        }
    }
}
