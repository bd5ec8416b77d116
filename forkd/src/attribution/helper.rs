//! The process that holds the probes, as the daemon knows it.

use std::collections::BTreeMap;
use std::env;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use probes::attend::{Answer, Bounds, Request};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::{Attributed, SinkCell};

/// How long a BRANCH waits for its probes, before its pause.
const ARM_DEADLINE: Duration = Duration::from_millis(100);
/// Accounts that may be waited for at once; one that does not answer must not gather them for ever.
const PENDING: usize = 256;
/// Between the end of one that was not told to end and the start of the next.
const RESTART_AFTER: Duration = Duration::from_secs(10);

/// Begins what BRANCHes are told where the host does not allow the probes.
pub const REFUSED: &str = "the probes are refused: ";

/// A process that is kept running, and what it was asked for.
#[derive(Debug)]
pub(super) struct Helper(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// The daemon ends.
    ending: Condvar,
    sink: SinkCell,
}

struct State {
    link: Link,
    /// Who waits for the probes to be armed, by window.
    arming: BTreeMap<String, SyncSender<Result<(), String>>>,
    /// Windows that are being accounted for.
    pending: Vec<String>,
    is_ending: bool,
}

enum Link {
    /// The probes are attached; requests go here.
    Open(File),
    /// Nothing can be asked for, and why.
    Closed(String),
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Helper {
    /// Starts it, and starts it again when it dies, on a thread of its own.
    pub fn start(probe: Option<PathBuf>) -> Self {
        let state = State {
            link: Link::Closed("the probes are not attached yet".to_owned()),
            arming: BTreeMap::new(),
            pending: Vec::new(),
            is_ending: false,
        };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), ending: Condvar::new(), sink: SinkCell::default() });
        let kept = Arc::clone(&shared);
        let supervise = move || supervise(&kept, probe.as_deref());
        if let Err(error) = thread::Builder::new().name("forkd-attrib".to_owned()).spawn(supervise) {
            shared.close(&format!("no thread for the probes: {error}"));
        }
        Self(shared)
    }

    pub fn sink(&self) -> &SinkCell {
        &self.0.sink
    }

    pub fn tell(&self, attributed: Attributed) {
        self.0.tell(attributed);
    }

    /// Has the probes armed, or says why they are not.
    pub fn arm(&self, id: &str, pids: Vec<u32>) -> Result<(), String> {
        let (say, armed) = sync_channel(1);
        {
            let mut state = self.0.lock();
            state.send(&Request::Arm { id: id.to_owned(), pids })?;
            state.arming.insert(id.to_owned(), say);
        }
        let outcome = armed.recv_timeout(ARM_DEADLINE).unwrap_or_else(|_| {
            Err(format!("the probes were not armed within {} ms", ARM_DEADLINE.as_millis()))
        });
        if outcome.is_err() {
            let mut state = self.0.lock();
            state.arming.remove(id);
            // It may still arm them: then it is to disarm them at once.
            let _ = state.send(&Request::Disarm { id: id.to_owned(), window: None });
        }
        outcome
    }

    /// Has the probes disarmed, and the window accounted for where there was one.
    pub fn disarm(&self, id: &str, window: Option<Bounds>) {
        let sent = {
            let mut state = self.0.lock();
            let sent = state.send(&Request::Disarm { id: id.to_owned(), window });
            if sent.is_ok() && window.is_some() {
                state.pending.push(id.to_owned());
            }
            let surplus = state.pending.len().saturating_sub(PENDING);
            state.pending.drain(..surplus);
            sent
        };
        if let Err(reason) = sent {
            self.0.tell(Attributed { branch: id.to_owned(), outcome: Err(reason) });
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_ending = true;
        // It reads the end of its input and ends.
        state.link = Link::Closed("the daemon is stopping".to_owned());
        self.0.ending.notify_all();
    }
}

impl State {
    /// Writes one request, whole or not at all, without waiting.
    fn send(&mut self, request: &Request) -> Result<(), String> {
        let Link::Open(pipe) = &mut self.link else {
            let Link::Closed(reason) = &self.link else { unreachable!("it is one or the other") };
            return Err(reason.clone());
        };
        let mut line = serde_json::to_vec(request).map_err(|error| error.to_string())?;
        line.push(b'\n');
        pipe.write_all(&line)
            .map_err(|error| format!("the process that holds the probes does not listen: {error}"))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can leave it half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, attributed: Attributed) {
        if let Some(sink) = self.sink.get() {
            sink(attributed);
        }
    }

