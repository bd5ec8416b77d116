//! The measurements, one after the other.

use std::path::{Path, PathBuf};

use reports::offcpu::OffCpu;
use tokio::process::Command;

use super::load::{Load, WORKER};
use super::tool::{Cost, Kind, Running, Tool};
use super::{Gathered, Measure, Settings, pause};
use crate::Error;
use crate::progress::say;

/// From the start of a load, or of a tool on it, until it is measured.
const SETTLE_MS: u64 = 300;

/// Everything.
pub async fn all(tools: &[Tool], settings: &Settings, gathered: &mut Gathered) -> Result<(), Error> {
    for round in 1..=settings.rounds {
        say(format_args!("round {round} of {}", settings.rounds));
        // Each tool is first once in as many rounds as there are tools.
        let first = round as usize % tools.len();
        for tool in tools[first..].iter().chain(&tools[..first]) {
            unwatched(tool, settings, round, gathered).await?;
            watched(tool, settings, round, gathered).await?;
        }
        if let Some(ratio) = agreement(tools).await? {
            gathered.add(Measure::Agreement, Kind::Probe, round, ratio);
        }
    }
    for round in 1..=settings.rounds {
        storm(&tools[0], settings, round, gathered).await?;
    }
    million_stacks(gathered).await;
    Ok(())
}

/// Switches of others, while a process that sleeps is watched; and how long it took to attach, on a quiet host.
async fn unwatched(
    tool: &Tool,
    settings: &Settings,
    round: u32,
    gathered: &mut Gathered,
) -> Result<(), Error> {
    let idle = Load::idle()?;
    let running = tool.start(idle.pid()).await?;
    gathered.add(Measure::AttachedMs, tool.kind, round, running.attached_after.as_secs_f64() * 1e3);
    let load = Load::switches(false, false)?;
    let cost = over(&running, settings).await;
    drop(load);
    let left = running.stop().await?;
    let ours = if tool.kind == Kind::Probe { Some(left.report()?) } else { None };
    costs(
        (Measure::UnwatchedNs, Measure::UnwatchedSwitchNs),
        tool.kind,
        round,
        cost,
        ours.as_ref(),
        gathered,
    );
    Ok(())
}

/// Switches of the watched process.
async fn watched(tool: &Tool, settings: &Settings, round: u32, gathered: &mut Gathered) -> Result<(), Error> {
    let load = Load::switches(true, false)?;
    pause(SETTLE_MS).await;
    let running = tool.start(load.pid()).await?;
    let cost = over(&running, settings).await;
    let left = running.stop().await?;
    drop(load);
    gathered.add(Measure::PeakMib, tool.kind, round, left.peak_kib as f64 / 1024.0);
    let ours = if tool.kind == Kind::Probe { Some(left.report()?) } else { None };
    costs((Measure::WatchedNs, Measure::WatchedSwitchNs), tool.kind, round, cost, ours.as_ref(), gathered);
    Ok(())
}

/// What the programs cost in the window.
async fn over(running: &Running, settings: &Settings) -> Cost {
    pause(SETTLE_MS).await;
    let before = running.cost();
    pause(settings.window_ms).await;
    let after = running.cost();
    Cost { runs: after.runs - before.runs, all_ns: after.all_ns - before.all_ns }
}

/// Time by switch. A peer has one program; ours says of each of its own what it cost.
fn costs(
    (all, switch): (Measure, Measure),
    tool: Kind,
    round: u32,
    cost: Cost,
    ours: Option<&OffCpu>,
    gathered: &mut Gathered,
) {
    if cost.runs == 0 {
        return;
    }
    let mean = |ns: u64, runs: u64| ns as f64 / runs as f64;
    let all_ns = mean(cost.all_ns, cost.runs);
    let programs = ours.and_then(|report| report.cost.as_ref()).map(|cost| cost.programs.as_slice());
    let program = programs.unwrap_or_default().iter().find(|program| program.name.contains("switch"));
    let switch_ns = program
        .filter(|program| program.runs > 0)
        .map_or(all_ns, |program| mean(program.run_ns, program.runs));
    gathered.add(all, tool, round, all_ns);
    gathered.add(switch, tool, round, switch_ns);
}

