//! The daemon's figures, as Prometheus reads them.

use std::sync::atomic::AtomicU64;

use probes::attribute::CAUSES;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use reports::explain::Explain;

use crate::api::{Branch, BranchMode, DataPath};
use crate::history::Lost;

/// Upper bounds in seconds, 1 ms to 10 s: the pauses of an idle disk and of a throttled one both fall between.
const SECONDS: [f64; 21] = [
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0,
    2.0, 3.0, 5.0, 10.0,
];

/// Content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    mode: &'static str,
    data_path: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Phase {
    phase: &'static str,
    mode: &'static str,
    data_path: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refusal {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stage {
    stage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cause {
    cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attribution {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: String,
    firecracker: String,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// What is asked of the daemon when the figures are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Tags below the snapshot root.
    pub snapshots: u64,
    /// Sandboxes whose Firecracker runs.
    pub sandboxes_active: u64,
    /// Sandboxes whose guest could not be resumed.
    pub sandboxes_stuck_paused: u64,
    /// Staging memory that is reserved.
    pub staged_bytes: u64,
    /// The most that may be.
    pub staging_limit_bytes: u64,
    /// BRANCHes whose guest has yet to run again.
    pub branches_waiting: u64,
    /// BRANCHes whose guest runs again, and which are being written.
    pub branches_writing: u64,
}

/// The daemon's figures. Each is noted where it comes about, without waiting.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pause: Histograms<Kind>,
    phases: Histograms<Phase>,
    written: Histograms<Kind>,
    fallbacks: Counter,
    failures: Family<Failure, Counter>,
    refusals: Family<Refusal, Counter>,
    growing: Counter,
    materialisations: Materialisations,
    snapshots: Gauge,
    sandboxes: Gauge,
    stuck: Gauge,
    staged: Gauge,
    staging_limit: Gauge,
    branches: Family<Stage, Gauge>,
    history_lost: Family<Cause, Counter>,
    causes: Family<Cause, Counter<f64, AtomicU64>>,
    attributions: Family<Attribution, Counter>,
}

/// Memory images that were made of layers.
#[derive(Clone, Debug)]
pub struct Materialisations {
    length: Histogram,
    bytes: Counter,
}

impl Default for Materialisations {
    fn default() -> Self {
        Self { length: seconds(), bytes: Counter::default() }
    }
}

impl Materialisations {
    /// Notes an image of `bytes` bytes that was made in `ns` nanoseconds.
    pub fn note(&self, bytes: u64, ns: u64) {
        self.length.observe(in_seconds(ns));
        self.bytes.inc_by(bytes);
    }
}

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

fn bytes() -> Histogram {
    // 4 KiB to 64 GiB, by fours.
    Histogram::new(exponential_buckets(4096.0, 4.0, 13))
}

impl Metrics {
    /// All figures at their beginning. `firecracker` is the version that microVMs run on.
    pub fn new(firecracker: &str) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let build = Info::new(Build { version, firecracker: firecracker.to_owned() });
        let mut this = Self {
            registry: Registry::with_prefix("forkd"),
            pause: Family::new_with_constructor(seconds),
            phases: Family::new_with_constructor(seconds),
            written: Family::new_with_constructor(bytes),
            fallbacks: Counter::default(),
            failures: Family::default(),
            refusals: Family::default(),
            growing: Counter::default(),
            materialisations: Materialisations::default(),
            snapshots: Gauge::default(),
            sandboxes: Gauge::default(),
            stuck: Gauge::default(),
            staged: Gauge::default(),
            staging_limit: Gauge::default(),
            branches: Family::default(),
            history_lost: Family::default(),
            causes: Family::default(),
            attributions: Family::default(),
        };
        this.registry.register("build", "The daemon and the Firecracker that microVMs run on", build);
        this.register_branches();
        this.register_state();
        this
    }

    fn register_branches(&mut self) {
        let Self { registry, .. } = self;
        let pause = "Time that a guest stood still for a BRANCH";
        registry.register_with_unit("branch_pause", pause, Unit::Seconds, self.pause.clone());
        let phase = "Length of one phase of a BRANCH";
        registry.register_with_unit("branch_phase", phase, Unit::Seconds, self.phases.clone());
        let written = "Guest memory that Firecracker wrote for a BRANCH";
        registry.register_with_unit("branch_written", written, Unit::Bytes, self.written.clone());
        let fallbacks = "BRANCHes written to disk because staging memory was short";
        registry.register("branch_fallbacks_to_disk", fallbacks, self.fallbacks.clone());
        registry.register("branch_failures", "BRANCHes that failed, by kind", self.failures.clone());
        let refusals = "BRANCHes that were refused before anything was done, by reason";
        registry.register("branch_refusals", refusals, self.refusals.clone());
        let growing = "Times that the pauses of a sandbox were found to grow";
        registry.register("branch_pauses_grow", growing, self.growing.clone());
        let causes = "Time that guests stood still in pauses that were accounted for, by cause";
        registry.register_with_unit("branch_pause_cause", causes, Unit::Seconds, self.causes.clone());
        let attributions =
            "Pauses that were to be accounted for: explained, unsound (events were lost) or unavailable";
        registry.register("branch_attributions", attributions, self.attributions.clone());
        let under_way =
            "BRANCHes whose guest has yet to run again (waiting), or which are being written (writing)";
        registry.register("branches_under_way", under_way, self.branches.clone());
    }

    fn register_state(&mut self) {
        let Self { registry, .. } = self;
        let made = "Time that it took to make the memory image of a layer";
        registry.register_with_unit(
            "materialisation",
            made,
            Unit::Seconds,
            self.materialisations.length.clone(),
        );
        let bytes = "Size of the memory images made of layers";
        registry.register_with_unit("materialised", bytes, Unit::Bytes, self.materialisations.bytes.clone());
        registry.register("snapshots_total", "Snapshots below the snapshot root", self.snapshots.clone());
        registry.register("sandboxes_active", "Sandboxes whose Firecracker runs", self.sandboxes.clone());
        let stuck = "Sandboxes whose guest is paused and could not be resumed";
        registry.register("sandboxes_stuck_paused", stuck, self.stuck.clone());
        let staged = "Memory reserved for snapshots between the pause and the disk";
        registry.register_with_unit("staged", staged, Unit::Bytes, self.staged.clone());
        let limit = "Memory that snapshots may take between the pause and the disk";
        registry.register_with_unit("staging_limit", limit, Unit::Bytes, self.staging_limit.clone());
        let lost = "Records of BRANCHes that did not get into the history, by cause";
        registry.register("history_lost_records", lost, self.history_lost.clone());
    }

    /// Notes a BRANCH that is whole.
    pub fn branch_ready(&self, branch: &Branch) {
        self.branch_ended(branch);
        let (mode, data_path) = labels(branch.mode, branch.data_path);
        let written = branch.diff_physical_bytes as f64;
        self.written.get_or_create(&Kind { mode, data_path }).observe(written);
    }

    /// Notes a BRANCH that failed, with the phases that it reached.
    pub fn branch_failed(&self, reached: &Branch, kind: &'static str) {
        self.branch_ended(reached);
        self.failures.get_or_create(&Failure { kind }).inc();
    }

    fn branch_ended(&self, branch: &Branch) {
        let (mode, data_path) = labels(branch.mode, branch.data_path);
        if branch.pause_ns > 0 {
            self.pause.get_or_create(&Kind { mode, data_path }).observe(in_seconds(branch.pause_ns));
        }
        // A phase of length 0 did not occur.
        for span in branch.phases.iter().filter(|span| span.ns > 0) {
            let phase = Phase { phase: span.phase.name(), mode, data_path };
            self.phases.get_or_create(&phase).observe(in_seconds(span.ns));
        }
        if branch.fell_back_to_disk {
            self.fallbacks.inc();
        }
    }

    /// Notes a BRANCH that was refused.
    pub fn branch_refused(&self, reason: &'static str) {
        self.refusals.get_or_create(&Refusal { reason }).inc();
    }

    /// Notes that the pauses of a sandbox were found to grow.
    pub fn pauses_grow(&self) {
        self.growing.inc();
    }

    /// Notes where the time of a pause went, or that this is not known.
    pub fn pause_attributed(&self, outcome: &Result<Box<Explain>, String>) {
        let outcome = match outcome {
            Err(_) => "unavailable",
            Ok(explain) => {
                for cause in &explain.causes {
                    self.note_cause(label_of(&cause.cause), cause.ns);
                }
                self.note_cause("unexplained", explain.unexplained_ns);
                if explain.verdict.sound { "explained" } else { "unsound" }
            }
        };
        self.attributions.get_or_create(&Attribution { outcome }).inc();
    }

    fn note_cause(&self, cause: &'static str, ns: u64) {
        self.causes.get_or_create(&Cause { cause }).inc_by(in_seconds(ns));
    }

    /// What memory images made of layers are noted in.
    pub fn materialisations(&self) -> Materialisations {
        self.materialisations.clone()
    }

    /// The counters that the history counts its losses in.
    pub fn history_lost(&self) -> Lost {
        let counter = |cause| self.history_lost.get_or_create_owned(&Cause { cause });
        Lost { queue_full: counter("queue_full"), database: counter("database") }
    }

    /// All figures in the OpenMetrics text format 1.0, which Prometheus reads.
    pub fn render(&self, state: State) -> String {
        let set = |gauge: &Gauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.snapshots, state.snapshots);
        set(&self.sandboxes, state.sandboxes_active);
        set(&self.stuck, state.sandboxes_stuck_paused);
        set(&self.staged, state.staged_bytes);
        set(&self.staging_limit, state.staging_limit_bytes);
        set(&self.branches.get_or_create(&Stage { stage: "waiting" }), state.branches_waiting);
        set(&self.branches.get_or_create(&Stage { stage: "writing" }), state.branches_writing);
        let mut rendered = String::new();
        // Writing to a string does not fail, and nothing else can.
        text::encode(&mut rendered, &self.registry).expect("a string takes any text");
        rendered
    }
}

fn labels(mode: BranchMode, data_path: DataPath) -> (&'static str, &'static str) {
    (mode.name(), data_path.name())
}

/// The cause table's own name for a cause: labels are of a known number, whatever a report says.
fn label_of(cause: &str) -> &'static str {
    CAUSES.iter().map(|entry| entry.id).find(|id| *id == cause).unwrap_or("other")
}

