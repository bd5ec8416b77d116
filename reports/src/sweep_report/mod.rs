//! Sweeps beside each other: the report that `forkd-bench report` writes of one or of several.
//!
//! It shows what was measured, and judges none of it.

mod cells;
mod html;
mod markdown;

pub use cells::CellFigures;
pub use html::html;
pub use markdown::markdown;

use crate::plot::{PlotError, Words, distribution_png, phases_png, sweep_png, written_png};
use crate::run::{Machine, Run};
use crate::sweep::{Sample, Sweep};
use crate::units::bytes;

/// One sweep, and what is known of the run that took it.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What a reader calls it by: the name of its folder.
    pub label: String,
    /// Its `run.json`, where it has one.
    pub run: Option<Run>,
    /// Its samples.
    pub sweep: Sweep,
}

/// Sweeps, to be shown together.
#[derive(Clone, Debug)]
pub struct SweepReport {
    /// Each sweep, in the order in which they were named.
    pub sweeps: Vec<Measured>,
    /// The samples of all of them: cells of one name in two sweeps are told apart by the sweep's label.
    pub all: Sweep,
}

/// A picture, with the words for whoever cannot see it.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Name of its file.
    pub file: &'static str,
    /// What it shows, one line.
    pub title: &'static str,
    /// What can be seen in it.
    pub alt: String,
    /// The PNG.
    pub png: Vec<u8>,
}

/// Draws one picture of a sweep.
type Draw = fn(&Sweep, &Words) -> Result<Vec<u8>, PlotError>;

const PICTURES: [(&str, &str, Draw); 4] = [
    ("pause.png", "Pause by BRANCH index", sweep_png),
    ("distribution.png", "Distribution of the pauses", distribution_png),
    ("phases.png", "Phases of each BRANCH", phases_png),
    ("written.png", "Bytes written for each BRANCH", written_png),
];

impl SweepReport {
    /// The report on `sweeps`, the cells of each in the order in which they were asked for.
    pub fn new(sweeps: Vec<Measured>) -> Self {
        let ordered = |mut measured: Measured| {
            if let Some(run) = &measured.run {
                measured.sweep = measured.sweep.in_order_of(&run.plan.cells);
            }
            measured
        };
        let sweeps: Vec<Measured> = sweeps.into_iter().map(ordered).collect();
        let all = merged(&sweeps);
        Self { sweeps, all }
    }

    /// The figures of each cell.
    pub fn cells(&self) -> Vec<CellFigures> {
        self.all.cells().into_iter().filter_map(|cell| CellFigures::of(&self.all, cell)).collect()
    }

    /// Every picture. That of the phases is left out where no sample has any: sweeps of other programs.
    pub fn pictures(&self) -> Result<Vec<Picture>, PlotError> {
        let caption = self.caption();
        let mut pictures = Vec::new();
        for (file, title, draw) in PICTURES {
            let words = Words { title: title.to_owned(), caption: caption.clone() };
            match draw(&self.all, &words) {
                Ok(png) => pictures.push(Picture { file, title, alt: self.alt(file, title), png }),
                Err(PlotError::Empty) if file == "phases.png" => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pictures)
    }

    /// Where it was measured, one line.
    fn caption(&self) -> String {
        let runs = self.sweeps.iter().filter_map(|measured| measured.run.as_ref());
        let mut machines: Vec<String> = runs.map(|run| machine(&run.machine)).collect();
        machines.dedup();
        let samples = self.all.samples.len();
        let disk = self.all.throttle_words().map_or_else(String::new, |words| format!(", {words}"));
        let guest = self.guest().map_or_else(String::new, |words| format!("; {words}"));
        match &machines[..] {
            [] => format!("{samples} BRANCHes{disk}; nothing is known of the machine"),
            [machine] => format!("{machine}; {samples} BRANCHes{disk}{guest}"),
            machines => format!("{samples} BRANCHes on {} machines{disk}{guest}", machines.len()),
        }
    }

    /// The guest and its load, where every sweep tells the same.
    fn guest(&self) -> Option<String> {
        let plans = self.sweeps.iter().map(|measured| measured.run.as_ref().map(|run| run.plan.words()));
        let mut plans: Vec<String> = plans.collect::<Option<_>>()?;
        plans.dedup();
        if plans.len() == 1 { plans.pop() } else { None }
    }

    /// What the picture `file` shows, for whoever cannot see it.
    fn alt(&self, file: &str, title: &str) -> String {
        let cells = self.cells();
        let words = |cell: &CellFigures| match file {
            "pause.png" => {
                let ms = |ms: Option<f64>| ms.map_or_else(|| "none".to_owned(), |ms| format!("{ms:.1} ms"));
                format!(
                    "{} {} in BRANCHes 1 and 2, {} after them",
                    cell.cell,
                    ms(cell.early_ms),
                    ms(cell.late_ms)
                )
            }
            "written.png" => {
                let device =
                    cell.device_bytes.map_or_else(String::new, |on| format!(", {} to the device", bytes(on)));
                format!("{} {} of memory{device}", cell.cell, bytes(cell.memory_bytes))
            }
            _ => format!("{} {:.1} ms, 95% within {:.1} ms", cell.cell, cell.pause_ms.median, cell.p95_ms),
        };
        let what = if file == "written.png" { "Medians" } else { "Median pauses" };
        format!("{title}. {what}: {}.", cells.iter().map(words).collect::<Vec<_>>().join("; "))
    }
}

/// `Linux 6.12.117, 2 CPUs`, and whether it was the lab.
fn machine(machine: &Machine) -> String {
    let lab = machine.lab.as_ref().map_or_else(String::new, |lab| format!(" ({})", lab.words()));
    let s = if machine.cpus == 1 { "" } else { "s" };
    format!("Linux {}, {} CPU{s}{lab}", machine.short_kernel(), machine.cpus)
}

/// One sweep of all samples. Phases are put together by name; a sweep that does not know one has 0 of it.
fn merged(sweeps: &[Measured]) -> Sweep {
    let mut phases: Vec<String> = Vec::new();
    for phase in sweeps.iter().flat_map(|measured| &measured.sweep.phases) {
        if !phases.contains(phase) {
            phases.push(phase.clone());
        }
    }
    let mut samples = Vec::new();
    for measured in sweeps {
        let places: Vec<Option<usize>> = phases
            .iter()
            .map(|phase| measured.sweep.phases.iter().position(|known| known == phase))
            .collect();
        for sample in &measured.sweep.samples {
            let elsewhere = |other: &&Measured| !std::ptr::eq(*other, measured);
            let shared = sweeps
                .iter()
                .filter(elsewhere)
                .any(|other| other.sweep.of_cell(&sample.cell).next().is_some());
            let cell =
                if shared { format!("{}: {}", measured.label, sample.cell) } else { sample.cell.clone() };
            let length =
                |place: &Option<usize>| place.and_then(|at| sample.phases_ns.get(at)).copied().unwrap_or(0);
            samples.push(Sample { cell, phases_ns: places.iter().map(length).collect(), ..sample.clone() });
        }
    }
    Sweep { phases, samples }
}

#[cfg(test)]
mod tests {
    use super::{Measured, SweepReport};
    use crate::run::{Lab, Run};
    use crate::sweep::{Sweep, read};

