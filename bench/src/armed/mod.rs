//! What accounting for pauses costs them, and what comes of it: BRANCHes of one guest, of which every second one has
//! the probes armed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use forkd::api::{Branch, BranchMode, DataPath};

use crate::Error;
use crate::battery::scenario::BranchOf;
use crate::battery::stage::Stage;
use crate::floor::stats::{Estimate, difference_of_medians, median, quantile};
use crate::interrupt::Interrupt;
use crate::progress::{Progress, print, say};
use crate::site::Programs;
use crate::trial::Made;
use crate::work::Work;

/// A part of a pause that is explained well enough.
const EXPLAINED: f64 = 0.99;
/// How long an account may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks for one: less than what is to be told apart.
const LOOK: Duration = Duration::from_millis(2);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Pairs of a BRANCH with armed probes and one without.
    pub pairs: u32,
    /// Guest memory in MiB.
    pub mem_mib: u32,
    /// Pages (4 KiB) that the guest dirties before each BRANCH.
    pub dirty_pages: u64,
    /// How the BRANCHes get to disk.
    pub data_path: DataPath,
    /// What to run; the daemon arms its probes for every second pause.
    pub programs: Programs,
    /// Where mounts, sockets and logs live meanwhile.
    pub work_dir: PathBuf,
}

/// What was gathered.
#[derive(Debug, Default)]
struct Gathered {
    /// Pauses without and with armed probes, in milliseconds.
    pairs_ms: Vec<(f64, f64)>,
    /// Of the armed ones: the part that is explained, and how long after the resume the account was there, in
    /// milliseconds.
    explained: Vec<f64>,
    latencies_ms: Vec<f64>,
    lost: u64,
    unavailable: u64,
}

/// Takes the BRANCHes and prints the figures.
pub async fn run(request: &Request, interrupt: &mut Interrupt) -> Result<(), Error> {
    let (work, cleared) = Work::take(&request.work_dir)?;
    cleared.iter().for_each(say);
    let mut gathered = Gathered::default();
    let measured = interrupt.or(measure(request, &work, &mut gathered)).await;
    print(text(&gathered));
    measured
}

async fn measure(request: &Request, work: &Work, gathered: &mut Gathered) -> Result<(), Error> {
    let of = BranchOf {
        mode: BranchMode::Diff,
        data_path: request.data_path,
        ..BranchOf::staged(request.mem_mib, request.dirty_pages)
    };
    let mut stage = Stage::build(work, &request.programs, of.place).await?;
    let progress = Progress::new(u64::from(request.pairs));
    let sandbox = stage.fork(work, of, &mut Made::default()).await?;
    // The probes are attached some time after the daemon's start; from then on the turns are kept.
    wait_until_attached(&stage, &sandbox.id, of).await?;
    let mut previous = None;
    for number in 1..=request.pairs {
        for turn in ["armed", "not-armed"] {
            stage.dirty(&sandbox, of.dirty_pages).await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
            let tag = format!("{turn}-{number}");
            let branch = stage.site.api.branch_as(&sandbox.id, &Stage::request(of, &tag)).await?;
            if turn == "armed" {
                account(&stage, &branch, gathered).await?;
                previous = Some(branch.pause_ms);
            } else if let Some(armed_ms) = previous.take() {
                gathered.pairs_ms.push((branch.pause_ms, armed_ms));
            }
        }
        progress.advance();
    }
    Ok(())
}

/// BRANCHes until one has an account. The one after it has none: it is not its turn.
async fn wait_until_attached(stage: &Stage, id: &str, of: BranchOf) -> Result<(), Error> {
    let begun = Instant::now();
    for number in 1.. {
        let branch = stage.site.api.branch_as(id, &Stage::request(of, &format!("first-{number}"))).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let account = stage.site.api.attribution(&branch.id).await?;
        match account.as_ref().map(|account| account["unavailable"].as_str()) {
            Some(None) => break,
            Some(Some(why)) if begun.elapsed() > PATIENCE => return Err(Error::Missing(why.to_owned())),
            _ if begun.elapsed() > PATIENCE => return Err(Error::NoAccount("no answer".to_owned())),
            _ => {}
        }
    }
    stage.site.api.branch_as(id, &Stage::request(of, "first-not-armed")).await.map(drop)
}

/// Waits for the account of an armed BRANCH.
async fn account(stage: &Stage, branch: &Branch, gathered: &mut Gathered) -> Result<(), Error> {
    let begun = Instant::now();
    let account = loop {
        match stage.site.api.attribution(&branch.id).await? {
            Some(account) => break account,
            None if begun.elapsed() > PATIENCE => return Err(Error::NoAccount("it never came".to_owned())),
            None => tokio::time::sleep(LOOK).await,
        }
    };
    let resumed_ns = branch.pause_window_ns().map_or(0, |(_, end_ns)| end_ns);
    let latency_ns = probes::monotonic_ns().saturating_sub(resumed_ns);
    let (Some(window), Some(unexplained)) =
        (account["window_ns"].as_f64(), account["unexplained_ns"].as_f64())
    else {
        gathered.unavailable += 1;
        return Ok(());
    };
    gathered.explained.push(1.0 - unexplained / window.max(1.0));
    gathered.lost += account["verdict"]["lost"].as_u64().unwrap_or(0);
    gathered.latencies_ms.push(latency_ns as f64 / 1e6);
    Ok(())
}

fn text(gathered: &Gathered) -> String {
    let Gathered { pairs_ms, explained, latencies_ms, lost, unavailable } = gathered;
    let (without, with): (Vec<f64>, Vec<f64>) = pairs_ms.iter().copied().unzip();
    let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3} ms"));
    let well = explained.iter().filter(|part| **part >= EXPLAINED).count();
    let difference = match difference_of_medians(pairs_ms, 0) {
        Some(Estimate { value, low, high }) => format!("{value:.3} ms ({low:.3} to {high:.3})"),
        None => "-".to_owned(),
    };
    format!(
        "pairs                             {}\n\
         median pause, not armed           {}\n\
         median pause, armed               {}\n\
         difference (95 % interval)        {difference}\n\
         accounts                          {}, {unavailable} unavailable, {lost} events lost\n\
         explained to at least 99 %        {well} of {}\n\
         least explained                   {:.2} %\n\
         account after the resume          p50 {}, p99 {}\n",
        pairs_ms.len(),
        ms(median(&without)),
        ms(median(&with)),
        explained.len(),
        explained.len(),
        quantile(explained, 0.0).unwrap_or(0.0) * 100.0,
        ms(quantile(latencies_ms, 0.5)),
        ms(quantile(latencies_ms, 0.99)),
    )
}
