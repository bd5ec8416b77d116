//! Advice, tried: the pause that an account predicts without a cause, beside the pause that is measured without it.
//!
//! Each case is a scenario of the battery, BRANCHed as it is, then with the advice followed.

use std::path::PathBuf;

use forkd::api::{BranchMode, DataPath};
use probes::attribute::{REMEDIES, Remedy};
use reports::units::duration;

use crate::Error;
use crate::battery::explain;
use crate::battery::scenario::{BranchOf, Inject, Scenario, Subject, nothing};
use crate::battery::scenarios;
use crate::battery::stage::Stage;
use crate::floor::stats::{median, ratio_of_medians};
use crate::interrupt::Interrupt;
use crate::progress::{print, say};
use crate::site::Programs;
use crate::trial::Made;
use crate::work::Work;

/// Between two BRANCHes that are to be alike.
const ATTEMPTS: u32 = 5;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// BRANCHes before and after the advice is followed.
    pub branches: u32,
    /// What to run; the daemon accounts for its pauses.
    pub programs: Programs,
    /// Where mounts, sockets and logs live meanwhile.
    pub work_dir: PathBuf,
}

/// One piece of advice.
struct Case {
    /// In short.
    advice: &'static str,
    /// How the text of the remedy begins.
    begins: &'static str,
    /// What it is against.
    scenario: &'static Scenario,
    /// How the BRANCH is asked for when it is followed.
    followed: fn(BranchOf) -> BranchOf,
    /// What is in the way then.
    left: Inject,
}

const CASES: [Case; 5] = [
    Case {
        advice: "stage in memory",
        begins: "stage in memory",
        scenario: &scenarios::SLOW_DISK,
        followed: |of| BranchOf { data_path: DataPath::Stage, ..of },
        left: scenarios::SLOW_DISK.inject,
    },
    Case {
        advice: "preallocate",
        begins: "preallocate",
        scenario: &scenarios::SLOW_DISK,
        followed: |of| BranchOf { data_path: DataPath::Fallocate, ..of },
        left: scenarios::SLOW_DISK.inject,
    },
    Case {
        advice: "lift the CPU quota",
        begins: "lift the CPU quota",
        scenario: &scenarios::CPU_QUOTA,
        followed: |of| of,
        left: nothing,
    },
    Case {
        advice: "raise wbt_lat_usec",
        begins: "raise wbt_lat_usec",
        scenario: &scenarios::WBT,
        followed: |of| of,
        left: scenarios::inject_unthrottled_wbt,
    },
    Case {
        advice: "move the neighbour",
        begins: "move the neighbour whose requests",
        scenario: &scenarios::NEIGHBOUR_READS,
        followed: |of| of,
        left: nothing,
    },
];