    fn measured(label: &str, sweep: Sweep) -> Measured {
        Measured { label: label.to_owned(), run: None, sweep }
    }

    fn golden() -> Sweep {
        read("sweep.csv", include_str!("../../tests/golden/sweep.csv").as_bytes()).unwrap()
    }

    #[test]
    fn cells_of_one_name_are_told_apart_and_others_keep_theirs() {
        let mut other = golden();
        other.samples.retain(|sample| sample.cell == "naive@tmpfs");
        let report = SweepReport::new(vec![measured("a", golden()), measured("b", other)]);
        let cells = report.all.cells();
        assert!(cells.contains(&"a: naive@tmpfs") && cells.contains(&"b: naive@tmpfs"), "{cells:?}");
        assert!(cells.contains(&"naive@ext4-loop"), "{cells:?}");
    }

    #[test]
    fn the_caption_tells_a_lab_and_its_disk() {
        let caption = |lab: Option<Lab>| {
            let mut run: Run = serde_json::from_str(include_str!("../../tests/golden/run.json")).unwrap();
            run.machine.lab = lab;
            SweepReport::new(vec![Measured { run: Some(run), ..measured("a", golden()) }]).caption()
        };
        let lab = Lab { kernel: "6.12".to_owned(), disk_bps: Some(50_000_000), disk_iops: None };
        assert!(caption(Some(lab)).contains(" CPUs (lab, disk of 50 MB/s); "));
        assert!(!caption(None).contains("lab"));
        let guest = "; 512 MiB guest, 16 MiB dirtied 3 s before each BRANCH, answered before it is on disk";
        assert!(caption(None).ends_with(guest), "{}", caption(None));
    }

    #[test]
    fn the_caption_tells_what_all_loop_devices_are_throttled_to() {
        let caption = |disk_bps| {
            let mut sweep = golden();
            for sample in sweep.samples.iter_mut().filter(|sample| sample.root != "tmpfs") {
                sample.circumstances.disk_bps = disk_bps;
            }
            SweepReport::new(vec![measured("a", sweep)]).caption()
        };
        let throttled = caption(Some(100_000_000));
        assert!(throttled.contains(" BRANCHes, loop devices throttled to 100 MB/s; "), "{throttled}");
        assert!(!caption(None).contains("throttled"));
    }

    #[test]
    fn phases_are_put_together_by_name() {
        let mut other = golden();
        other.phases = vec!["later".to_owned(), "create".to_owned()];
        for sample in &mut other.samples {
            sample.phases_ns = vec![7, 9];
        }
        let report = SweepReport::new(vec![measured("a", golden()), measured("b", other)]);
        let create = report.all.phases.iter().position(|phase| phase == "create").unwrap();
        assert_eq!(report.all.phases.last().map(String::as_str), Some("later"));
        let last = report.all.samples.last().unwrap();
        assert_eq!((last.phases_ns[create], last.phases_ns.last()), (9, Some(&7)));
        assert_eq!(report.all.samples[0].phases_ns.last(), Some(&0));
    }
}
