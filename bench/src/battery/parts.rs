//! What the battery's own processes do: neighbours, which get in the way, and subjects, whose one function is
//! explained.
//!
//! Each says `ready` when it may be counted on. A subject then answers each line on its standard input with the
//! times of one call: what it took for each of its parts, in nanoseconds of CLOCK_MONOTONIC by its own clock.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::hint::spin_loop;
use std::io::{self, BufRead, Write, stdin, stdout};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::host::process::NEIGHBOUR;
use crate::host::memory::touch_and_free;

const MIB: usize = 1 << 20;
/// Of each write and read of a neighbour.
const CHUNK: usize = MIB;
/// What the threads of a neighbour read from, or write to together.
const FILE_BYTES: u64 = 256 << 20;
/// What [`Part::Appends`] appends each time.
pub const APPENDED_MIB: u64 = 24;

/// What a process of the battery does.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Part {
    /// Runs on one CPU without a pause, before everything else on it
    Spin {
        /// The CPU
        cpu: usize,
    },
    /// Writes files through the page cache and has each written back
    Writes {
        /// The folder that the files go to
        folder: PathBuf,
        /// How many threads do so
        threads: usize,
    },
    /// Appends to a file each time it is told to, and waits until that is on the disk
    Appends {
        /// The folder that the file goes to
        folder: PathBuf,
    },
    /// Reads a file past the page cache
    Reads {
        /// The folder that the file goes to
        folder: PathBuf,
        /// How many threads do so
        threads: usize,
    },
    /// Waits for a lock that a thread named holder keeps, while three others wait for something else
    Futex,
    /// Sleeps
    Timer,
    /// Touches memory that is not there yet
    Faults,
    /// Sleeps, then waits for a lock
    TimerAndFutex,
    /// Computes, and waits for nothing
    Compute,
}

impl Part {
    /// Does it, until its standard input is closed or it is killed.
    pub fn run(self) -> io::Result<()> {
        match self {
            Self::Spin { cpu } => spin(cpu),
            Self::Writes { folder, threads } => neighbour("writes").and_then(|()| writes(&folder, threads)),
            Self::Appends { folder } => neighbour("appends").and_then(|()| appends(&folder)),
            Self::Reads { folder, threads } => neighbour("reads").and_then(|()| reads(&folder, threads)),
            Self::Futex => subject(Locked::new(Duration::ZERO, LONG)),
            Self::Timer => subject(Sleep),
            Self::Faults => subject(Faults),
            Self::Compute => subject(Compute),
            Self::TimerAndFutex => {
                subject(Locked::new(Duration::from_millis(180), Duration::from_millis(120)))
            }
        }
    }
}

/// Gives up the priority that the battery has, since a neighbour is to be in the way of a disk and of no CPU, and takes
/// a name by which it is known.
fn neighbour(name: &str) -> io::Result<()> {
    let name = CString::new(format!("{NEIGHBOUR}{name}"))?;
    rustix::thread::set_name(&name)?;
    Ok(rustix::process::setpriority_process(None, 0)?)
}

/// What a subject's one wait takes: long beside everything that a busy host adds.
const LONG: Duration = Duration::from_millis(200);

/// The function that is explained: one wait, or two of them, of a known kind.
#[inline(never)]
fn window(subject: &mut dyn Subject) {
    subject.wait();
}

/// A program whose waits are known.
trait Subject {
    /// Before the window: what it waits for begins.
    fn prepare(&mut self) {}
    /// Inside the window.
    fn wait(&mut self);
    /// After it: the lengths of its parts in nanoseconds, in their order; empty where the window is one wait.
    fn parts_ns(&mut self) -> Vec<u64> {
        Vec::new()
    }
}

fn subject(mut subject: impl Subject) -> io::Result<()> {
    println!("ready");
    for line in stdin().lock().lines() {
        line?;
        subject.prepare();
        let begun = Instant::now();
        window(&mut subject);
        let window_ns = begun.elapsed().as_nanos() as u64;
        let parts: Vec<String> = subject.parts_ns().iter().map(u64::to_string).collect();
        writeln!(stdout(), "{window_ns} {}", parts.join(" "))?;
    }
    Ok(())
}

struct Sleep;

impl Subject for Sleep {
    fn wait(&mut self) {
        sleep(LONG);
    }
}

/// Sleeps for a while, then waits for a lock that the thread `holder` has, and computes with.
struct Locked {
    slept: Duration,
    held: Duration,
    lock: Arc<Mutex<()>>,
    holder: Option<JoinHandle<()>>,
    parts_ns: Vec<u64>,
    /// Threads that wait for a message that never comes.
    _passive: Vec<mpsc::Sender<()>>,
}

