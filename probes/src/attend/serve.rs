//! The side of the process that holds the probes.

use std::io::{self, BufRead, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use reports::explain::Explain;

use super::protocol::{Answer, Bounds, Request};
use crate::explain::{Armed, Explainer, Options, Recorded, Window};

/// What a window is of, in its report.
const LABEL: &str = "BRANCH";

/// Serves the requests of `input` until it ends, and answers to `output`; records as `options` say.
///
/// # Errors
/// `input` cannot be read, or `output` is closed. That the probes cannot be attached is an answer.
pub fn serve(input: impl BufRead, output: impl Write + Send + 'static, options: &Options) -> io::Result<()> {
    let answers = Answers(Arc::new(Mutex::new(output)));
    let explainer = match Explainer::attach(options) {
        Ok(explainer) => explainer,
        Err(error) => return answers.say(&Answer::Refused { reason: error.to_string() }),
    };
    answers.say(&Answer::Ready)?;
    let accounts = Accounts::default();
    let mut open: Option<(String, Armed)> = None;
    for line in input.lines() {
        match serde_json::from_str(&line?).map_err(io::Error::other)? {
            Request::Arm { id, pids } => match arm(&explainer, &pids, &accounts) {
                Ok(armed) => {
                    open = Some((id.clone(), armed));
                    answers.say(&Answer::Armed { id })?;
                }
                Err(reason) => answers.say(&Answer::Failed { id, reason })?,
            },
            Request::Disarm { id, window } => {
                // A window that was refused, or given up before it was open, has nothing to be disarmed.
                let Some((_, armed)) = open.take_if(|(opened, _)| *opened == id) else { continue };
                match (armed.disarm(), window) {
                    (Ok(recorded), Some(window)) => {
                        account(id, recorded, window, &answers, accounts.begin())?
                    }
                    (Ok(_), None) => {}
                    (Err(error), _) => answers.say(&Answer::Failed { id, reason: error.to_string() })?,
                }
            }
        }
    }
    Ok(())
}

/// Arms the probes, or says why not: whoever asked stands before a pause, and does not wait.
fn arm(explainer: &Explainer, pids: &[u32], accounts: &Accounts) -> Result<Armed, String> {
    accounts.may_arm(explainer.is_prepared(pids))?;
    explainer.arm(pids).map_err(|error| error.to_string())
}

/// How many windows are being accounted for, each of which still has its records.
#[derive(Clone, Debug, Default)]
struct Accounts(Arc<AtomicUsize>);

/// One of them.
#[derive(Debug)]
struct Account(Accounts);

impl Accounts {
    /// The most that a window may be recorded beside: each takes as much room as that does.
    const MOST: usize = 1;

    /// Whether the next window can be recorded now. What processes have mapped, where that is not known, is looked
    /// at by the thread that accounts.
    fn may_arm(&self, is_prepared: bool) -> Result<(), String> {
        match self.0.load(Ordering::Acquire) {
            0 => Ok(()),
            Self::MOST if is_prepared => Ok(()),
            Self::MOST => Err("another sandbox's pause is still being accounted for".to_owned()),
            _ => Err("the pauses before this one are still being accounted for".to_owned()),
        }
    }

    fn begin(&self) -> Account {
        self.0.fetch_add(1, Ordering::AcqRel);
        Account(self.clone())
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Accounts for a window on a thread of its own: the next one is armed meanwhile.
fn account<W: Write + Send + 'static>(
    id: String,
    recorded: Recorded,
    window: Bounds,
    answers: &Answers<W>,
    account: Account,
) -> io::Result<()> {
    let (label, Bounds { start_ns, end_ns, tid }) = (LABEL.to_owned(), window);
    let answers = answers.clone();
    let work = move || {
        let window = Window { start_ns, end_ns, tid, label, clamped: false };
        let answer = match recorded.explain(&window) {
            Ok(explain) => {
                let explain = Box::new(Explain { segments: Vec::new(), ..explain });
                Answer::Explained { id, explain }
            }
            Err(error) => Answer::Failed { id, reason: error.to_string() },
        };
        // Its room is free before the answer goes out: whoever has read that can have the next window.
        drop(recorded);
        drop(account);
        // An error says that the daemon is gone, and the end of the input says so too.
        let _ = answers.say(&answer);
    };
    thread::Builder::new().name("forkd-account".to_owned()).spawn(work).map(drop)
}

/// Where answers go, a whole line at a time.
struct Answers<W>(Arc<Mutex<W>>);

impl<W> Clone for Answers<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<W: Write> Answers<W> {
    fn say(&self, answer: &Answer) -> io::Result<()> {
        let mut line = serde_json::to_vec(answer)?;
        line.push(b'\n');
        let mut output = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        output.write_all(&line)?;
        output.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::Accounts;

    #[test]
    fn one_window_is_recorded_beside_one_that_is_accounted_for_and_none_beside_two() {
        let accounts = Accounts::default();
        assert_eq!(accounts.may_arm(false), Ok(()));
        let first = accounts.begin();
        assert_eq!(accounts.may_arm(true), Ok(()), "the same processes: nothing is to be looked at");
        let waits = accounts.may_arm(false).unwrap_err();
        assert!(waits.contains("another sandbox's pause"), "{waits}");
        let second = accounts.begin();
        let full = accounts.may_arm(true).unwrap_err();
        assert!(full.contains("still being accounted for"), "{full}");
        drop(first);
        assert_eq!(accounts.may_arm(true), Ok(()));
        drop(second);
        assert_eq!(accounts.may_arm(false), Ok(()));
    }
}
