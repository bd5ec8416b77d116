//! `forkd history`

use anstyle::{AnsiColor, Style};
use anyhow::bail;
use clap::Args;
use forkd::api::{BranchMode, BranchQuery, BranchRecord, SnapshotStatus};
use forkd::clock::unix_seconds;
use reports::explain::Explain;
use reports::units::{ago, bytes, duration};

use super::exit::{Exit, Failure};
use super::output::plain;
use super::table::{Column, Keep, Table};
use super::{Context, find, phases};

/// Ids end in what tells them apart: they begin with the time.
const SHORT_ID: usize = 8;
/// The most that one answer of the daemon holds.
const MOST: u32 = 1000;

/// List BRANCHes, newest first; with an ID, show one with all its phases
#[derive(Args, Debug)]
pub struct History {
    /// Id of a BRANCH, or the end of it that the list shows
    #[arg(value_name = "ID", conflicts_with_all = ["source", "limit"])]
    id: Option<String>,
    /// Only those of this sandbox; of one that is gone, its whole id
    #[arg(long, value_name = "ID")]
    source: Option<String>,
    /// How many
    #[arg(long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST)))]
    limit: u32,
}

impl History {
    /// Shows them, or the one.
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        if let Some(id) = &self.id {
            let record = one(context, id).await?;
            return context.out.result(&record, || details(&record, unix_seconds()));
        }
        let source = match self.source {
            // The history outlives sandboxes: an id that fits none may be that of one that is gone.
            Some(id) => Some(find::sandbox(context, &id).await.map_or(id, |sandbox| sandbox.id)),
            None => None,
        };
        let query = BranchQuery { source, limit: Some(self.limit), ..BranchQuery::default() };
        let records = context.client.branches(&query).await?;
        let columns = context.out.columns();
        context.out.result(&records, || text(&records, unix_seconds(), columns))
    }
}

/// The BRANCH with that id, or the only one of the latest whose id ends so.
async fn one(context: &Context, id: &str) -> anyhow::Result<BranchRecord> {
    match context.client.branch_record(id).await {
        Err(error) if Exit::of_call(&error) == Exit::NotFound => {}
        answer => return Ok(answer?),
    }
    let query = BranchQuery { limit: Some(MOST), ..BranchQuery::default() };
    let mut found = context.client.branches(&query).await?;
    found.retain(|record| !id.is_empty() && record.branch.id.ends_with(id));
    match found.len() {
        1 => Ok(found.swap_remove(0)),
        0 => {
            let message = format!("no BRANCH has the id '{id}': 'forkd history' lists the latest");
            Err(Failure::new(Exit::NotFound, message).into())
        }
        n => {
            bail!(Failure::new(Exit::Usage, format!("'{id}' fits {n} BRANCHes: write more of the id's end")))
        }
    }
}

fn text(records: &[BranchRecord], now_unix: u64, columns: Option<usize>) -> String {
    // A table of 80 columns has room for one of the two.
    let accounted = records.iter().any(|record| !top_cause(record).is_empty());
    let mut table = Table::new([
        Column::left("ID"),
        Column::left("AGE"),
        Column::elastic("SOURCE", Keep::Start),
        Column::elastic("TAG", Keep::Start),
        Column::left("MODE"),
        Column::left("PATH"),
        Column::right("PAUSE"),
        if accounted { Column::elastic("CAUSE", Keep::Start) } else { Column::right("WRITTEN") },
        Column::left("STATUS"),
    ]);
    for record in records {
        let branch = &record.branch;
        // In a pipe nothing is cut, so ids are whole there.
        let id = match columns {
            Some(_) => end_of(&branch.id),
            None => branch.id.as_str(),
        };
        let age = ago(now_unix.saturating_sub(record.started_at_unix_ms / 1000));
        let cells = [
            id.to_owned(),
            age.trim_end_matches(" ago").to_owned(),
            branch.branched_from.clone(),
            branch.tag.clone(),
            mode_name(branch.mode).to_owned(),
            branch.data_path.name().to_owned(),
            duration(branch.pause_ns),
            if accounted { top_cause(record) } else { bytes(branch.diff_physical_bytes) },
            status_name(branch.status).to_owned(),
        ];
        table.row(cells, style(branch.status));
    }
    table.render(columns)
}