impl Locked {
    fn new(slept: Duration, held: Duration) -> Self {
        let passive = (1..=3).map(|number| {
            let (sender, receiver) = mpsc::channel();
            let wait = move || {
                let _ = receiver.recv();
            };
            // Without its threads it has nobody to tell from a contender: not worth going on.
            spawn(&format!("passive-{number}"), wait);
            sender
        });
        let passive = passive.collect();
        Self { slept, held, lock: Arc::default(), holder: None, parts_ns: Vec::new(), _passive: passive }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    thread::Builder::new().name(name.to_owned()).spawn(work).expect("a thread can be started")
}

impl Subject for Locked {
    fn prepare(&mut self) {
        let (lock, held_for) = (Arc::clone(&self.lock), self.slept + self.held);
        let (say, held) = mpsc::channel();
        self.holder = Some(spawn("holder", move || {
            let _guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = say.send(());
            compute_for(held_for);
        }));
        let _ = held.recv();
    }

    fn wait(&mut self) {
        let begun = Instant::now();
        if !self.slept.is_zero() {
            sleep(self.slept);
        }
        let slept = begun.elapsed();
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.parts_ns = [slept, begun.elapsed() - slept].map(|part| part.as_nanos() as u64).into();
    }

    fn parts_ns(&mut self) -> Vec<u64> {
        let _ = self.holder.take().map(JoinHandle::join);
        std::mem::take(&mut self.parts_ns)
    }
}

fn compute_for(length: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < length {
        spin_loop();
    }
}

struct Compute;

impl Subject for Compute {
    fn wait(&mut self) {
        compute_for(LONG);
    }
}

struct Faults;

impl Subject for Faults {
    fn wait(&mut self) {
        touch_and_free(256 * MIB);
    }
}

fn spin(cpu: usize) -> io::Result<()> {
    let mut only = CpuSet::new();
    only.set(cpu);
    sched_setaffinity(None, &only)?;
    rustix::process::setpriority_process(None, -20)?;
    end_with_input();
    println!("ready");
    loop {
        spin_loop();
    }
}

/// Ends the process when its standard input is closed.
fn end_with_input() {
    let wait = || {
        let _ = io::copy(&mut stdin().lock(), &mut io::sink());
        std::process::exit(0);
    };
    spawn("input", wait);
}

/// Has `count` threads do `work` again and again, and says that it is ready when each has done it once.
fn again_and_again(
    count: usize,
    work: impl Fn(usize) -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<()> {
    end_with_input();
    let (work, failed) = (Arc::new(work), Arc::new(AtomicBool::new(false)));
    let (say, first) = mpsc::channel();
    for number in 0..count {
        let (work, failed, say) = (Arc::clone(&work), Arc::clone(&failed), say.clone());
        spawn(&format!("{NEIGHBOUR}{number}"), move || {
            loop {
                let done = work(number);
                failed.fetch_or(done.is_err(), Ordering::Relaxed);
                let _ = say.send(done);
                if failed.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
    }
    drop(say);
    for _ in 0..count {
        first.recv().map_err(io::Error::other)??;
    }
    println!("ready");
    for done in first {
        done?;
    }
    Ok(())
}

/// Files are overwritten again and again where they are, so that data is always on its way to the disk and no block is
/// ever allocated for it: the journal has nothing to do with it.
fn writes(folder: &Path, threads: usize) -> io::Result<()> {
    let folder = folder.to_owned();
    again_and_again(threads, move |number| {
        let path = folder.join(format!("writes-{number}"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        let chunk = vec![number as u8 + 1; CHUNK];
        for _ in 0..FILE_BYTES / CHUNK as u64 / threads as u64 {
            file.write_all(&chunk)?;
        }
        file.sync_data()
    })
}

/// New blocks with each append, which the journal may commit only after their data is on the disk. It says `syncing`
/// when the data is about to go there.
fn appends(folder: &Path) -> io::Result<()> {
    let mut file = File::create(folder.join("appends"))?;
    let chunk = vec![7; CHUNK];
    println!("ready");
    for line in stdin().lock().lines() {
        line?;
        for _ in 0..APPENDED_MIB {
            file.write_all(&chunk)?;
        }
        println!("syncing");
        file.sync_data()?;
    }
    Ok(())
}

fn reads(folder: &Path, threads: usize) -> io::Result<()> {
    let path = folder.join("reads");
    let mut file = File::create(&path)?;
    let chunk = vec![3; CHUNK];
    for _ in 0..FILE_BYTES / CHUNK as u64 {
        file.write_all(&chunk)?;
    }
    file.sync_all()?;
    again_and_again(threads, move |number| {
        use std::os::unix::fs::FileExt;
        let file =
            OpenOptions::new().read(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(&path)?;
        let mut buffer = Aligned::new();
        let chunks = FILE_BYTES / CHUNK as u64;
        for at in 0..chunks {
            let at = (at * 17 + number as u64 * 5) % chunks;
            file.read_exact_at(buffer.bytes(), at * CHUNK as u64)?;
        }
        Ok(())
    })
}

/// A buffer that begins on a page, as reads past the page cache want it.
struct Aligned(Vec<u8>);

impl Aligned {
    const PAGE: usize = 4096;

    fn new() -> Self {
        Self(vec![0; CHUNK + Self::PAGE])
    }

    fn bytes(&mut self) -> &mut [u8] {
        let aside = self.0.as_ptr().align_offset(Self::PAGE);
        &mut self.0[aside..aside + CHUNK]
    }
}