/// Tries every piece of advice, and prints prediction against measurement.
pub async fn run(request: &Request, interrupt: &mut Interrupt) -> Result<(), Error> {
    let (work, cleared) = Work::take(&request.work_dir)?;
    crate::battery::host::cgroup::delete_leftovers();
    cleared.iter().for_each(say);
    print(format_args!("{}\n", row(["ADVICE", "PAUSE", "PREDICTED", "MEASURED", "RATIO", "95 %"])));
    for case in &CASES {
        match interrupt.or(case.tried(request, &work)).await {
            Ok(line) => print(format_args!("{line}\n")),
            Err(Error::Missing(why)) => print(format_args!("skipped {}: {why}\n", case.advice)),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Case {
    /// The same table that advice in accounts is given by.
    fn remedy(&self) -> Result<&'static Remedy, Error> {
        let begins = |remedy: &&Remedy| remedy.text.starts_with(self.begins);
        let unknown = || Error::Usage(format!("no remedy begins with '{}'", self.begins));
        REMEDIES.iter().find(begins).ok_or_else(unknown)
    }

    async fn tried(&self, request: &Request, work: &Work) -> Result<String, Error> {
        let Subject::Branch(of) = self.scenario.subject else {
            return Err(Error::Usage(format!("{} is no BRANCH", self.scenario.name)));
        };
        let mut stage = Stage::build(work, &request.programs, of.place).await?;
        let mut pairs = Vec::new();
        let mut pauses_ms = Vec::new();
        // Taken in turn, so that what the host does meanwhile is in both.
        for _ in 0..request.branches {
            let before = self.branch(&mut stage, work, of, self.scenario.inject).await?;
            let after = self.branch(&mut stage, work, (self.followed)(of), self.left).await?;
            pauses_ms.push(before.pause_ms);
            pairs.push((before.predicted_ms, after.pause_ms));
        }
        let (predicted, measured): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
        let middle = |values: &[f64]| duration((median(values).unwrap_or(0.0) * 1e6) as u64);
        let ratio =
            ratio_of_medians(&pairs, 0).ok_or_else(|| Error::Usage("no BRANCH was asked for".to_owned()))?;
        Ok(row([
            self.advice,
            &middle(&pauses_ms),
            &middle(&predicted),
            &middle(&measured),
            &format!("{:.2}", ratio.value),
            &format!("{:.2}-{:.2}", ratio.low, ratio.high),
        ]))
    }

    /// One BRANCH of a fresh sandbox, accounted for.
    async fn branch(
        &self,
        stage: &mut Stage,
        work: &Work,
        of: BranchOf,
        inject: Inject,
    ) -> Result<Pause, Error> {
        let mut attempt = 1;
        loop {
            let mut made = Made::default();
            let outcome = self.once(stage, work, of, inject, &mut made).await;
            made.remove(&stage.site.api).await;
            match outcome {
                Err(Error::NoAccount(_)) if attempt < ATTEMPTS => attempt += 1,
                outcome => return outcome,
            }
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    }

    async fn once(
        &self,
        stage: &mut Stage,
        work: &Work,
        of: BranchOf,
        inject: Inject,
        made: &mut Made,
    ) -> Result<Pause, Error> {
        let sandbox = stage.fork(work, of, made).await?;
        let mut injection = inject(&stage.scene(sandbox.pid))?;
        stage.dirty(&sandbox, of.dirty_pages).await?;
        Stage::settle_memory();
        injection.right_before()?;
        made.add_tag("window");
        let branch = stage.site.api.branch_as(&sandbox.id, &Stage::request(of, "window")).await?;
        debug_assert!(of.mode == BranchMode::Full || branch.mode == of.mode, "{branch:?}");
        let explained = explain::of_branch(&stage.site.api, &branch.id).await?;
        let times = explained.causes.iter().map(|cause| (cause.cause.as_str(), cause.ns));
        let predicted_ns = self.remedy()?.predicted_ns(explained.window_ns, times);
        let ms = |ns: u64| ns as f64 / 1e6;
        Ok(Pause { pause_ms: ms(branch.pause_ns), predicted_ms: ms(predicted_ns) })
    }
}

/// A pause, and what it is predicted to be without the causes that the advice is against.
struct Pause {
    pause_ms: f64,
    predicted_ms: f64,
}

fn row([advice, pause, predicted, measured, ratio, interval]: [&str; 6]) -> String {
    format!("{advice:<20} {pause:>10} {predicted:>10} {measured:>10} {ratio:>7} {interval:>12}")
}

#[cfg(test)]
mod tests {
    use super::{CASES, row};
    use crate::battery::scenario::Expected;

    #[test]
    fn each_case_follows_one_remedy_of_the_table_and_that_leaves_copying_alone() {
        for case in &CASES {
            let remedy = case.remedy().unwrap();
            assert!(!remedy.removes("dirty_page_copy"), "{}", case.advice);
        }
    }

    #[test]
    fn staging_and_lifting_a_quota_take_away_all_that_their_scenarios_expect() {
        for case in
            CASES.iter().filter(|case| ["stage in memory", "lift the CPU quota"].contains(&case.advice))
        {
            let Expected::OneOf(ids) = case.scenario.expected else { panic!("{}", case.advice) };
            let remedy = case.remedy().unwrap();
            assert!(ids.iter().all(|id| remedy.removes(id)), "{}: {ids:?}", case.advice);
        }
    }

    #[test]
    fn a_row_fits_80_columns() {
        assert!(
            row(["raise wbt_lat_usec", "1234.56 ms", "1.23 s", "1.23 s", "10.00", "0.90-10.01"]).len() <= 80
        );
    }
}
