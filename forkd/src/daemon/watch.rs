//! Tells of one BRANCH, as it goes along, to everything by which an operator sees what the daemon does.

use super::Daemon;
use crate::api::{Branch, BranchRecord, Happening, SnapshotStatus};
use crate::branch::{BranchError, Failed, Plan};
use crate::clock;
use crate::history::begun;
use crate::trend::Rising;

/// A BRANCH under way. One that is dropped without its end is a failed one: nothing stays `writing` for ever.
pub(super) struct Watch<'a> {
    daemon: &'a Daemon,
    record: BranchRecord,
    warning: Option<String>,
    ended: bool,
}

impl<'a> Watch<'a> {
    /// Tells of the begin.
    pub fn begin(daemon: &'a Daemon, plan: &Plan, source: &str) -> Self {
        let branch = begun(plan.id.clone(), (source, plan.tag.as_str()), plan.mode, plan.data_path);
        let record = BranchRecord {
            durable: plan.durable,
            started_at_unix_ms: clock::unix_ms(),
            error: None,
            firecracker: daemon.config.firecracker.version.clone(),
            forkd: env!("CARGO_PKG_VERSION").to_owned(),
            attribution: None,
            branch,
        };
        daemon.history.record(record.clone());
        let Branch { id, branched_from, tag, mode, data_path, .. } = record.branch.clone();
        daemon.events.tell(Happening::BranchStarted {
            branch: id,
            sandbox: branched_from,
            tag,
            mode,
            data_path,
        });
        Self { daemon, record, warning: None, ended: false }
    }

    /// Tells that the guest runs again; `report` gets a warning where the pauses of its source grow.
    pub fn resumed(&mut self, report: &mut Branch) {
        self.warning = self.look_for_growth(report);
        report.warnings.extend(self.warning.clone());
        self.record.branch = report.clone();
        self.daemon.history.record(self.record.clone());
        let Branch { id, branched_from, tag, pause_ns, .. } = report.clone();
        self.daemon.events.tell(Happening::BranchResumed {
            branch: id,
            sandbox: branched_from,
            tag,
            pause_ns,
        });
    }

    /// Tells of the end, and hands it on.
    pub fn end(mut self, outcome: Result<Branch, Failed>) -> Result<Branch, BranchError> {
        self.ended = true;
        match outcome {
            Ok(mut branch) => {
                branch.warnings.extend(self.warning.take());
                self.ready(&branch);
                Ok(branch)
            }
            Err(Failed { error, mut reached }) => {
                reached.warnings.extend(self.warning.take());
                self.record.branch = *reached;
                self.failed(error.to_string(), error.kind());
                Err(error)
            }
        }
    }

    fn ready(&mut self, branch: &Branch) {
        let Daemon { history, events, metrics, .. } = self.daemon;
        self.record.branch = branch.clone();
        history.record(self.record.clone());
        metrics.branch_ready(branch);
        let Branch { id, branched_from, tag, pause_ns, .. } = branch.clone();
        events.tell(Happening::SnapshotReady { tag: tag.clone() });
        events.tell(Happening::BranchReady { branch: id, sandbox: branched_from, tag, pause_ns });
    }

    fn failed(&mut self, error: String, kind: &'static str) {
        let Daemon { history, events, metrics, .. } = self.daemon;
        self.record.branch.status = SnapshotStatus::Failed;
        self.record.error = Some(error.clone());
        history.record(self.record.clone());
        metrics.branch_failed(&self.record.branch, kind);
        let Branch { id, branched_from, tag, .. } = self.record.branch.clone();
        events.tell(Happening::BranchFailed { branch: id, sandbox: branched_from, tag, error });
    }

    /// Compares this pause with those before it. One of a BRANCH that went to disk unasked is left out.
    fn look_for_growth(&self, report: &Branch) -> Option<String> {
        if report.fell_back_to_disk {
            return None;
        }
        let (sandbox, key) = (&report.branched_from, (report.mode, report.data_path));
        let Rising { trend, is_first } = self.daemon.pauses.note(sandbox, key, report.pause_ns)?;
        let ms = |ns: u64| ns as f64 / 1e6;
        let warning = format!(
            "the pauses of this sandbox grow: from {:.1} to {:.1} ms over its last {} BRANCHes of this kind",
            ms(trend.from_ns),
            ms(trend.to_ns),
            trend.branches
        );
        if is_first {
            tracing::warn!(%sandbox, "{warning}");
            self.daemon.metrics.pauses_grow();
            self.daemon.events.tell(Happening::PausesGrow {
                sandbox: sandbox.clone(),
                branches: trend.branches,
                from_ns: trend.from_ns,
                to_ns: trend.to_ns,
            });
        }
        Some(warning)
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.failed("the operation ended unexpectedly".to_owned(), "panicked");
        }
    }
}
