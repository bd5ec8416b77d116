//! The only place that pauses a guest, and the one that sees to it that it runs again.
//!
//! From the pause to the resume a thread of its own holds the guest. It waits for Firecracker's answers and for
//! nothing else: it reads no file, takes no lock and writes no log, and no other work shares it. The thread
//! that asked for the pause watches it, raises the alarm and writes the log.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use probes_common::BranchPhase;

use super::phases::PhaseLog;
use crate::clock::monotonic_ns;
use crate::vmm::VmmError;
use crate::vmm::control::{Control, Request};
use crate::watchdog::Watched;

/// A guest that stands still longer than this is reported while it does.
const ALARM_AFTER: Duration = Duration::from_secs(5);
/// Attempts to resume before the guest is reported as stuck.
const RESUME_ATTEMPTS: u32 = 5;
/// Between the attempts that follow, after the first of them; each wait is twice the one before it.
pub const FIRST_STUCK_WAIT: Duration = Duration::from_secs(1);
/// The longest wait between two attempts.
const LONGEST_STUCK_WAIT: Duration = Duration::from_secs(30);

/// Why work on a paused guest did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// It failed, and the guest runs again.
    #[error("{0}; the guest runs again")]
    Failed(VmmError),
    /// The work panicked, and the guest runs again.
    #[error("the work panicked; the guest runs again")]
    Panicked,
    /// The guest could not be resumed: it stands still, and [`keep_resuming`] is for it.
    #[error("the guest is paused and could not be resumed in {RESUME_ATTEMPTS} attempts: {0}")]
    StuckPaused(VmmError),
    /// It failed, and the guest stays paused, as its user wants.
    #[error("{0}; the guest stays paused, as its user wants it")]
    FailedLeftPaused(VmmError),
    /// The guest was not paused.
    #[error("cannot start a thread to hold the guest paused: {0}; the guest was not paused")]
    NoThread(io::Error),
}