fn details(record: &BranchRecord, now_unix: u64) -> String {
    let branch = &record.branch;
    let age = ago(now_unix.saturating_sub(record.started_at_unix_ms / 1000));
    let mut text = phases::text(branch);
    text.push_str(&format!("  id      {}\n", branch.id));
    text.push_str(&format!("  source  {}, {age}\n", branch.branched_from));
    text.push_str(&format!("  by      forkd {} on Firecracker {}\n", record.forkd, record.firecracker));
    text.push_str(&attribution(record));
    if let Some(error) = &record.error {
        text.push_str(&format!("! it failed: {}\n", plain(error)));
    }
    text
}

/// The cause that took longest of the pause; empty where its time was not accounted for.
fn top_cause(record: &BranchRecord) -> String {
    match explained(record) {
        Some(Ok(explain)) => explain.verdict.cause.unwrap_or_else(|| "unexplained".to_owned()),
        Some(Err(_)) | None => String::new(),
    }
}

/// Where the time of the pause went, or why that is not known; empty where nobody asked for it.
fn attribution(record: &BranchRecord) -> String {
    match explained(record) {
        None => String::new(),
        Some(Err(reason)) => format!("  causes  not known: {}\n", plain(&reason)),
        Some(Ok(explain)) => {
            let mut text = format!("  causes  {}\n", plain(&explain.verdict.sentence));
            for cause in &explain.causes {
                let (ns, detail) = (duration(cause.ns), plain(&cause.detail));
                text.push_str(&format!(
                    "  {ns:>10} {:>5.1} %  {} {detail}\n",
                    cause.share * 100.0,
                    cause.title
                ));
            }
            let unexplained = share_of(explain.unexplained_ns, explain.window_ns);
            let ns = duration(explain.unexplained_ns);
            text.push_str(&format!("  {ns:>10} {unexplained:>5.1} %  unexplained\n"));
            for advice in &explain.verdict.advice {
                let predicted = duration(advice.predicted_ns);
                text.push_str(&format!("  advice  {}: {predicted} then\n", plain(&advice.text)));
            }
            text
        }
    }
}

/// The account of the pause, or why there is none; `None` where nobody asked for it.
fn explained(record: &BranchRecord) -> Option<Result<Explain, String>> {
    let attribution = record.attribution.as_ref()?;
    if let Some(reason) = attribution["unavailable"].as_str() {
        return Some(Err(reason.to_owned()));
    }
    let explain = serde_json::from_value(attribution.clone());
    Some(explain.map_err(|error| format!("another version of forkd wrote it: {error}")))
}

fn share_of(ns: u64, of_ns: u64) -> f64 {
    ns as f64 * 100.0 / of_ns.max(1) as f64
}

fn end_of(id: &str) -> &str {
    // An id of another alphabet is not cut.
    id.get(id.len().saturating_sub(SHORT_ID)..).unwrap_or(id)
}

fn mode_name(mode: BranchMode) -> &'static str {
    match mode {
        BranchMode::Full => "full",
        BranchMode::Diff => "diff",
    }
}

fn status_name(status: SnapshotStatus) -> &'static str {
    match status {
        SnapshotStatus::Writing => "writing",
        SnapshotStatus::Ready => "ready",
        SnapshotStatus::Failed => "failed",
    }
}

fn style(status: SnapshotStatus) -> Style {
    match status {
        SnapshotStatus::Failed => AnsiColor::Red.on_default(),
        SnapshotStatus::Writing => Style::new().dimmed(),
        SnapshotStatus::Ready => Style::new(),
    }
}

#[cfg(test)]
mod tests {
    use forkd::api::BranchRecord;
    use serde_json::json;
    use unicode_width::UnicodeWidthStr;

    use super::{details, text};

