//! What is judged: pauses in blocks, and what the host did meanwhile.

use super::rules::{MAX_DIRTY_MIB, MAX_STEAL_SHARE, MIN_FREE_MIB};

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

/// What the host did while one sweep was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Host {
    /// Share of the processors' time that the hypervisor gave to others, 0 to 1.
    pub steal_share: f64,
    /// Share of the processors' time that processes took which had no part in the sweep, 0 to 1.
    pub foreign_cpu_share: f64,
    /// What such processes wrote, in MiB a second.
    pub foreign_written_mib_s: f64,
    /// Memory that was still to be written back when the sweep began, in MiB.
    pub dirty_mib: f64,
    /// Space that was free below the snapshots when the sweep ended, in MiB.
    pub free_mib: f64,
}

impl Host {
    /// Why a sweep under these conditions is no measurement, if it is none.
    pub fn unfit(&self) -> Option<String> {
        if self.steal_share > MAX_STEAL_SHARE {
            let percent = self.steal_share * 100.0;
            return Some(format!("the hypervisor took {percent:.0} % of the processors' time"));
        }
        if self.dirty_mib > MAX_DIRTY_MIB {
            return Some(format!("{:.0} MiB were still to be written when it began", self.dirty_mib));
        }
        if self.free_mib < MIN_FREE_MIB {
            return Some(format!("{:.0} MiB were free below the snapshots at its end", self.free_mib));
        }
        None
    }
}

impl Block {
    /// Why this block has no effect that could be computed, if it has none.
    pub(super) fn broken(&self) -> Option<String> {
        if self.a_ms.is_empty() || self.a_ms.len() != self.b_ms.len() {
            let (a, b) = (self.a_ms.len(), self.b_ms.len());
            return Some(format!("{a} BRANCHes of the baseline, {b} of the candidate"));
        }
        let mut all = self.a_ms.iter().chain(&self.b_ms);
        let bad = all.find(|pause_ms| !pause_ms.is_finite() || **pause_ms <= 0.0)?;
        Some(format!("a pause of {bad} ms"))
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