/// Pauses the guest, does `work`, and resumes the guest, whatever came of the work: success, error or panic.
///
/// `control` should be open, so that the pause does not pay for connecting. `work` runs on the thread that holds
/// the guest and must wait for nothing but Firecracker. The watchdog knows of the guest from before the pause
/// until after the resume. The three phases are noted in `log` without a gap between them. Blocks until the guest
/// runs again or is given up as stuck.
pub fn with_guest_paused<T: Send>(
    control: &mut Control,
    watched: &Watched,
    log: &mut PhaseLog,
    work: impl FnOnce(&mut Control) -> Result<T, VmmError> + Send,
) -> Result<T, PauseError> {
    let (report, failed_attempts) = channel();
    let socket = control.socket().to_owned();
    let lease = watched.begin();
    let held = thread::scope(|scope| {
        let holder = thread::Builder::new().name("forkd-pause".to_owned());
        let holder = holder.spawn_scoped(scope, move || hold(control, work, report));
        let holder = holder.map_err(PauseError::NoThread)?;
        watch(&failed_attempts, ALARM_AFTER, |event| match event {
            Event::StandsStill => tracing::error!(
                socket = %socket.display(),
                "a guest has stood still for {} s more; it goes on when Firecracker answers",
                ALARM_AFTER.as_secs()
            ),
            Event::ResumeFailed(error) => tracing::error!(
                socket = %socket.display(),
                %error,
                "cannot resume a guest; trying again"
            ),
        });
        Ok(holder.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })?;
    drop(lease);
    log.held_by(held.tid);
    log.record(BranchPhase::Pause, held.pause_sent_ns, held.paused_ns);
    log.record(BranchPhase::Create, held.paused_ns, held.worked_ns);
    log.record(BranchPhase::Resume, held.worked_ns, held.resumed_ns);
    held.resumed.map_err(PauseError::StuckPaused)?;
    match held.outcome {
        Ok(Ok(result)) => result.map_err(PauseError::Failed),
        Ok(Err(_panic)) => Err(PauseError::Panicked),
        Err(error) => Err(PauseError::Failed(error)),
    }
}

/// As [`with_guest_paused`], for a guest that its user has paused: it stands still before and after. The phases
/// pause and resume take no time, and `pause_ns` is the time of the snapshot alone.
pub fn with_guest_left_paused<T>(
    control: &mut Control,
    log: &mut PhaseLog,
    work: impl FnOnce(&mut Control) -> Result<T, VmmError>,
) -> Result<T, PauseError> {
    log.held_by(own_tid());
    let start_ns = monotonic_ns();
    let outcome = work(control);
    let end_ns = monotonic_ns();
    log.record(BranchPhase::Pause, start_ns, start_ns);
    log.record(BranchPhase::Create, start_ns, end_ns);
    log.record(BranchPhase::Resume, end_ns, end_ns);
    outcome.map_err(PauseError::FailedLeftPaused)
}

/// Pauses the guest for its user: it stands still until [`resume_for_user`].
///
/// A pause that fails may have happened: the guest is resumed then, so that it never stands still without its
/// user's knowledge.
pub fn pause_for_user(control: &mut Control) -> Result<(), PauseError> {
    control.call(&Request::pause()).map(drop).or_else(|error| {
        resume_for_user(control)?;
        Err(PauseError::Failed(error))
    })
}

/// Lets a guest run that was paused for its user.
pub fn resume_for_user(control: &mut Control) -> Result<(), PauseError> {
    // Nobody listens: the last error is the one that is told.
    let (report, _) = channel();
    resume_in_attempts(control, &Request::resume(), &report).map_err(PauseError::StuckPaused)
}

/// What came of one pause, with CLOCK_MONOTONIC at its steps.
struct Held<T> {
    /// The thread that held the guest.
    tid: u32,
    pause_sent_ns: u64,
    paused_ns: u64,
    worked_ns: u64,
    resumed_ns: u64,
    /// The pause's own error, else the work's result or its panic.
    outcome: Result<thread::Result<Result<T, VmmError>>, VmmError>,
    resumed: Result<(), VmmError>,
}

fn hold<T>(
    control: &mut Control,
    work: impl FnOnce(&mut Control) -> Result<T, VmmError>,
    report: Sender<VmmError>,
) -> Held<T> {
    let (pause, resume) = (Request::pause(), Request::resume());
    let tid = own_tid();
    let pause_sent_ns = monotonic_ns();
    let paused = control.call(&pause);
    let paused_ns = monotonic_ns();
    // A pause whose answer was lost may have happened: it is followed by a resume too.
    let outcome = match paused {
        Ok(_) => Ok(catch_unwind(AssertUnwindSafe(|| work(control)))),
        Err(error) => Err(error),
    };
    let worked_ns = monotonic_ns();
    let resumed = resume_in_attempts(control, &resume, &report);
    let resumed_ns = monotonic_ns();
    Held { tid, pause_sent_ns, paused_ns, worked_ns, resumed_ns, outcome, resumed }
}

/// This thread's id, as the kernel's records have it.
fn own_tid() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned()
}

fn resume_in_attempts(
    control: &mut Control,
    resume: &Request,
    report: &Sender<VmmError>,
) -> Result<(), VmmError> {
    let mut wait = Duration::from_millis(10);
    let mut attempt = 1;
    loop {
        match control.call(resume) {
            Ok(_) => return Ok(()),
            Err(error) if attempt == RESUME_ATTEMPTS => return Err(error),
            // Nobody may be listening: that must not keep the guest from being resumed.
            Err(error) => drop(report.send(error)),
        }
        sleep(wait);
        wait *= 4;
        attempt += 1;
    }
}

/// What happens while a guest stands still.
#[derive(Debug)]
enum Event {
    /// It has for the length of the alarm, once more.
    StandsStill,
    /// An attempt to resume it failed, and another one follows.
    ResumeFailed(VmmError),
}