    fn record(tag: &str, status: &str, error: Option<&str>) -> BranchRecord {
        serde_json::from_value(json!({
            "id": "019aa5b0-4c1e-7d10-9c2f-0123456789ab", "tag": tag, "branched_from": "sb-0123456789ab",
            "mode": "diff", "data_path": "fallocate", "pause_ns": 6_120_000, "pause_ms": 6.12, "diff_ms": 5.0,
            "diff_physical_bytes": 16_842_752, "staged_bytes": 0, "fell_back_to_disk": false, "status": status,
            "phases": [{ "phase": "pause", "start_ns": 5, "ns": 600_000 }], "warnings": [], "durable": true,
            "started_at_unix_ms": 1_000_000, "error": error, "firecracker": "1.12.1", "forkd": "0.1.0",
        }))
        .unwrap()
    }

    #[test]
    fn the_list_fits_80_columns_and_keeps_the_end_of_an_id() {
        let records = [record("one", "ready", None), record(&"t".repeat(64), "failed", None)];
        let shown = anstream::adapter::strip_str(&text(&records, 1_185, Some(80))).to_string();
        assert!(shown.lines().all(|line| line.width() <= 80), "{shown}");
        assert!(shown.contains("\n456789ab  3 minutes  sb-01"), "{shown}");
        let whole = text(&records, 1_185, None);
        assert!(whole.contains(&"t".repeat(64)) && whole.contains("019aa5b0-4c1e"), "{whole}");
    }

    #[test]
    fn one_branch_shows_its_phases_and_why_it_failed() {
        let shown = details(&record("one", "failed", Some("the disk is full")), 1_185);
        let shown = anstream::adapter::strip_str(&shown).to_string();
        for words in [
            "one: paused 6.12 ms",
            "\n  pause      600 us  █",
            "3 minutes ago",
            "! it failed: the disk is full",
        ] {
            assert!(shown.contains(words), "{shown}");
        }
        assert!(!shown.contains("causes"), "{shown}");
    }

    #[test]
    fn the_account_of_a_pause_is_shown_or_why_there_is_none() {
        let mut of_one = record("one", "ready", None);
        of_one.attribution = Some(json!({ "unavailable": "no rights" }));
        assert!(details(&of_one, 1_185).contains("  causes  not known: no rights\n"));
        assert!(!text(std::slice::from_ref(&of_one), 1_185, Some(80)).contains("no rights"));
        of_one.attribution = Some(json!({
            "schema": "forkd.explain/1",
            "window": {"label": "", "start_ns": 0, "end_ns": 8_000_000, "pid": 1, "process": "", "tid": 1, "comm": "",
                "clamped": false},
            "window_ns": 8_000_000, "segments": [], "unexplained_ns": 2_000_000,
            "causes": [{"cause": "cpu_quota", "title": "CPU quota", "ns": 6_000_000, "share": 0.75, "detail": "of sb-1",
                "chain": []}],
            "passive_waiters": [], "loss": {}, "attach": [], "cause_table": "", "probe_overhead_ns": 0, "warnings": [],
            "verdict": {"cause": "cpu_quota", "share": 0.75, "sentence": "6 ms of 8 ms: CPU quota", "sound": true,
                "lost": 0, "advice": [{"cause": "cpu_quota", "text": "lift the quota", "predicted_ns": 2_000_000,
                "action": null}]},
        }));
        let shown = details(&of_one, 1_185);
        for words in [
            "  causes  6 ms of 8 ms: CPU quota\n",
            " 75.0 %  CPU quota of sb-1\n",
            " 25.0 %  unexplained\n",
            "  advice  lift the quota: 2.00 ms then\n",
        ] {
            assert!(shown.contains(words), "{words:?} is not in\n{shown}");
        }
        let list = text(std::slice::from_ref(&of_one), 1_185, Some(80));
        assert!(
            list.lines().all(|line| anstream::adapter::strip_str(line).to_string().width() <= 80),
            "{list}"
        );
        assert!(text(&[of_one], 1_185, None).contains("cpu_quota"));
    }
}
