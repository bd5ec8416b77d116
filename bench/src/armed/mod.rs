//! What accounting for pauses costs them, and what comes of it: BRANCHes of one guest, of which every second one has
//! the probes armed, or attached at least.

mod attached;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use forkd::api::{Branch, BranchMode, DataPath, Sandbox};

use self::attached::Attached;
use crate::Error;
use crate::battery::scenario::{BranchOf, Place};
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
/// BRANCHes of one guest are layers on each other, in memory, and can be deleted with it only.
const PAIRS_OF_A_GUEST: u32 = 50;
/// What the snapshots lie on.
const PLACE: Place = Place::Memory;
/// Between what the guest does and the BRANCH.
const SETTLED: Duration = Duration::from_millis(50);

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
    /// `forkd-probe`, where it holds the probes for every second pause and arms them for none: then the daemon has none.
    pub attached_by: Option<PathBuf>,
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
    /// Time that the programs took of all CPUs while armed, in milliseconds.
    programs_ms: Vec<f64>,
    lost: u64,
    unavailable: u64,
}

/// Takes the BRANCHes and prints the figures.
pub async fn run(request: &Request, interrupt: &mut Interrupt) -> Result<(), Error> {
    let (work, cleared) = Work::take(&request.work_dir)?;
    cleared.iter().for_each(say);
    let mut gathered = Gathered::default();
    let measured = interrupt.or(measure(request, &work, &mut gathered)).await;
    print(pauses_text(if request.attached_by.is_some() { "attached" } else { "armed" }, &gathered.pairs_ms));
    if request.attached_by.is_none() {
        print(accounts_text(&gathered));
    }
    measured
}

async fn measure(request: &Request, work: &Work, gathered: &mut Gathered) -> Result<(), Error> {
    let mut stage = Stage::build(work, &request.programs, PLACE).await?;
    let progress = Progress::new(u64::from(request.pairs));
    let mut left = request.pairs;
    while left > 0 {
        let pairs = left.min(PAIRS_OF_A_GUEST);
        left -= pairs;
        let mut guest = Guest::fork(request, work, &mut stage).await?;
        match request.attached_by {
            // The probes are attached some time after the daemon's start; from then on the turns are kept.
            None => wait_until_attached(&mut guest).await?,
            // The first of all is unlike the others.
            Some(_) => drop(guest.branch().await?),
        }
        for pair in 0..pairs {
            let pair_ms = match &request.attached_by {
                None => armed_pair(&mut guest, gathered).await?,
                Some(probe) => attached_pair(&mut guest, probe, pair % 2 == 0).await?,
            };
            gathered.pairs_ms.push(pair_ms);
            progress.advance();
        }
        guest.remove().await;
    }
    Ok(())
}

/// Pauses without and with armed probes, in milliseconds: the daemon arms them for the first of two.
async fn armed_pair(guest: &mut Guest<'_>, gathered: &mut Gathered) -> Result<(f64, f64), Error> {
    let armed = guest.branch().await?;
    account(guest.stage, &armed, gathered).await?;
    let without = guest.branch().await?;
    Ok((ms(&without), ms(&armed)))
}

/// Pauses without and with probes that are attached, in milliseconds.
async fn attached_pair(
    guest: &mut Guest<'_>,
    probe: &Path,
    attached_first: bool,
) -> Result<(f64, f64), Error> {
    let mut pause_ms = [0.0; 2];
    for is_attached in [attached_first, !attached_first] {
        let attached = is_attached.then(|| Attached::start(probe)).transpose()?;
        pause_ms[usize::from(is_attached)] = ms(&guest.branch().await?);
        drop(attached);
    }
    Ok((pause_ms[0], pause_ms[1]))
}

/// A guest that dirties the same pages before each BRANCH.
struct Guest<'a> {
    stage: &'a Stage,
    sandbox: Sandbox,
    of: BranchOf,
    branches: u32,
    made: Made,
}

