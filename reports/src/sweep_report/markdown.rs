//! The report as Markdown.

use std::fmt::Write;

use super::{CellFigures, Measured, Picture, SweepReport};
use crate::run::{Root, Run};
use crate::units::{bytes, duration};

/// Headings of the table of cells.
pub(super) const HEADINGS: [&str; 11] = [
    "cell",
    "trials",
    "BRANCHes",
    "min",
    "median",
    "p95",
    "max",
    "BRANCH 1-2",
    "BRANCH 3 on",
    "memory written",
    "device written",
];

/// What the figures of the table are.
pub(super) const LEGEND: &str =
    "Pauses in milliseconds; BRANCH 1-2, 3 on, memory and device written are medians.";

/// One row of the table of cells.
pub(super) fn row(cell: &CellFigures) -> [String; HEADINGS.len()] {
    let ms = |ms: f64| format!("{ms:.1}");
    let maybe = |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), ms);
    [
        cell.cell.clone(),
        cell.trials.to_string(),
        cell.branches.to_string(),
        ms(cell.pause_ms.min),
        ms(cell.pause_ms.median),
        ms(cell.p95_ms),
        ms(cell.pause_ms.max),
        maybe(cell.early_ms),
        maybe(cell.late_ms),
        bytes(cell.memory_bytes),
        cell.device_bytes.map_or_else(|| "-".to_owned(), bytes),
    ]
}

/// The whole report; `pictures` are named, and lie beside it.
pub fn markdown(report: &SweepReport, pictures: &[Picture]) -> String {
    let mut out = "# BRANCHes measured\n\n".to_owned();
    line(&mut out, &HEADINGS.map(str::to_owned));
    line(&mut out, &HEADINGS.map(|heading| if heading == "cell" { "---" } else { "---:" }.to_owned()));
    let cells = report.cells();
    for cell in &cells {
        line(&mut out, &row(cell).map(|field| escape(&field)));
    }
    push(&mut out, format_args!("\n{LEGEND}\n"));
    for guarded in guarded(&cells) {
        push(&mut out, format_args!("- {}\n", escape(&guarded)));
    }
    for picture in pictures {
        push(
            &mut out,
            format_args!("\n## {}\n\n![{}]({})\n", picture.title, escape(&picture.alt), picture.file),
        );
    }
    for measured in &report.sweeps {
        push(&mut out, format_args!("\n## Run: {}\n\n", escape(&measured.label)));
        for (name, value) in facts(measured) {
            push(&mut out, format_args!("- {name}: {}\n", escape(&value)));
        }
    }
    out
}

/// A sentence for each cell at which the host guard tripped.
pub(super) fn guarded(cells: &[CellFigures]) -> Vec<String> {
    let guarded = cells.iter().filter(|cell| cell.guarded > 0);
    let sentence = |cell: &CellFigures| {
        format!("{}: the host guard tripped at {} of {} BRANCHes", cell.cell, cell.guarded, cell.branches)
    };
    guarded.map(sentence).collect()
}

/// What is known of a run, by name.
pub(super) fn facts(measured: &Measured) -> Vec<(&'static str, String)> {
    let Some(run) = &measured.run else {
        return vec![("machine", "not known: there is no run.json beside the samples".to_owned())];
    };
    let mut facts = vec![
        ("run", run.run_id.clone()),
        ("command", run.arguments.join(" ")),
        ("machine", machine(run)),
        ("versions", versions(run)),
        ("BRANCHes", plan(run)),
    ];
    facts.extend(run.machine.lab.iter().map(|lab| ("emulated in software", lab.words())));
    facts.extend(run.roots.iter().map(|root| ("snapshots on", place(root))));
    facts.extend(run.plan.disk_note.iter().map(|note| ("disk", note.clone())));
    facts.extend(run.spent.iter().map(|spent| {
        let (wall, overhead) = (duration(spent.wall_ns), spent.overhead_pct());
        ("time", format!("{wall}, {overhead:.1}% of it neither in BRANCHes nor in the gaps between them"))
    }));
    if run.interrupted || run.error.is_some() {
        facts.push(("ended early", run.error.clone().unwrap_or_else(|| "interrupted".to_owned())));
    }
    facts.extend(run.warnings.iter().map(|warning| ("warning", warning.clone())));
    facts
}

/// `ext4-loop: ext4 (rw / rw) on loop0 on vda`.
fn place(root: &Root) -> String {
    let devices = [&root.device, &root.backing_device];
    let on: String = devices.into_iter().flatten().map(|device| format!(" on {}", device.name)).collect();
    format!("{}: {} ({}){on}", root.root, root.file_system, root.mount_options)
}

fn machine(run: &Run) -> String {
    let machine = &run.machine;
    format!(
        "Linux {}, {} x {}, {} MiB of memory",
        machine.kernel, machine.cpus, machine.cpu_model, machine.mem_mib
    )
}

fn versions(run: &Run) -> String {
    let known = |version: &Option<String>| version.clone().unwrap_or_else(|| "unknown".to_owned());
    format!("forkd {}, {}", known(&run.versions.forkd), known(&run.versions.firecracker))
}

fn plan(run: &Run) -> String {
    let plan = &run.plan;
    let answered = if plan.durable { "answered when it is on disk" } else { "answered before it is on disk" };
    format!("{} of a sandbox, {} trials, {answered}, seed {}", plan.branches, plan.trials, plan.seed)
}

fn line(out: &mut String, fields: &[String]) {
    push(out, format_args!("| {} |\n", fields.join(" | ")));
}

/// What Markdown would take for markup: in a cell's name only the bar can be.
fn escape(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn push(out: &mut String, text: std::fmt::Arguments) {
    out.write_fmt(text).expect("a String takes every write");
}