/// The off-CPU time that ours saw of some threads over what `offcputime` saw of them. They begin after both have attached
/// and end before either ends. `None` where `offcputime` is not among the tools, or saw nothing.
pub async fn agreement(tools: &[Tool]) -> Result<Option<f64>, Error> {
    let tool = |kind| tools.iter().find(move |tool| tool.kind == kind);
    let (Some(probe), Some(peer)) = (tool(Kind::Probe), tool(Kind::Offcputime)) else { return Ok(None) };
    let mut load = Load::held()?;
    let (ours, theirs) = (probe.start(load.pid()).await?, peer.start(load.pid()).await?);
    pause(SETTLE_MS).await;
    load.work_through().await;
    pause(SETTLE_MS).await;
    let (ours, theirs) = (ours.stop().await?.report()?, theirs.stop().await?);
    let workers = ours.threads.iter().filter(|thread| thread.comm == WORKER);
    let ours_ns: u64 = workers.map(|thread| thread.off_cpu_ns).sum();
    let theirs_ns = theirs.offcputime_us(WORKER) * 1000;
    Ok((theirs_ns > 0).then(|| ours_ns as f64 / theirs_ns as f64))
}

/// As many switches as one CPU makes, and whether any was lost.
async fn storm(probe: &Tool, settings: &Settings, round: u32, gathered: &mut Gathered) -> Result<(), Error> {
    let load = Load::switches(true, true)?;
    pause(SETTLE_MS).await;
    // taskset has become perf by now.
    let running = probe.start(load.pid()).await?;
    pause(settings.window_ms).await;
    let report = running.stop().await?.report()?;
    let switches: u64 = report.threads.iter().map(|thread| thread.switches).sum();
    let rate = switches as f64 / (report.window_ns as f64 / 1e9);
    gathered.add(Measure::SwitchesPerSecond, Kind::Probe, round, rate);
    let lost = report.loss.get("ring_full").copied().unwrap_or(0);
    gathered.add(Measure::Lost, Kind::Probe, round, lost as f64);
    Ok(())
}

/// The benchmark of the crate `probes`, where it has been built.
async fn million_stacks(gathered: &mut Gathered) {
    let missing = match built_bench() {
        None => "build it (cargo bench --workspace --bench report --no-run)".to_owned(),
        Some(program) => match run_bench(&program).await {
            Ok(seconds) => return gathered.add(Measure::MillionStacksS, Kind::Probe, 1, seconds),
            Err(why) => why,
        },
    };
    gathered.skipped.push(format!("the million stacks are left out: {missing}"));
}

/// Its time in seconds, the middle of its samples.
async fn run_bench(program: &Path) -> Result<f64, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.args(["--bench", "--noplot", "--output-format", "bencher"]).kill_on_drop(true);
    let output = command.env("CRITERION_HOME", folder.path()).output().await;
    let output = output.map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().find_map(seconds).ok_or_else(|| format!("{} gave no time", program.display()))
}

/// `test NAME ... bench: 1,230,000,000 ns/iter (+/- 1,000)`.
fn seconds(line: &str) -> Option<f64> {
    let (ns, _) = line.split_once(" bench:")?.1.split_once(" ns/iter")?;
    Some(ns.trim().replace(',', "").parse::<f64>().ok()? / 1e9)
}

/// The newest of the programs that cargo has put beside this one.
fn built_bench() -> Option<PathBuf> {
    let itself = std::env::current_exe().ok()?;
    let entries = std::fs::read_dir(itself.parent()?.join("deps")).ok()?;
    let is_bench = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("report-") && path.extension().is_none()
    };
    let programs = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is_bench(path));
    programs.max_by_key(|path| path.metadata().and_then(|metadata| metadata.modified()).ok())
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn the_benchmarks_line_is_read() {
        let line =
            "test report/a million waits in 20 thousand stacks ... bench: 1,230,000,000 ns/iter (+/- 8,100)";
        assert_eq!(seconds(line), Some(1.23));
        assert_eq!(seconds("test report ... bench: 830500000 ns/iter (+/- 1)"), Some(0.8305));
        assert_eq!(seconds("running 1 test"), None);
    }
}
