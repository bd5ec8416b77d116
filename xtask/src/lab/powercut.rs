//! `cargo xtask lab powercut`: BRANCHes, power cuts at random instants, and what must be on the disk then.

mod bad_sectors;
mod ledger;
mod write_log;

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fastrand::Rng;

use super::image::Image;
use super::kernels;
use super::machine::{self, Killed, Watcher};
use super::options::{FileSystem, Hardware};
use super::programs;
use super::session::{self, Booted, Job, Session};
use crate::process::{self, Interrupts};
use crate::setup;
use ledger::{Boot, Ledger};

/// Cut a machine's power at random instants while it BRANCHes, and check after each cut what it still has.
#[derive(clap::Args)]
pub struct Arguments {
    /// How often the power is cut
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    cuts: u32,
    /// Decides how and when; drawn and printed when absent
    #[arg(long)]
    seed: Option<u64>,
    /// Kernel by its name in the lab
    #[arg(long, default_value = kernels::DEFAULT)]
    kernel: String,
    /// File system of the disk
    #[arg(long, default_value = "ext4")]
    fs: FileSystem,
    /// Build our programs with optimisation
    #[arg(long)]
    release: bool,
    /// Where the archive has the pinned kernel no more, take the nearest
    #[arg(long)]
    nearest: bool,
}

const INSIDE: &str = include_str!("powercut/inside.sh");
/// Seconds that one boot may take until its load begins, and the load until its cut.
const BOOT_TIMEOUT_S: u64 = 900;
/// The cut comes up to so many answers after the load begins, and up to so many milliseconds after that.
const MAX_ANSWERS: usize = 6;
const MAX_DELAY_MS: u64 = 1500;
/// Then the power stays on for so long at most until writes are in flight, where the disk's cache is to lose some.
const IN_FLIGHT_TIMEOUT: Duration = Duration::from_secs(60);
/// And so long at most, after the load began, until a BRANCH is refused, where the disk has bad sectors.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(120);
const DISK_MIB: u32 = 2048;
/// Among so many cuts there are two of each kind, and one of them comes after an answer but for an unlucky draw.
const MORE_CUTS: u32 = 6;
/// Cuts of one disk, before another one is begun: each boot reads back all that was answered before it, and each tag with
/// all that it lies on, so that a disk's boots take longer and longer.
const CUTS_OF_A_DISK: u32 = 9;

/// What happens to the disk when the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It keeps all that reached it; the guest's own cache is lost.
    Keeps,
    /// Its cache is lost too, but for a random part of what was in flight since the last flush.
    LosesItsCache,
    /// Some of its sectors can no longer be written from some moment on, and it keeps the rest.
    HasBadSectors,
}

/// Every fate.
const FATES: [Fate; 3] = [Fate::Keeps, Fate::LosesItsCache, Fate::HasBadSectors];

/// The counts of a run.
#[derive(Default)]
struct Summary {
    kept: u32,
    lost_cache: u32,
    bad_sectors: u32,
    /// Cuts of disks with bad sectors on which a BRANCH was refused: one of the sectors was met.
    bad_sectors_met: u32,
    writes_dropped: usize,
    /// BRANCHes on disks that have been checked at their end.
    answered: usize,
    refused: usize,
    refused_for_want_of_space: usize,
    wrong: Vec<String>,
}

/// Runs the cuts, and fails where anything was wrong after one of them.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let [kernel] = kernels::named(&arguments.kernel)?[..] else { bail!("name one kernel with --kernel") };
    arguments.fs.require_mkfs()?;
    setup::ensure_lab_with_microvms()?;
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    let fs = arguments.fs.name();
    println!("lab: powercut --cuts {} --seed {seed} --fs {fs} on Linux {}", arguments.cuts, kernel.name);
    let archive = session::archive(arguments.nearest);
    let booted = Booted::prepare(&archive, kernel)?;
    let mut image = session::base_image(&archive)?;
    programs::add_surroundings(&mut image)?;
    programs::add_ours(&mut image, arguments.release)?;
    image.script("/lab/bin/powercut", INSIDE);
    let hardware = hardware(arguments.fs);
    let session = Session::new(&booted, &hardware)?;
    let data = session.make_data_disk()?;
    let mut bench = Bench {
        session,
        image,
        data,
        rng: Rng::with_seed(seed),
        next_fates: Vec::new(),
        ledger: Ledger::default(),
        summary: Summary::default(),
        interrupts: Interrupts::watch().context("cannot watch for SIGINT and SIGTERM")?,
    };
    for cut in 1..=arguments.cuts {
        if bench.cut(cut)?.is_none() {
            return Ok(bench.interrupted(seed));
        }
        let is_last_of_its_disk = cut % CUTS_OF_A_DISK == 0 || cut == arguments.cuts;
        if is_last_of_its_disk && bench.end_disk(cut)?.is_none() {
            return Ok(bench.interrupted(seed));
        }
    }
    Ok(bench.report(seed))
}

