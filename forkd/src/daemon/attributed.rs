//! What becomes of the account of a pause: the history, the metrics and the audit log have it.

use reports::explain::Explain;
use serde_json::json;

use super::Daemon;
use crate::attribution::Attributed;
use crate::audit::AttributionEntry;
use crate::clock;

impl Daemon {
    /// Notes where the time of a pause went, or why that is not known. Waits for nothing but the audit log.
    pub(super) fn attributed(&self, attributed: Attributed) {
        let Attributed { branch, outcome } = attributed;
        self.metrics.pause_attributed(&outcome);
        if let Some(log) = self.audit_log.get()
            && let Err(error) = log.append(&entry(&branch, &outcome))
        {
            tracing::error!(path = %log.path().display(), %error, "cannot write to the audit log");
        }
        let value = match outcome {
            Ok(explain) => match serde_json::to_value(*explain) {
                Ok(value) => value,
                Err(error) => json!({ "unavailable": error.to_string() }),
            },
            Err(reason) => json!({ "unavailable": reason }),
        };
        self.history.attribute(&branch, value);
    }
}

fn entry(branch: &str, outcome: &Result<Box<Explain>, String>) -> AttributionEntry {
    let explain = outcome.as_ref().ok();
    let part = |ns: u64, of: &Explain| ns as f64 / of.window_ns.max(1) as f64;
    AttributionEntry {
        at_unix_ms: clock::unix_ms(),
        what: "attribution".to_owned(),
        branch: branch.to_owned(),
        pause_ms: explain.map(|explain| explain.window_ns as f64 / 1e6),
        cause: explain.and_then(|explain| explain.verdict.cause.clone()),
        share: explain.map(|explain| explain.verdict.share),
        unexplained: explain.map(|explain| part(explain.unexplained_ns, explain)),
        sound: explain.map(|explain| explain.verdict.sound),
        error: outcome.as_ref().err().cloned(),
    }
}