fn in_seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use probes_common::BranchPhase;
    use reports::explain::Explain;
    use serde_json::json;
    use testkit::exposition::{Exposition, parse};

    use super::{Metrics, State};
    use crate::api::{BranchMode, DataPath, PhaseSpan};
    use crate::history::begun;

    fn filled() -> (Metrics, State) {
        let metrics = Metrics::new("1.12.1");
        let mut branch = begun("id".to_owned(), ("sb-1", "a"), BranchMode::Diff, DataPath::Stage);
        branch.pause_ns = 7_000_000;
        branch.diff_physical_bytes = 16 << 20;
        let span = |(index, phase)| PhaseSpan { phase, start_ns: 0, ns: 1_000_000 * index as u64 };
        branch.phases = BranchPhase::ALL.into_iter().enumerate().map(span).collect();
        metrics.branch_ready(&branch);
        branch.fell_back_to_disk = true;
        branch.pause_ns = 250_000_000;
        metrics.branch_ready(&branch);
        branch.pause_ns = 0;
        branch.phases.clear();
        metrics.branch_failed(&branch, "dead");
        metrics.branch_refused("count");
        metrics.pauses_grow();
        metrics.materialisations().note(32 << 20, 50_000_000);
        metrics.history_lost().database.inc();
        metrics.pause_attributed(&Ok(Box::new(explain())));
        metrics.pause_attributed(&Err("no rights".to_owned()));
        let state = State {
            snapshots: 3,
            sandboxes_active: 2,
            sandboxes_stuck_paused: 1,
            staged_bytes: 40 << 20,
            staging_limit_bytes: 1 << 30,
            branches_waiting: 4,
            branches_writing: 5,
        };
        (metrics, state)
    }

    fn explain() -> Explain {
        let cause = |cause: &str, ns: u64| json!({"cause": cause, "title": "", "ns": ns, "share": 0.5, "detail": "", "chain": []});
        serde_json::from_value(json!({
            "schema": "forkd.explain/1",
            "window": {"label": "", "start_ns": 0, "end_ns": 9_000_000, "pid": 1, "process": "", "tid": 1, "comm": "",
                "clamped": false},
            "window_ns": 9_000_000, "segments": [], "unexplained_ns": 1_000_000,
            "causes": [cause("cpu_quota", 5_000_000), cause("nobody knows it", 3_000_000)],
            "passive_waiters": [], "loss": {}, "attach": [], "cause_table": "", "probe_overhead_ns": 0, "warnings": [],
            "verdict": {"cause": "cpu_quota", "share": 0.5, "sentence": "", "sound": true, "lost": 0, "advice": []},
        }))
        .unwrap()
    }

    fn exposed() -> Exposition {
        let (metrics, state) = filled();
        let text = metrics.render(state);
        parse(&text).unwrap_or_else(|wrong| panic!("{wrong}\n{text}"))
    }

    #[test]
    fn every_figure_is_exposed_as_it_was_noted() {
        let exposed = exposed();
        let kind = [("data_path", "stage"), ("mode", "diff")];
        let bucket = |le| [("data_path", "stage"), ("mode", "diff"), ("le", le)];
        let phase = |phase| [("data_path", "stage"), ("mode", "diff"), ("phase", phase)];
        for (name, labels, value) in [
            ("forkd_branch_pause_seconds_count", &kind[..], 2.0),
            ("forkd_branch_pause_seconds_sum", &kind, 0.257),
            ("forkd_branch_pause_seconds_bucket", &bucket("0.005"), 0.0),
            ("forkd_branch_pause_seconds_bucket", &bucket("0.0075"), 1.0),
            ("forkd_branch_pause_seconds_bucket", &bucket("0.3"), 2.0),
            ("forkd_branch_phase_seconds_sum", &phase("create"), 0.004),
            ("forkd_branch_written_bytes_sum", &kind, f64::from(32 << 20)),
            ("forkd_branch_fallbacks_to_disk_total", &[], 2.0),
            ("forkd_branch_failures_total", &[("kind", "dead")], 1.0),
            ("forkd_branch_refusals_total", &[("reason", "count")], 1.0),
            ("forkd_branch_pauses_grow_total", &[], 1.0),
            ("forkd_branch_pause_cause_seconds_total", &[("cause", "cpu_quota")], 0.005),
            ("forkd_branch_pause_cause_seconds_total", &[("cause", "other")], 0.003),
            ("forkd_branch_pause_cause_seconds_total", &[("cause", "unexplained")], 0.001),
            ("forkd_branch_attributions_total", &[("outcome", "explained")], 1.0),
            ("forkd_branch_attributions_total", &[("outcome", "unavailable")], 1.0),
            ("forkd_branches_under_way", &[("stage", "waiting")], 4.0),
            ("forkd_branches_under_way", &[("stage", "writing")], 5.0),
            ("forkd_materialisation_seconds_sum", &[], 0.05),
            ("forkd_materialised_bytes_total", &[], f64::from(32 << 20)),
            ("forkd_snapshots_total", &[], 3.0),
            ("forkd_sandboxes_active", &[], 2.0),
            ("forkd_sandboxes_stuck_paused", &[], 1.0),
            ("forkd_staged_bytes", &[], f64::from(40 << 20)),
            ("forkd_staging_limit_bytes", &[], f64::from(1 << 30)),
            ("forkd_history_lost_records_total", &[("cause", "database")], 1.0),
            ("forkd_build_info", &[("firecracker", "1.12.1"), ("version", env!("CARGO_PKG_VERSION"))], 1.0),
        ] {
            let found = exposed.value(name, labels).unwrap_or_else(|| panic!("no {name} {labels:?}"));
            assert!((found - value).abs() < 1e-9, "{name} {labels:?}: {found}");
        }
        // A phase that did not occur has no length.
        assert_eq!(exposed.value("forkd_branch_phase_seconds_count", &phase("prepare")), None);
    }

    #[test]
    fn the_dashboard_uses_what_is_exposed_and_shows_all_of_it() {
        let dashboard = include_str!("../../contrib/grafana/forkd.json");
        serde_json::from_str::<serde_json::Value>(dashboard).unwrap();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let used: BTreeSet<&str> =
            dashboard.split(|c| !is_name(c)).filter(|word| word.starts_with("forkd_")).collect();
        let exposed = exposed();
        let names = exposed.names();
        let missing: Vec<&&str> = used.iter().filter(|name| !names.contains(**name)).collect();
        assert!(missing.is_empty(), "not exposed: {missing:?}");
        let family = |name: &str| {
            let suffix =
                ["_bucket", "_count", "_sum"].into_iter().find_map(|suffix| name.strip_suffix(suffix));
            suffix.unwrap_or(name).to_owned()
        };
        let shown: BTreeSet<String> = used.iter().map(|name| family(name)).collect();
        let unseen: Vec<&&str> = names.iter().filter(|name| !shown.contains(&family(name))).collect();
        assert!(unseen.is_empty(), "on no panel: {unseen:?}");
    }
}