/// A disk that goes from boot to boot, and what is known of it.
struct Bench<'a> {
    session: Session<'a>,
    image: Image,
    data: PathBuf,
    rng: Rng,
    /// What becomes of the disk at the next cuts, the last first.
    next_fates: Vec<Fate>,
    ledger: Ledger,
    summary: Summary,
    interrupts: Interrupts,
}

impl Bench<'_> {
    /// Boots, checks, BRANCHes, cuts. `None` where this process was interrupted.
    fn cut(&mut self, cut: u32) -> Result<Option<()>> {
        let fate = self.next_fate();
        let before = self.session.dir().join("before.raw");
        if fate == Fate::LosesItsCache {
            copy_sparse(&self.data, &before)?;
        }
        let answers = self.rng.usize(..=MAX_ANSWERS);
        let delay = Duration::from_millis(self.rng.u64(..=MAX_DELAY_MS));
        let drive = self.drive(fate)?;
        let log = (fate == Fate::LosesItsCache).then(|| self.log());
        let cut_at = Some(Cut { answers, delay, log, awaits_refusal: fate == Fate::HasBadSectors });
        let name = if fate == Fate::HasBadSectors { format!("c{cut} faulty") } else { format!("c{cut}") };
        let Some((boot, end)) = self.boot(&name, drive, cut_at)? else { return Ok(None) };
        let (answered, refused) = (boot.answers(), boot.refused.len());
        self.judge(&format!("at the boot of cut {cut}"), fate, &boot, end);
        self.summary.refused += refused;
        self.summary.refused_for_want_of_space += refused - boot.refused_with_room().count();
        self.ledger.take(boot);
        let dropped = match fate {
            Fate::LosesItsCache => self.lose_cache(&before)?,
            Fate::Keeps | Fate::HasBadSectors => 0,
        };
        match fate {
            Fate::Keeps => self.summary.kept += u32::from(end == End::AsPlanned),
            Fate::LosesItsCache => self.summary.lost_cache += u32::from(end == End::AsPlanned),
            Fate::HasBadSectors => {
                self.summary.bad_sectors += 1;
                self.summary.bad_sectors_met += u32::from(refused > 0);
            }
        }
        self.summary.writes_dropped += dropped;
        println!(
            "lab: cut {cut}: {fate:?}, {answered} answered and {refused} refused in this boot, {} answered in all, \
             {dropped} writes in flight lost{}",
            self.summary.answered + self.ledger.len(),
            if end == End::AsPlanned { "" } else { "; the machine ended before its power was cut" }
        );
        Ok(Some(()))
    }

    /// Each fate comes once before one comes again, in an order that the seed decides.
    fn next_fate(&mut self) -> Fate {
        if self.next_fates.is_empty() {
            self.next_fates = FATES.to_vec();
            self.rng.shuffle(&mut self.next_fates);
        }
        self.next_fates.pop().unwrap_or(Fate::Keeps)
    }

    /// Boots the disk once more, without faults, only to check, and makes another one in its place.
    fn end_disk(&mut self, cut: u32) -> Result<Option<()>> {
        let drive = self.drive(Fate::Keeps)?;
        let Some((boot, end)) = self.boot("check", drive, None)? else { return Ok(None) };
        self.judge(&format!("after cut {cut}"), Fate::Keeps, &boot, end);
        self.summary.answered += self.ledger.len();
        self.ledger = Ledger::default();
        self.data = self.session.make_data_disk()?;
        Ok(Some(()))
    }

    fn judge(&mut self, when: &str, fate: Fate, boot: &Boot, end: End) {
        for line in wrong(&self.ledger, fate, boot, end) {
            println!("lab: WRONG {when}: {line}");
            self.summary.wrong.push(format!("{when}: {line}"));
        }
    }

    fn boot(&mut self, name: &str, drive: String, cut: Option<Cut>) -> Result<Option<(Boot, End)>> {
        let job = Job::Script(format!(". /lab/bin/powercut {name}\n"));
        let mut running = self.session.start(&mut self.image, &job, drive)?;
        let mut watch = Watch { boot: Boot::default(), cut, loading_since: None, due: None };
        let timeout = Duration::from_secs(BOOT_TIMEOUT_S);
        let ended = running.wait(timeout, &self.interrupts, &mut watch)?;
        match ended.killed_for {
            Some(Killed::Interrupt(_)) => Ok(None),
            Some(Killed::Timeout) => bail!(
                "the machine did neither end nor load in {BOOT_TIMEOUT_S} s; the end of its console:\n{}",
                running.console_tail(40)
            ),
            Some(Killed::NotUp) => bail!(
                "the machine was not up after {} s; the end of its console:\n{}",
                machine::UP_TIMEOUT.as_secs(),
                running.console_tail(40)
            ),
            None if watch.cut.is_some() => {
                if watch.boot.failure.is_none() {
                    println!("lab: the end of its console:\n{}", running.console_tail(40));
                }
                Ok(Some((watch.boot, End::WithoutItsCut)))
            }
            Some(Killed::Cut) | None => Ok(Some((watch.boot, End::AsPlanned))),
        }
    }

    fn drive(&mut self, fate: Fate) -> Result<String> {
        let data = machine::escaped(&self.data);
        match fate {
            Fate::Keeps => Ok(format!("file={data},format=raw,cache=writeback")),
            Fate::LosesItsCache => {
                let log = self.log();
                File::create(&log)?;
                Ok(format!(
                    "driver=blklogwrites,file.driver=file,file.filename={data},log.driver=file,log.filename={},\
                     log-super-update-interval=1",
                    machine::escaped(&log)
                ))
            }
            Fate::HasBadSectors => {
                let rules = self.session.dir().join("bad-sectors");
                fs::write(&rules, bad_sectors::rules(DISK_MIB, &mut self.rng))?;
                // Below `raw`, which tells `blkdebug` of each write.
                Ok(format!(
                    "driver=raw,file.driver=blkdebug,file.config={},file.image.driver=file,\
                     file.image.filename={data},cache=writeback",
                    machine::escaped(&rules)
                ))
            }
        }
    }

    /// Puts the disk as it was before the boot in its place, with what survived of the boot's writes.
    fn lose_cache(&mut self, before: &Path) -> Result<usize> {
        let log = File::open(self.log())?;
        let entries = write_log::read(&log).with_context(|| self.log().display().to_string())?;
        let rng = &mut self.rng;
        let survivors = write_log::surviving(&entries, || rng.bool());
        let disk = OpenOptions::new().write(true).open(before)?;
        write_log::replay(&log, &survivors, &disk)?;
        fs::rename(before, &self.data)?;
        Ok(entries.len() - survivors.len())
    }

    fn log(&self) -> PathBuf {
        self.session.dir().join("write-log")
    }

    /// Says what is known until here.
    fn interrupted(mut self, seed: u64) -> ExitCode {
        println!("lab: interrupted: this disk was not read back after its last cut");
        self.summary.answered += self.ledger.len();
        self.report(seed);
        ExitCode::from(crate::INTERRUPTED)
    }

    fn report(&self, seed: u64) -> ExitCode {
        let summary = &self.summary;
        println!(
            "lab: seed {seed}: {} cuts of the guest's cache, {} of the disk's cache too ({} writes in flight lost), {} \
             on disks with bad sectors ({} met one); {} BRANCHes answered, {} refused ({} for want of space); {} wrong",
            summary.kept,
            summary.lost_cache,
            summary.writes_dropped,
            summary.bad_sectors,
            summary.bad_sectors_met,
            summary.answered,
            summary.refused,
            summary.refused_for_want_of_space,
            summary.wrong.len(),
        );
        if summary.answered == 0 {
            println!(
                "lab: nothing was tested: no BRANCH was answered before a cut; --cuts {MORE_CUTS} meets some"
            );
        }
        let is_tested_and_right = summary.answered > 0 && summary.wrong.is_empty();
        if is_tested_and_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// How a boot ended, beside how it was to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    AsPlanned,
    /// The machine ended by itself, and its power was to be cut.
    WithoutItsCut,
}

