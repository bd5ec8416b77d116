//! One recording, reported on as it ends, and again from its file.

use std::fs::File;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use probes::aggregate::Filter;
use probes::recording::Options;
use probes::target::Target;
use probes::{futex as futexes, offcpu as waits, syscalls as calls};
use testkit::{Failed, Outcome};

use crate::subject::Subject;

const WINDOW: Duration = Duration::from_millis(1500);

/// A new file, open twice: to be written, and to be read from its start.
pub fn file() -> std::io::Result<(Arc<File>, File)> {
    let file = tempfile::NamedTempFile::new()?;
    Ok((Arc::new(file.reopen()?), file.reopen()?))
}

pub fn options(keep: Arc<File>) -> Options {
    Options { keep: Some(keep), ..Options::default() }
}

fn offcpu_with(role: &str, ring_bytes: u32) -> Result<reports::offcpu::OffCpu, Failed> {
    let subject = Subject::start(role);
    let (keep, read) = file()?;
    let options = waits::Options { keep: Some(keep), ring_bytes, ..waits::Options::default() };
    let session = waits::Session::attach(subject.pid(), options)?;
    thread::sleep(WINDOW);
    let live = session.finish()?;
    let recorded = waits::replay(read, false, &Filter::default())?;
    assert_eq!(recorded, live);
    Ok(live)
}

pub fn offcpu() -> Outcome {
    let live = offcpu_with("pipes", 8 << 20)?;
    let named = |frames: &[String], name: &str| frames.iter().any(|frame| frame.contains(name));
    assert!(live.stacks.iter().any(|stack| named(&stack.kernel, "pipe_read")), "{live:#?}");
    assert!(live.stacks.iter().any(|stack| named(&stack.user, "pipes")), "{live:#?}");
    assert!(live.stacks.iter().any(|stack| stack.waker.is_some()), "{live:#?}");
    Ok(())
}

pub fn offcpu_with_loss() -> Outcome {
    let live = offcpu_with("storm", 4096)?;
    assert!(live.loss["ring_full"] > 1000, "{:?}", live.loss);
    assert!(live.threads.iter().any(|thread| thread.truncated > 0), "{live:#?}");
    Ok(())
}

pub fn futex() -> Outcome {
    let subject = Subject::start("mutex");
    let (keep, read) = file()?;
    let target = Target::find(subject.pid(), false)?;
    let session = futexes::Session::attach(vec![target], &options(keep))?;
    thread::sleep(WINDOW);
    let live = session.finish(&[])?;
    assert!(live.words.iter().any(|word| !word.waiters.is_empty() && !word.wakers.is_empty()), "{live:#?}");
    assert_eq!(futexes::replay(read, false, &[])?, live);
    Ok(())
}

pub fn syscalls() -> Outcome {
    let subject = Subject::start("pipes");
    let (keep, read) = file()?;
    let target = Target::find(subject.pid(), false)?;
    let session = calls::Session::attach(vec![target], &options(keep))?;
    thread::sleep(WINDOW);
    let live = session.finish(&[])?;
    assert!(live.threads.iter().any(|thread| !thread.calls.is_empty()), "{live:#?}");
    assert_eq!(calls::replay(read, false, &[])?, live);
    Ok(())
}
