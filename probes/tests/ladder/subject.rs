//! The watched program: threads that leave a CPU in each way that there is.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};

const ROLE: &str = "FORKD_TEST_LADDER";

/// The role that this process was started in, if any.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// A running program; dropping it ends it.
pub struct Subject {
    child: Child,
    /// It ends when this is closed.
    _alive: ChildStdin,
}

impl Subject {
    /// Starts it, and waits until its threads are there.
    pub fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(ROLE, "watched")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let alive = child.stdin.take().unwrap();
        Self { child, _alive: alive }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Plays a role until the test ends it, or it is over.
pub fn play(role: &str) {
    if role != "watched" {
        return;
    }
    spawn("napper", || thread::sleep(Duration::from_millis(7)));
    ping_pong();
    for name in ["rival-a", "rival-b"] {
        spawn(name, rival);
    }
    // posix_spawn keeps its caller asleep, whatever signals come, until the child runs another program.
    spawn("spawner", || {
        let mut child = Command::new(std::env::current_exe().unwrap()).env(ROLE, "none").spawn().unwrap();
        child.wait().unwrap();
        thread::sleep(Duration::from_millis(60));
    });
    spawn("maker", || {
        thread::spawn(|| thread::sleep(Duration::from_millis(15))).join().unwrap();
        thread::sleep(Duration::from_millis(25));
    });
    thread::sleep(Duration::from_millis(50));
    std::io::stdout().write_all(b".").unwrap();
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().read(&mut [0]);
    std::process::exit(0);
}

/// Half of one CPU, in pieces that the other rival cuts.
fn rival() {
    let mut cpus = CpuSet::new();
    cpus.set(0);
    sched_setaffinity(None, &cpus).unwrap();
    for _ in 0..2_000_000 {
        std::hint::spin_loop();
    }
    thread::sleep(Duration::from_millis(10));
}

fn ping_pong() {
    let (mut from_ping, mut to_pong) = std::io::pipe().unwrap();
    let (mut from_pong, mut to_ping) = std::io::pipe().unwrap();
    let mut byte = [0];
    spawn("ping", move || {
        thread::sleep(Duration::from_millis(4));
        to_pong.write_all(&byte).unwrap();
        from_pong.read_exact(&mut byte).unwrap();
    });
    spawn("pong", move || {
        from_ping.read_exact(&mut byte).unwrap();
        to_ping.write_all(&byte).unwrap();
    });
}

fn spawn(name: &str, mut act: impl FnMut() + Send + 'static) {
    let forever = move || loop {
        act();
    };
    thread::Builder::new().name(name.to_owned()).spawn(forever).unwrap();
}