impl<'a> Guest<'a> {
    async fn fork(request: &Request, work: &Work, stage: &'a mut Stage) -> Result<Self, Error> {
        let of = BranchOf {
            mode: BranchMode::Diff,
            data_path: request.data_path,
            ..BranchOf::staged(request.mem_mib, request.dirty_pages)
        };
        let mut made = Made::default();
        let sandbox = stage.fork(work, of, &mut made).await?;
        Ok(Self { stage, sandbox, of, branches: 0, made })
    }

    async fn branch(&mut self) -> Result<Branch, Error> {
        self.stage.dirty(&self.sandbox, self.of.dirty_pages).await?;
        tokio::time::sleep(SETTLED).await;
        // An account takes memory and gives it back. Else the BRANCH after it would find pages that the host's own
        // hypervisor still backs, and an armed one would not.
        Stage::settle_memory();
        self.branches += 1;
        let tag = format!("b-{}", self.branches);
        self.made.add_tag(&tag);
        self.stage.site.api.branch_as(&self.sandbox.id, &Stage::request(self.of, &tag)).await
    }

    async fn remove(mut self) {
        self.made.remove(&self.stage.site.api).await;
    }
}

fn ms(branch: &Branch) -> f64 {
    branch.pause_ns as f64 / 1e6
}

/// BRANCHes until one has an account. The one after it has none: it is not its turn.
async fn wait_until_attached(guest: &mut Guest<'_>) -> Result<(), Error> {
    let begun = Instant::now();
    loop {
        let branch = guest.branch().await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let account = guest.stage.site.api.attribution(&branch.id).await?;
        match account.as_ref().map(|account| account["unavailable"].as_str()) {
            Some(None) => break,
            Some(Some(why)) if begun.elapsed() > PATIENCE => return Err(Error::Missing(why.to_owned())),
            _ if begun.elapsed() > PATIENCE => return Err(Error::NoAccount("no answer".to_owned())),
            _ => {}
        }
    }
    guest.branch().await.map(drop)
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
    gathered.programs_ms.extend(account["probe_overhead_ns"].as_f64().map(|ns| ns / 1e6));
    Ok(())
}

/// What the pauses were without and with, `word` being what every second one was.
fn pauses_text(word: &str, pairs_ms: &[(f64, f64)]) -> String {
    let (without, with): (Vec<f64>, Vec<f64>) = pairs_ms.iter().copied().unzip();
    let difference = match difference_of_medians(pairs_ms, 0) {
        Some(Estimate { value, low, high }) => format!("{value:.3} ms ({low:.3} to {high:.3})"),
        None => "-".to_owned(),
    };
    let line = |label: String, value: String| format!("{label:<34}{value}\n");
    [
        line("pairs".to_owned(), pairs_ms.len().to_string()),
        line(format!("median pause, not {word}"), in_ms(median(&without))),
        line(format!("median pause, {word}"), in_ms(median(&with))),
        line("difference (95 % interval)".to_owned(), difference),
    ]
    .concat()
}

fn accounts_text(gathered: &Gathered) -> String {
    let Gathered { explained, latencies_ms, programs_ms, lost, unavailable, .. } = gathered;
    let well = explained.iter().filter(|part| **part >= EXPLAINED).count();
    format!(
        "accounts                          {}, {unavailable} unavailable, {lost} events lost\n\
         explained to at least 99 %        {well} of {}\n\
         least explained                   {:.2} %\n\
         programs' time on all CPUs        p50 {}\n\
         account after the resume          p50 {}, p99 {}\n",
        explained.len(),
        explained.len(),
        quantile(explained, 0.0).unwrap_or(0.0) * 100.0,
        in_ms(quantile(programs_ms, 0.5)),
        in_ms(quantile(latencies_ms, 0.5)),
        in_ms(quantile(latencies_ms, 0.99)),
    )
}

fn in_ms(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3} ms"))
}

#[cfg(test)]
mod tests {
    use super::pauses_text;

    #[test]
    fn pauses_with_and_without_stand_under_each_other() {
        let text = pauses_text("attached", &[(4.0, 4.5), (4.0, 4.5), (4.0, 4.5)]);
        assert!(text.contains("median pause, not attached        4.000 ms\n"), "{text}");
        assert!(text.contains("difference (95 % interval)        0.500 ms (0.500 to 0.500)\n"), "{text}");
    }
}