/// Tells `happened` of failed attempts, and of each `alarm_after` that goes by, until the holder is done.
fn watch(failed_attempts: &Receiver<VmmError>, alarm_after: Duration, mut happened: impl FnMut(Event)) {
    let mut alarm_at = Instant::now() + alarm_after;
    loop {
        match failed_attempts.recv_timeout(alarm_at.saturating_duration_since(Instant::now())) {
            Ok(error) => happened(Event::ResumeFailed(error)),
            Err(RecvTimeoutError::Timeout) => {
                happened(Event::StandsStill);
                alarm_at += alarm_after;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Goes on trying to resume a guest that is stuck, for as long as it `is_alive`. Waits `first_wait` before the
/// first attempt and twice as long before each that follows, 30 s at most. Returns whether the guest runs again.
pub fn keep_resuming(control: &mut Control, first_wait: Duration, is_alive: impl Fn() -> bool) -> bool {
    let resume = Request::resume();
    let mut wait = first_wait;
    loop {
        sleep(wait);
        wait = (wait * 2).min(LONGEST_STUCK_WAIT);
        if !is_alive() {
            return false;
        }
        match control.call(&resume) {
            Ok(_) => return true,
            Err(error) => tracing::error!(
                socket = %control.socket().display(),
                %error,
                "a guest is stuck paused; the next attempt to resume it is in {} s",
                wait.as_secs()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::Path;
    use std::sync::mpsc::channel;
    use std::sync::{Arc, Mutex};
    use std::thread;
    use std::time::Duration;

    use probes_common::BranchPhase;

    use super::{
        Control, Event, PauseError, PhaseLog, RESUME_ATTEMPTS, VmmError, keep_resuming, pause_for_user,
        resume_for_user, watch, with_guest_left_paused, with_guest_paused,
    };
    use crate::http_client::{CallError, Endpoint};
    use crate::watchdog::Watched;

    fn unwatched() -> Watched {
        Watched::by_nobody()
    }

    /// Stands in for a Firecracker that fails in ways the real one cannot be made to: `answer` gets each
    /// request's body and its count so far, and says whether it succeeds.
    fn hostile(socket: &Path, answer: fn(&str, usize) -> bool) -> Arc<Mutex<Vec<String>>> {
        let listener = UnixListener::bind(socket).unwrap();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let requests = Arc::clone(&seen);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let requests = Arc::clone(&requests);
                thread::spawn(move || serve(stream, answer, &requests));
            }
        });
        seen
    }

    fn serve(mut stream: UnixStream, answer: fn(&str, usize) -> bool, seen: &Mutex<Vec<String>>) {
        let mut buffer = vec![0; 4096];
        while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..bytes]);
            let body = text.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned();
            let count = {
                let mut seen = seen.lock().unwrap();
                seen.push(body.clone());
                seen.iter().filter(|earlier| **earlier == body).count()
            };
            let reply: &[u8] = match answer(&body, count) {
                true => b"HTTP/1.1 204 No Content\r\n\r\n",
                false => b"HTTP/1.1 400 Bad Request\r\nContent-Length: 23\r\n\r\n{\"fault_message\":\"no!\"}",
            };
            stream.write_all(reply).unwrap();
        }
    }

    fn resumes(seen: &Mutex<Vec<String>>) -> usize {
        seen.lock().unwrap().iter().filter(|body| body.contains("Resumed")).count()
    }

    fn some_error() -> VmmError {
        let endpoint = Endpoint::Tcp("nowhere".to_owned());
        let source = CallError::Connect { endpoint, source: std::io::ErrorKind::Other.into() };
        VmmError::Call { step: "work", source }
    }

    #[test]
    fn the_guest_is_resumed_after_success_error_and_panic() {
        let dir = tempfile::tempdir().unwrap();
        let seen = hostile(&dir.path().join("api"), |_, _| true);
        let mut control = Control::new(dir.path().join("api"));
        let mut log = PhaseLog::default();
        assert_eq!(with_guest_paused(&mut control, &unwatched(), &mut log, |_| Ok(7)).unwrap(), 7);
        assert_eq!(resumes(&seen), 1);
        let failed = with_guest_paused(&mut control, &unwatched(), &mut log, |_| Err::<(), _>(some_error()));
        assert!(matches!(failed, Err(PauseError::Failed(_))), "{failed:?}");
        assert_eq!(resumes(&seen), 2);
        let panicked = with_guest_paused(&mut control, &unwatched(), &mut log, |_| panic!("as a test"));
        assert!(matches!(panicked, Err::<(), _>(PauseError::Panicked)), "{panicked:?}");
        assert_eq!(resumes(&seen), 3);
    }

    #[test]
    fn a_guest_that_its_user_paused_is_neither_paused_nor_resumed_and_only_the_work_takes_time() {
        let dir = tempfile::tempdir().unwrap();
        let seen = hostile(&dir.path().join("api"), |_, _| true);
        let mut control = Control::new(dir.path().join("api"));
        let mut log = PhaseLog::default();
        assert_eq!(with_guest_left_paused(&mut control, &mut log, |_| Ok(7)).unwrap(), 7);
        assert_eq!(log.pause_ns(), log.ns(BranchPhase::Create));
        let failed = with_guest_left_paused(&mut control, &mut log, |_| Err::<(), _>(some_error()));
        assert!(matches!(failed, Err(PauseError::FailedLeftPaused(_))), "{failed:?}");
        assert!(seen.lock().unwrap().is_empty());
    }

    #[test]
    fn a_pause_for_the_user_that_fails_is_followed_by_a_resume_and_one_that_succeeds_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let seen = hostile(&dir.path().join("api"), |body, count| !body.contains("Paused") || count > 1);
        let mut control = Control::new(dir.path().join("api"));
        let refused = pause_for_user(&mut control);
        assert!(matches!(refused, Err(PauseError::Failed(_))), "{refused:?}");
        assert_eq!(resumes(&seen), 1);
        pause_for_user(&mut control).unwrap();
        assert_eq!(resumes(&seen), 1);
        resume_for_user(&mut control).unwrap();
        assert_eq!(resumes(&seen), 2);
    }

    #[test]
    fn the_three_phases_follow_each_other_without_a_gap() {
        let dir = tempfile::tempdir().unwrap();
        hostile(&dir.path().join("api"), |_, _| true);
        let mut log = PhaseLog::default();
        let work = |_: &mut Control| {
            thread::sleep(Duration::from_millis(20));
            Ok(())
        };
        with_guest_paused(&mut Control::new(dir.path().join("api")), &unwatched(), &mut log, work).unwrap();
        let phases = [BranchPhase::Pause, BranchPhase::Create, BranchPhase::Resume];
        assert_eq!(phases.map(|phase| log.ns(phase)).iter().sum::<u64>(), log.pause_ns());
        assert!(log.ns(BranchPhase::Create) >= 20_000_000, "{log:?}");
    }

    #[test]
    fn a_pause_that_is_refused_is_followed_by_a_resume_and_the_work_is_not_begun() {
        let dir = tempfile::tempdir().unwrap();
        let seen = hostile(&dir.path().join("api"), |body, _| !body.contains("Paused"));
        let mut control = Control::new(dir.path().join("api"));
        let work = |_: &mut Control| Err::<(), VmmError>(some_error());
        let refused =
            with_guest_paused(&mut control, &unwatched(), &mut PhaseLog::default(), work).unwrap_err();
        assert!(refused.to_string().contains("no!"), "{refused}");
        assert_eq!(resumes(&seen), 1);
    }

    #[test]
    fn a_resume_that_fails_once_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let seen = hostile(&dir.path().join("api"), |body, count| !body.contains("Resumed") || count > 1);
        let mut control = Control::new(dir.path().join("api"));
        with_guest_paused(&mut control, &unwatched(), &mut PhaseLog::default(), |_| Ok(())).unwrap();
        assert_eq!(resumes(&seen), 2);
    }

    #[test]
    fn a_resume_that_always_fails_is_reported_as_stuck() {
        let dir = tempfile::tempdir().unwrap();
        let seen = hostile(&dir.path().join("api"), |body, _| !body.contains("Resumed"));
        let mut control = Control::new(dir.path().join("api"));
        let stuck = with_guest_paused(&mut control, &unwatched(), &mut PhaseLog::default(), |_| Ok(()));
        assert!(matches!(stuck, Err(PauseError::StuckPaused(_))), "{stuck:?}");
        assert_eq!(resumes(&seen), RESUME_ATTEMPTS as usize);
    }

    #[test]
    fn a_stuck_guest_is_tried_again_until_it_runs_or_its_firecracker_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let seen = hostile(&dir.path().join("api"), |_, count| count > 8);
        let mut control = Control::new(dir.path().join("api"));
        assert!(keep_resuming(&mut control, Duration::from_millis(1), || true));
        assert_eq!(resumes(&seen), 9);
        assert!(!keep_resuming(&mut control, Duration::from_millis(1), || false));
        assert_eq!(resumes(&seen), 9);
    }

    #[test]
    fn the_alarm_is_raised_again_and_again_while_the_guest_stands_still() {
        let (report, failed_attempts) = channel();
        let holder = thread::spawn(move || {
            thread::sleep(Duration::from_millis(120));
            report.send(some_error()).unwrap();
            thread::sleep(Duration::from_millis(120));
        });
        let (mut alarms, mut failures) = (0, 0);
        watch(&failed_attempts, Duration::from_millis(50), |event| match event {
            Event::StandsStill => alarms += 1,
            Event::ResumeFailed(_) => failures += 1,
        });
        holder.join().unwrap();
        assert!(alarms >= 4, "{alarms} alarms");
        assert_eq!(failures, 1);
    }
}
