//! The watched programs, and the handle by which a test holds one.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::UdpSocket;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use probes::offcpu::{Options, Session};
use rustix::thread::{CpuSet, sched_setaffinity};

const ROLE: &str = "FORKD_TEST_SUBJECT";

/// The role that this process was started in, if any.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// A running program; dropping it ends it.
pub struct Subject {
    child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Subject {
    /// Starts a program, and waits until it says that it is ready.
    pub fn start(role: &str) -> Self {
        Self::start_with(role, &[])
    }

    /// The same, with these variables in its environment.
    pub fn start_with(role: &str, variables: &[(&str, &OsStr)]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(ROLE, role)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut subject = Self { child, commands, answers };
        assert_eq!(subject.answer(), "ready");
        subject
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to do what its role does on command.
    pub fn go(&mut self) {
        self.commands.write_all(b"go\n").unwrap();
    }

    /// Its next line.
    pub fn answer(&mut self) -> String {
        self.answers.next().unwrap().unwrap()
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Plays a role until the test ends it, or the role is over.
pub fn play(role: &str) {
    match role {
        "sleeps" => on_command("sleeper", || {
            let slept: Duration = (0..20).map(|_| timed(|| thread::sleep(Duration::from_millis(25)))).sum();
            say(&slept.as_nanos().to_string());
        }),
        "parked" => for_ever("parked", thread::park),
        "spins" => for_ever("spinner", std::hint::spin_loop),
        "naps" => for_ever("napper", || thread::sleep(Duration::from_millis(20))),
        "times-out" => for_ever("reader", || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            socket.recv(&mut [0]).unwrap_err();
        }),
        "rivals" => {
            for name in ["rival-a", "rival-b"] {
                spawn(name, || {
                    let mut cpus = CpuSet::new();
                    cpus.set(0);
                    sched_setaffinity(None, &cpus).unwrap();
                    loop {
                        std::hint::spin_loop();
                    }
                });
            }
            ready_and_wait();
        }
        "births" => {
            say("ready");
            command();
            spawn("late", || thread::sleep(Duration::from_millis(100))).join().unwrap();
            say("done");
            ready_and_wait();
        }
        "pipes" => pipes(Duration::from_millis(10)),
        "storm" => pipes(Duration::ZERO),
        "records" => on_command("recorder", || {
            let session = Session::attach(std::os::unix::process::parent_id(), Options::default()).unwrap();
            say(&bpf_descriptors().to_string());
            drop(session);
            say(&bpf_descriptors().to_string());
        }),
        "ends" => on_command("ender", || std::process::exit(0)),
        unknown => panic!("no role {unknown}"),
    }
}

/// Two threads that wake each other through pipes; `ping` sleeps `pause` before each answer.
fn pipes(pause: Duration) {
    let (mut from_ping, mut to_pong) = std::io::pipe().unwrap();
    let (mut from_pong, mut to_ping) = std::io::pipe().unwrap();
    spawn("ping", move || {
        let mut byte = [0];
        loop {
            if !pause.is_zero() {
                thread::sleep(pause);
            }
            to_pong.write_all(&byte).unwrap();
            from_pong.read_exact(&mut byte).unwrap();
        }
    });
    spawn("pong", move || {
        let mut byte = [0];
        loop {
            from_ping.read_exact(&mut byte).unwrap();
            to_ping.write_all(&byte).unwrap();
        }
    });
    ready_and_wait();
}

/// BPF objects that this process holds, by the names of its descriptors.
fn bpf_descriptors() -> usize {
    let links =
        fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| link.to_string_lossy().contains("bpf")).count()
}

fn on_command(name: &str, act: impl Fn() + Send + 'static) {
    spawn(name, move || {
        say("ready");
        loop {
            command();
            act();
        }
    })
    .join()
    .unwrap();
}

fn for_ever(name: &str, act: impl Fn() + Send + 'static) {
    spawn(name, move || {
        loop {
            act();
        }
    });
    ready_and_wait();
}

pub fn ready_and_wait() {
    // Long enough for the threads to be where their role keeps them.
    thread::sleep(Duration::from_millis(50));
    say("ready");
    command();
}

/// Waits for the test's next word; the end of the test ends this process.
pub fn command() {
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line).unwrap_or(0) == 0 {
        std::process::exit(0);
    }
}

pub fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().unwrap();
}

pub fn spawn(name: &str, act: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    thread::Builder::new().name(name.to_owned()).spawn(act).unwrap()
}

pub fn timed(act: impl FnOnce()) -> Duration {
    let start = Instant::now();
    act();
    start.elapsed()
}