    /// Nothing can be asked for from now on; who waits is told why.
    fn close(&self, reason: &str) {
        let (arming, pending) = {
            let mut state = self.lock();
            state.link = Link::Closed(reason.to_owned());
            (std::mem::take(&mut state.arming), std::mem::take(&mut state.pending))
        };
        for waiting in arming.into_values() {
            let _ = waiting.try_send(Err(reason.to_owned()));
        }
        for branch in pending {
            self.tell(Attributed { branch, outcome: Err(reason.to_owned()) });
        }
    }

    fn take(&self, answer: Answer) {
        match answer {
            Answer::Ready | Answer::Refused { .. } => {}
            Answer::Armed { id } => {
                if let Some(waiting) = self.lock().arming.remove(&id) {
                    let _ = waiting.try_send(Ok(()));
                }
            }
            Answer::Explained { id, explain } => self.account(id, Ok(explain)),
            Answer::Failed { id, reason } => {
                let waiting = self.lock().arming.remove(&id);
                match waiting {
                    Some(waiting) => drop(waiting.try_send(Err(reason))),
                    None => self.account(id, Err(reason)),
                }
            }
        }
    }

    fn account(&self, branch: String, outcome: Result<Box<reports::explain::Explain>, String>) {
        let was_pending = {
            let mut state = self.lock();
            let before = state.pending.len();
            state.pending.retain(|id| *id != branch);
            state.pending.len() < before
        };
        if was_pending {
            self.tell(Attributed { branch, outcome });
        }
    }
}

/// Runs one process after another, until the daemon ends or the host refuses the probes.
fn supervise(shared: &Shared, probe: Option<&Path>) {
    loop {
        let reason = match run(shared, probe) {
            Ok(Ended::Refused(reason)) => {
                tracing::warn!(reason, "pauses are not accounted for: BRANCHes have their phases alone");
                return shared.close(&format!("{REFUSED}{reason}"));
            }
            Ok(Ended::Died(how)) => format!("the process that holds the probes ended: {how}"),
            Err(error) => format!("forkd-probe cannot be run: {error}"),
        };
        shared.close(&reason);
        let state = shared.lock();
        let over = |state: &mut State| !state.is_ending;
        let waited = shared.ending.wait_timeout_while(state, RESTART_AFTER, over);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.is_ending {
            return;
        }
        tracing::warn!(reason, "pauses are not accounted for at present; trying again");
    }
}

enum Ended {
    Refused(String),
    Died(String),
}

/// One process, from its start to its end.
fn run(shared: &Shared, probe: Option<&Path>) -> io::Result<Ended> {
    let (mut child, requests, answers) = spawn(&probe.map_or_else(beside_daemon, Path::to_owned))?;
    let mut requests = Some(requests);
    for line in BufReader::new(answers).lines() {
        match serde_json::from_str(&line?) {
            Ok(Answer::Ready) => {
                let mut state = shared.lock();
                match requests.take() {
                    Some(requests) if !state.is_ending => state.link = Link::Open(requests),
                    // Dropped here: it reads the end of its input.
                    _ => {}
                }
            }
            Ok(Answer::Refused { reason }) => {
                let _ = child.wait();
                return Ok(Ended::Refused(reason));
            }
            Ok(answer) => shared.take(answer),
            Err(error) => tracing::warn!(%error, "forkd-probe said what is no answer"),
        }
    }
    Ok(Ended::Died(child.wait()?.to_string()))
}

fn spawn(probe: &Path) -> io::Result<(Child, File, ChildStdout)> {
    let mut command = Command::new(probe);
    command.arg("attend").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    // A Ctrl-C at the terminal is for the daemon, which ends it after the last BRANCH.
    command.process_group(0);
    let mut child = command.spawn()?;
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        unreachable!("both are piped");
    };
    let requests = OwnedFd::from(stdin);
    // No BRANCH waits for a reader that is stopped or stuck.
    let flags = fcntl_getfl(&requests)?;
    fcntl_setfl(&requests, flags | OFlags::NONBLOCK)?;
    Ok((child, File::from(requests), stdout))
}