/// What a boot shows to be wrong, one line each. A sound disk must take every BRANCH that it has room for, and stay up
/// until its power is cut: a load that never ran would be tested by nothing. A disk with bad sectors may fail in any way
/// while it has them, but for an answer that is a lie; what it was answered is checked again on the next boot, on a sound
/// disk.
fn wrong(ledger: &Ledger, fate: Fate, boot: &Boot, end: End) -> Vec<String> {
    if fate == Fate::HasBadSectors {
        return boot.lies.clone();
    }
    let mut lines = ledger.judge(boot);
    if end == End::WithoutItsCut {
        let why = boot.failure.as_deref().unwrap_or("it did not say why");
        lines.push(format!("the machine ended before its power was cut: {why}"));
    }
    let refused = boot.refused_with_room();
    lines.extend(refused.map(|why| format!("a BRANCH was refused on a sound disk: {why}")));
    lines
}

/// When the power goes: so long after so many answers, and where there is a log of writes, with some in flight.
struct Cut {
    answers: usize,
    delay: Duration,
    log: Option<PathBuf>,
    /// Not before a BRANCH was refused.
    awaits_refusal: bool,
}

impl Cut {
    /// Whether only the delay is left to wait for, so long after the load began.
    fn is_near(&self, boot: &Boot, loading: Duration) -> bool {
        let is_refused = !self.awaits_refusal || !boot.refused.is_empty() || loading >= REFUSAL_TIMEOUT;
        is_refused && boot.answers() + boot.refused.len() >= self.answers
    }
}

