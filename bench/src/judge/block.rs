//! What is judged: pauses in blocks, and what the host did meanwhile.

use super::rules::{MAX_DIRTY_MIB, MAX_STEAL_SHARE, MIN_FREE_MIB};

/// One sweep of an arm that was not taken in a block.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// Pauses in milliseconds, by BRANCH index from 1.
    pub pauses_ms: Vec<f64>,
    /// What the host did meanwhile, where that is known.
    pub host: Option<Host>,
}

/// One sweep of each arm, taken back to back.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Pauses of the baseline in milliseconds, by BRANCH index from 1.
    pub a_ms: Vec<f64>,
    /// Pauses of the candidate in milliseconds, by BRANCH index from 1.
    pub b_ms: Vec<f64>,
    /// Whether the candidate was measured before the baseline.
    pub b_first: bool,
    /// What the host did during both, where that is known.
    pub conditions: Option<Conditions>,
}

/// What the host did while a block was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conditions {
    /// During the baseline's sweep.
    pub a: Host,
    /// During the candidate's sweep.
    pub b: Host,
}

/// What is known of the host while one sweep was measured. A figure that nobody took spoils nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Host {
    /// Share of the processors' time that the hypervisor gave to others, 0 to 1.
    pub steal_share: Option<f64>,
    /// Share of the processors' time that processes took which had no part in the sweep, 0 to 1.
    pub foreign_cpu_share: Option<f64>,
    /// What such processes wrote, in MiB a second.
    pub foreign_written_mib_s: Option<f64>,
    /// Memory that was still to be written back when the sweep began, in MiB.
    pub dirty_mib: Option<f64>,
    /// Space that was free below the snapshots when the sweep ended, in MiB.
    pub free_mib: Option<f64>,
    /// Whether whoever measured found that space too small, and left no figure.
    pub space_was_low: bool,
}

impl Host {
    /// Why a sweep under these conditions is no measurement, if it is none.
    pub fn unfit(&self) -> Option<String> {
        let steal = self.steal_share.filter(|share| *share > MAX_STEAL_SHARE);
        let dirty = self.dirty_mib.filter(|mib| *mib > MAX_DIRTY_MIB);
        let free = self.free_mib.filter(|mib| *mib < MIN_FREE_MIB);
        let steal =
            steal.map(|share| format!("the hypervisor took {:.0} % of the processors' time", share * 100.0));
        let dirty = || dirty.map(|mib| format!("{mib:.0} MiB were still to be written when it began"));
        let free = || free.map(|mib| format!("{mib:.0} MiB were free below the snapshots at its end"));
        let low =
            || self.space_was_low.then(|| format!("under {MIN_FREE_MIB} MiB were free below the snapshots"));
        steal.or_else(dirty).or_else(free).or_else(low)
    }
}

/// Why pauses have no logarithm that could be compared, if they have none.
fn bad_pause(pauses_ms: &[f64]) -> Option<String> {
    let bad = pauses_ms.iter().find(|pause_ms| !pause_ms.is_finite() || **pause_ms <= 0.0)?;
    Some(format!("a pause of {bad} ms"))
}

impl Trial {
    /// Why this trial does not count among others of `branches` BRANCHes, if it does not.
    pub(super) fn unfit(&self, branches: usize) -> Option<String> {
        let cut = || format!("{} BRANCHes of {branches}", self.pauses_ms.len());
        (self.pauses_ms.len() != branches)
            .then(cut)
            .or_else(|| bad_pause(&self.pauses_ms))
            .or_else(|| self.host?.unfit())
    }
}

impl Block {
    /// Why this block has no effect that could be computed, if it has none.
    pub(super) fn broken(&self) -> Option<String> {
        if self.a_ms.is_empty() || self.a_ms.len() != self.b_ms.len() {
            let (a, b) = (self.a_ms.len(), self.b_ms.len());
            return Some(format!("{a} BRANCHes of the baseline, {b} of the candidate"));
        }
        bad_pause(&self.a_ms).or_else(|| bad_pause(&self.b_ms))
    }

    /// Why the host spoiled this block, if it did.
    pub(super) fn spoiled(&self) -> Option<String> {
        let conditions = self.conditions?;
        let of = |arm: &str, host: Host| host.unfit().map(|why| format!("{arm}: {why}"));
        of("baseline", conditions.a).or_else(|| of("candidate", conditions.b))
    }

    /// The block with its arms' names exchanged.
    #[must_use]
    pub fn swapped(&self) -> Self {
        Self {
            a_ms: self.b_ms.clone(),
            b_ms: self.a_ms.clone(),
            b_first: !self.b_first,
            conditions: self.conditions.map(|Conditions { a, b }| Conditions { a: b, b: a }),
        }
    }
}