/// `forkd-probe` in the daemon's own folder, where they are installed together; else the one on `PATH`.
fn beside_daemon() -> PathBuf {
    let name = "forkd-probe";
    let beside = env::current_exe().ok().map(|own| own.with_file_name(name));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::sync::mpsc::{Receiver, channel};
    use std::time::{Duration, Instant};

    use probes::attend::Bounds;

    use super::super::{Attributed, Attribution, Options, When};
    use super::REFUSED;

    const WINDOW: Option<Bounds> = Some(Bounds { start_ns: 1, end_ns: 2, tid: 3 });

    /// A shell script in the place of forkd-probe.
    fn attribution(dir: &Path, script: &str) -> (Attribution, Receiver<Attributed>) {
        let probe: PathBuf = dir.join("probe");
        std::fs::write(&probe, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&probe, std::fs::Permissions::from_mode(0o700)).unwrap();
        let attribution = Attribution::start(&Options { when: When::Always, every: 1, probe: Some(probe) });
        let (say, told) = channel();
        let say = std::sync::Mutex::new(say);
        attribution.tell(|| Box::new(move |attributed| drop(say.lock().unwrap().send(attributed))));
        (attribution, told)
    }

    /// Tries until something else is said than that it is not attached yet.
    fn first(attribution: &Attribution, told: &Receiver<Attributed>) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let armed = attribution.arm("b1", 7);
            if armed.0.is_some() {
                armed.disarm(WINDOW);
            }
            let attributed = told.recv_timeout(Duration::from_secs(60)).unwrap();
            assert_eq!(attributed.branch, "b1");
            match attributed.outcome {
                Err(reason) if reason.contains("not attached yet") && begun.elapsed().as_secs() < 60 => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                outcome => return outcome.map(drop),
            }
        }
    }

    #[test]
    fn where_the_probes_are_refused_each_branch_is_told_why() {
        let dir = tempfile::tempdir().unwrap();
        let (attribution, told) = attribution(dir.path(), r#"echo '{"refused":{"reason":"no rights"}}'"#);
        assert_eq!(first(&attribution, &told), Err(format!("{REFUSED}no rights")));
    }

    #[test]
    fn one_that_says_nothing_delays_a_branch_for_a_moment_only() {
        let dir = tempfile::tempdir().unwrap();
        let (attribution, told) = attribution(dir.path(), r#"echo '"ready"'; sleep 100"#);
        let reason = first(&attribution, &told).unwrap_err();
        assert!(reason.contains("not armed within"), "{reason}");
    }

    #[test]
    fn one_that_dies_with_a_window_open_is_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let script = r#"echo '"ready"'; read line; echo '{"armed":{"id":"b1"}}'; read line; exit 9"#;
        let (attribution, told) = attribution(dir.path(), script);
        let reason = first(&attribution, &told).unwrap_err();
        assert!(reason.contains("exit status: 9"), "{reason}");
    }

    #[test]
    fn what_cannot_be_accounted_for_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let script = r#"echo '"ready"'; read line; echo '{"armed":{"id":"b1"}}'; read line
            echo '{"failed":{"id":"b1","reason":"lost"}}'; read line"#;
        let (attribution, told) = attribution(dir.path(), script);
        assert_eq!(first(&attribution, &told), Err("lost".to_owned()));
    }

    #[test]
    fn a_window_that_never_opened_is_given_up_and_the_next_is_accounted_for() {
        let dir = tempfile::tempdir().unwrap();
        let script = r#"echo '"ready"'; read line; echo '{"armed":{"id":"lost"}}'; read lost
            read line; echo '{"armed":{"id":"b1"}}'; read line
            given_up=$(echo "$lost" | grep -c '"window":null')
            echo '{"failed":{"id":"b1","reason":"'"$given_up"' given up"}}'; read line"#;
        let (attribution, told) = attribution(dir.path(), script);
        let begun = Instant::now();
        let armed = loop {
            let armed = attribution.arm("lost", 7);
            if armed.0.is_some() {
                break armed;
            }
            let reason = told.recv_timeout(Duration::from_secs(60)).unwrap().outcome.unwrap_err();
            assert!(reason.contains("not attached yet") && begun.elapsed().as_secs() < 60, "{reason}");
            std::thread::sleep(Duration::from_millis(10));
        };
        drop(armed);
        // Had anything been told of the lost one, it would come first, and by its name.
        assert_eq!(first(&attribution, &told), Err("1 given up".to_owned()));
        assert!(told.try_recv().is_err());
    }

    #[test]
    fn with_sampling_one_of_several_is_armed() {
        let off = Attribution::start(&Options { when: When::Off, every: 1, probe: None });
        assert!(off.arm("b", 1).0.is_none());
        let dir = tempfile::tempdir().unwrap();
        let (mut attribution, told) = attribution(dir.path(), r#"echo '{"refused":{"reason":"no rights"}}'"#);
        attribution.every = 3;
        for _ in 0..7 {
            drop(attribution.arm("b", 1));
        }
        assert_eq!(told.try_iter().count(), 3);
    }
}