/// Listens, and says when the power goes.
struct Watch {
    boot: Boot,
    cut: Option<Cut>,
    loading_since: Option<Instant>,
    due: Option<Instant>,
}

impl Watcher for Watch {
    fn hear(&mut self, chunk: &[u8]) {
        self.boot.hear(&String::from_utf8_lossy(chunk));
        if self.boot.is_loading && self.loading_since.is_none() {
            self.loading_since = Some(Instant::now());
        }
    }

    fn cuts_now(&mut self) -> bool {
        let (Some(since), Some(cut)) = (self.loading_since, &self.cut) else { return false };
        let now = Instant::now();
        if self.due.is_none() && cut.is_near(&self.boot, now - since) {
            self.due = Some(now + cut.delay);
        }
        let Some(due) = self.due else { return false };
        now >= due && (now >= due + IN_FLIGHT_TIMEOUT || cut.log.as_deref().is_none_or(has_writes_in_flight))
    }
}

/// Whether the log ends with writes that no flush covers. It is being written: what cannot be read is no answer yet.
fn has_writes_in_flight(log: &Path) -> bool {
    let entries = File::open(log).map_err(Into::into).and_then(|log| write_log::read(&log));
    entries.is_ok_and(|entries| write_log::flushed(&entries) < entries.len())
}

fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    process::output(Command::new("cp").args(["--sparse=always"]).arg(from).arg(to)).map(drop)
}

fn hardware(fs: FileSystem) -> Hardware {
    Hardware {
        mem_mib: 2048,
        disk_mib: DISK_MIB,
        fs,
        kvm_amd: true,
        timeout_s: BOOT_TIMEOUT_S,
        ..Hardware::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_wrong(fate: Fate, said: &str, end: End, expected: &[&str]) {
        let mut boot = Boot::default();
        boot.hear(said);
        assert_eq!(wrong(&Ledger::default(), fate, &boot, end), expected);
    }

    #[test]
    fn a_sound_disk_that_was_not_loaded_until_the_cut_has_not_passed() {
        let began = "checked\nloading\nanswered a\n";
        for fate in [Fate::Keeps, Fate::LosesItsCache] {
            check_wrong(fate, began, End::AsPlanned, &[]);
            check_wrong(
                fate,
                "checked\nfailed fork: no such snapshot\n",
                End::WithoutItsCut,
                &["the machine ended before its power was cut: fork: no such snapshot"],
            );
            check_wrong(
                fate,
                began,
                End::WithoutItsCut,
                &["the machine ended before its power was cut: it did not say why"],
            );
        }
    }

    #[test]
    fn a_refused_branch_is_wrong_on_a_sound_disk_that_has_room() {
        let refused = "checked\nloading\nrefused a Input/output error (os error 5)\n";
        let why = "a BRANCH was refused on a sound disk: a Input/output error (os error 5)";
        check_wrong(Fate::Keeps, refused, End::AsPlanned, &[why]);
        check_wrong(Fate::LosesItsCache, refused, End::AsPlanned, &[why]);
        check_wrong(Fate::Keeps, "checked\nrefused a (os error 28)\n", End::AsPlanned, &[]);
    }

    #[test]
    fn a_disk_with_bad_sectors_may_refuse_and_end_but_not_lie() {
        let said = "refused a Input/output error (os error 5)\nlied b its layer\n";
        check_wrong(Fate::HasBadSectors, said, End::WithoutItsCut, &["b its layer"]);
    }

    #[test]
    fn a_disk_with_bad_sectors_keeps_its_power_until_one_was_met_or_none_will_be() {
        let said = |text: &str| {
            let mut boot = Boot::default();
            boot.hear(text);
            boot
        };
        let cut = |awaits_refusal| Cut { answers: 2, delay: Duration::ZERO, log: None, awaits_refusal };
        let (soon, late) = (Duration::from_secs(1), REFUSAL_TIMEOUT);
        let two = "answered a\nanswered b\n";
        assert!(cut(false).is_near(&said(two), soon) && !cut(false).is_near(&said("answered a\n"), late));
        assert!(!cut(true).is_near(&said(two), soon) && cut(true).is_near(&said(two), late));
        assert!(cut(true).is_near(&said("answered a\nrefused b\n"), soon));
    }
}
