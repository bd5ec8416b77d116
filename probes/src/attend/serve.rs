//! The side of the process that holds the probes.

use std::io::{self, BufRead, Write};
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
    let mut open: Option<(String, Armed)> = None;
    for line in input.lines() {
        match serde_json::from_str(&line?).map_err(io::Error::other)? {
            Request::Arm { id, pids } => match explainer.arm(&pids) {
                Ok(armed) => {
                    open = Some((id.clone(), armed));
                    answers.say(&Answer::Armed { id })?;
                }
                Err(error) => answers.say(&Answer::Failed { id, reason: error.to_string() })?,
            },
            Request::Disarm { id, window } => {
                // A window that was refused, or given up before it was open, has nothing to be disarmed.
                let Some((_, armed)) = open.take_if(|(opened, _)| *opened == id) else { continue };
                match (armed.disarm(), window) {
                    (Ok(recorded), Some(window)) => account(id, recorded, window, &answers)?,
                    (Ok(_), None) => {}
                    (Err(error), _) => answers.say(&Answer::Failed { id, reason: error.to_string() })?,
                }
            }
        }
    }
    Ok(())
}

/// Accounts for a window on a thread of its own: the next one is armed meanwhile.
fn account<W: Write + Send + 'static>(
    id: String,
    recorded: Recorded,
    window: Bounds,
    answers: &Answers<W>,
) -> io::Result<()> {
    let (label, Bounds { start_ns, end_ns, tid }) = (LABEL.to_owned(), window);
    let answers = answers.clone();
    let account = move || {
        let window = Window { start_ns, end_ns, tid, label, clamped: false };
        let answer = match recorded.explain(&window) {
            Ok(explain) => {
                let explain = Box::new(Explain { segments: Vec::new(), ..explain });
                Answer::Explained { id, explain }
            }
            Err(error) => Answer::Failed { id, reason: error.to_string() },
        };
        // An error says that the daemon is gone, and the end of the input says so too.
        let _ = answers.say(&answer);
    };
    thread::Builder::new().name("forkd-account".to_owned()).spawn(account).map(drop)
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
