//! BRANCHes, and what became of those whose clients did not wait.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::watch::Watch;
use super::{Daemon, OperationError};
use crate::admission::Admitted;
use crate::api::{BranchMode, DataPath};
use crate::branch::{self, Place, Plan, staging_bytes_of};
use crate::sandbox::Sandbox;
use crate::snapshot::tag::Tag;
use crate::unique;

/// Failures that are remembered for clients that did not wait.
const KEPT_FAILURES: usize = 1000;

/// BRANCHes that were answered before they were whole, and then failed: tag and reason, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<VecDeque<(Tag, String)>>);

impl Failures {
    /// Why the last BRANCH to `tag` failed.
    pub fn reason(&self, tag: &Tag) -> Option<String> {
        self.lock().iter().find(|(failed, _)| failed == tag).map(|(_, reason)| reason.clone())
    }

    fn forget(&self, tag: &Tag) {
        self.lock().retain(|(failed, _)| failed != tag);
    }

    fn note(&self, tag: Tag, reason: String) {
        self.forget(&tag);
        let mut failed = self.lock();
        failed.push_back((tag, reason));
        if failed.len() > KEPT_FAILURES {
            failed.pop_front();
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Tag, String)>> {
        // Nothing that holds the lock can leave the queue half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Daemon {
    /// Takes a BRANCH of a sandbox; see [`branch::branch`] for what holds afterwards.
    pub async fn branch(
        self: &Arc<Self>,
        id: &str,
        tag: Option<Tag>,
        (mode, data_path, durable): (BranchMode, Option<DataPath>, bool),
        resumed: Option<oneshot::Sender<crate::api::Branch>>,
    ) -> Result<crate::api::Branch, OperationError> {
        let sandbox = self.sandbox(id)?;
        self.refuse_beyond_cap(&sandbox)?;
        let tag = match tag {
            Some(tag) => tag,
            // Hexadecimal digits and dashes are a tag.
            None => format!("branch-{}", unique::hex(6)).parse().expect("a generated tag is valid"),
        };
        let data_path = data_path.unwrap_or(self.config.data_path);
        let plan = Plan { id: unique::ordered_id(), tag, mode, data_path, durable };
        let mut admitted = self.admit(&sandbox, data_path)?;
        let _under_way = self.under_way.read().await;
        self.failures.forget(&plan.tag);
        let (tag, answers_early) = (plan.tag.clone(), resumed.is_some());
        let span = tracing::info_span!("branch", sandbox = id, %tag);
        let daemon = Arc::clone(self);
        self.attribution.tell(|| {
            let daemon = Arc::downgrade(&daemon);
            Box::new(move |attributed| {
                if let Some(daemon) = daemon.upgrade() {
                    daemon.attributed(attributed);
                }
            })
        });
        let branch = move || {
            let _no_images_ahead = daemon.images.hold_back();
            let place = Place {
                store: &daemon.store,
                images: &daemon.images,
                staging_memory: &daemon.staging_memory,
                watchdog: &daemon.watchdog,
                attribution: &daemon.attribution,
                events: &daemon.events,
            };
            span.in_scope(|| {
                let mut watch = Watch::begin(&daemon, &plan, &sandbox.id);
                let runs_again = |mut report| {
                    watch.resumed(&mut report);
                    admitted.resumed(report.staged_bytes);
                    // An error says that nobody waits for it.
                    resumed.map(|resumed| resumed.send(report));
                };
                let outcome = branch::branch(place, &sandbox, &plan, runs_again);
                watch.end(outcome)
            })
        };
        let outcome = branch::blocking(branch).await;
        if outcome.is_ok() {
            self.images_ahead.published(&tag);
        }
        if let (Err(error), true) = (&outcome, answers_early) {
            tracing::error!(%tag, %error, "a BRANCH failed that its client may have been told of as being written");
            self.failures.note(tag, error.to_string());
        }
        Ok(outcome?)
    }

    fn refuse_beyond_cap(&self, sandbox: &Sandbox) -> Result<(), OperationError> {
        let branches = sandbox.branches();
        if self.config.max_branches_per_source.is_none_or(|most| branches < most) {
            return Ok(());
        }
        self.metrics.branch_refused("source");
        Err(OperationError::BranchesUsedUp { id: sandbox.id.clone(), branches })
    }

    fn admit(&self, sandbox: &Sandbox, data_path: DataPath) -> Result<Admitted, OperationError> {
        let staged_bytes = match data_path.stages_in_memory() {
            true => staging_bytes_of(&sandbox.origin),
            false => 0,
        };
        self.admission.admit(staged_bytes).map_err(|crowded| {
            self.metrics.branch_refused(crowded.reason());
            tracing::warn!(sandbox = sandbox.id, %crowded, "a BRANCH is refused");
            crowded.into()
        })
    }

    /// Waits until no BRANCH is under way, also none whose client has had its answer or has gone away.
    pub async fn wait_for_branches(&self) {
        drop(self.under_way.write().await);
    }
}

#[cfg(test)]
mod tests {
    use super::{Failures, KEPT_FAILURES};

    #[test]
    fn the_oldest_failure_is_forgotten_first_and_a_tag_has_one_reason() {
        let failures = Failures::default();
        let tag = |n: usize| format!("t{n}").parse().unwrap();
        for n in 0..KEPT_FAILURES {
            failures.note(tag(n), "first".to_owned());
        }
        failures.note(tag(0), "second".to_owned());
        failures.note(tag(KEPT_FAILURES), "third".to_owned());
        assert_eq!(failures.reason(&tag(0)).as_deref(), Some("second"));
        assert_eq!(failures.reason(&tag(1)), None);
        assert_eq!(failures.reason(&tag(2)).as_deref(), Some("first"));
    }
}
