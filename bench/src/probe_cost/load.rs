//! What the tools are measured under.

use std::io::{BufRead, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::time::sleep;

use crate::Error;

/// The name of the threads of [`work`].
pub const WORKER: &str = "pc-worker";
const WORKERS: u32 = 4;
const ROUNDS: u32 = 150;

/// A program under load; dropping it ends it.
#[derive(Debug)]
pub struct Load(Child);

impl Load {
    /// A process that sleeps.
    pub fn idle() -> Result<Self, Error> {
        Self::spawn(Command::new("sleep").arg("600"))
    }

    /// `perf bench sched pipe`: two threads, or processes, that wake each other as fast as they can; on one CPU
    /// each turn is two switches.
    pub fn switches(threads: bool, one_cpu: bool) -> Result<Self, Error> {
        let mut command = if one_cpu {
            let mut command = Command::new("taskset");
            command.args(["-c", "0", "perf"]);
            command
        } else {
            Command::new("perf")
        };
        command.args(["bench", "sched", "pipe", "-l", "1000000000"]).args(threads.then_some("-T"));
        Self::spawn(&mut command)
    }

    /// This program in [`work`]; it begins when it is told to.
    pub fn held() -> Result<Self, Error> {
        let itself = std::env::current_exe().map_err(Error::file("find", Path::new("/proc/self/exe")))?;
        Self::spawn(Command::new(itself).arg("probe-cost-load").stdin(Stdio::piped()))
    }

    fn spawn(command: &mut Command) -> Result<Self, Error> {
        let name = command.get_program().to_string_lossy().into_owned();
        let spawned = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        spawned.map(Self).map_err(|error| {
            Error::Missing(format!("cannot run {name} ({error}): apt-get install linux-perf util-linux"))
        })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Lets [`Self::held`] begin, and waits until its threads have ended.
    pub async fn work_through(&mut self) {
        if let Some(mut stdin) = self.0.stdin.take() {
            let _ = stdin.write_all(b"go\n");
            // Its threads end long before; it stays, so that no tool sees it end.
            let tasks = format!("/proc/{}/task", self.pid());
            let count = || std::fs::read_dir(&tasks).map_or(0, Iterator::count);
            sleep(Duration::from_millis(200)).await;
            while count() > 1 {
                sleep(Duration::from_millis(10)).await;
            }
            self.0.stdin = Some(stdin);
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for a line, then has threads sleep, and wait for each other, for about a second; then waits for the end
/// of its input.
pub fn work() {
    let mut lines = std::io::stdin().lock().lines();
    lines.next();
    let turn = Arc::new((Mutex::new(0_u32), Condvar::new()));
    let workers: Vec<_> = (0..WORKERS)
        .filter_map(|worker| {
            let turn = Arc::clone(&turn);
            thread::Builder::new().name(WORKER.to_owned()).spawn(move || take_turns(worker, &turn)).ok()
        })
        .collect();
    for worker in workers {
        let _ = worker.join();
    }
    lines.next();
}

fn take_turns(worker: u32, (turn, changed): &(Mutex<u32>, Condvar)) {
    for _ in 0..ROUNDS {
        let mut held = turn.lock().unwrap_or_else(PoisonError::into_inner);
        while *held % WORKERS != worker {
            held = changed.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        thread::sleep(Duration::from_millis(2));
        *held += 1;
        changed.notify_all();
    }
}
