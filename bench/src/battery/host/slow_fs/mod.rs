//! A file system in memory, served over FUSE, whose writes take as long as they are told to.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, sleep};
use std::time::Duration;

use probes::monotonic_ns;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use self::tree::{Node, Tree};
use self::wire::{Body, MAX_WRITE, Request, refusal};
use crate::Error;
use crate::work::unmount;

mod tree;
mod wire;

const MIB: u64 = 1 << 20;
/// Size of the file system, as it says.
const BYTES: u64 = 4 << 30;
/// A write of a microVM's state is smaller, and one of its memory is not.
const SMALL: u64 = 64 << 10;
/// Room for the largest request: a write, with what is before its bytes.
const REQUEST_BYTES: usize = MAX_WRITE as usize + 4096;

/// Mounted. Dropping it unmounts it, and what was in it is gone.
#[derive(Debug)]
pub struct SlowFs {
    point: PathBuf,
    pace: Arc<Pace>,
}

/// How slow writes are, and when they were.
#[derive(Debug, Default)]
struct Pace {
    us_per_mib: AtomicU64,
    /// What a write takes that is smaller than [`SMALL`].
    us_of_a_small_one: AtomicU64,
    /// First nanosecond, and the one after the last, of CLOCK_MONOTONIC, of each write that was slowed down.
    slowed: Mutex<Vec<(u64, u64)>>,
}

impl Pace {
    fn keep(&self, bytes: u64) {
        let us = match bytes < SMALL {
            true => self.us_of_a_small_one.load(Ordering::Relaxed),
            false => 0,
        };
        let us = us.max(bytes * self.us_per_mib.load(Ordering::Relaxed) / MIB);
        if us == 0 {
            return;
        }
        let begun_ns = monotonic_ns();
        sleep(Duration::from_micros(us));
        let slowed = (begun_ns, monotonic_ns());
        self.slowed.lock().unwrap_or_else(PoisonError::into_inner).push(slowed);
    }
}

impl SlowFs {
    /// Mounts one on the folder `point`, as fast as memory is. Its thread ends with the last user of the mount.
    ///
    /// Fails with [`Error::Missing`] where the kernel has no FUSE.
    pub fn mount(point: &Path) -> Result<Self, Error> {
        fs::create_dir_all(point).map_err(Error::file("create", point))?;
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        let device = device.map_err(|error| Error::Missing(format!("needs FUSE (/dev/fuse: {error})")))?;
        let options =
            format!("fd={},rootmode=40000,user_id=0,group_id=0,default_permissions", device.as_raw_fd());
        let options = CString::new(options).map_err(|error| Error::Missing(error.to_string()))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("forkd-bench", point, "fuse", flags, Some(options.as_c_str()))
            .map_err(|error| Error::file("mount FUSE on", point)(error.into()))?;
        let mounted = Self { point: point.to_owned(), pace: Arc::default() };
        let served = Served { pace: Arc::clone(&mounted.pace), tree: Tree::default() };
        let serve = move || served.serve(device);
        thread::Builder::new()
            .name("slow-fs".to_owned())
            .spawn(serve)
            .map_err(Error::file("serve FUSE on", point))?;
        Ok(mounted)
    }

    /// From now on, each MiB that is written takes at least `per_mib`.
    pub fn slow_down(&self, per_mib: Duration) -> Slowed {
        self.pace.us_per_mib.store(per_mib.as_micros() as u64, Ordering::Relaxed);
        Slowed(Arc::clone(&self.pace))
    }
}

impl Drop for SlowFs {
    fn drop(&mut self) {
        self.pace.us_per_mib.store(0, Ordering::Relaxed);
        let _ = unmount(&self.point);
    }
}

/// Dropping it makes the file system fast again.
#[derive(Debug)]
pub struct Slowed(Arc<Pace>);

impl Slowed {
    /// When writes were slowed down, by the file system's own clock: first nanosecond, and the one after the last, of
    /// CLOCK_MONOTONIC.
    pub fn stretches(&self) -> Vec<(u64, u64)> {
        self.0.slowed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Slowed {
    /// Has each small write take at least as long.
    pub fn small_ones(&self, least: Duration) {
        self.0.us_of_a_small_one.store(least.as_micros() as u64, Ordering::Relaxed);
    }
}

impl Drop for Slowed {
    fn drop(&mut self) {
        self.0.us_of_a_small_one.store(0, Ordering::Relaxed);
        self.0.us_per_mib.store(0, Ordering::Relaxed);
        self.0.slowed.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// What the thread has.
struct Served {
    pace: Arc<Pace>,
    tree: Tree,
}

impl Served {
    /// Answers one request after another, until the file system is unmounted.
    fn serve(mut self, mut device: File) {
        let mut buffer = vec![0; REQUEST_BYTES];
        loop {
            let bytes = match device.read(&mut buffer) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // A request that was given up before it was read.
                Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => continue,
                Err(_) => return,
            };
            let Some(request) = Request::parse(&buffer[..bytes]) else { return };
            let answer = match self.answer(&request) {
                Answer::Is(Ok(body)) => body.answer(request.unique),
                Answer::Is(Err(error)) => refusal(request.unique, error),
                Answer::None => continue,
            };
            // Whoever asked may have been killed meanwhile.
            let _ = device.write(&answer);
        }
    }

    fn answer(&mut self, request: &Request<'_>) -> Answer {
        const NO_REPLACE: u32 = 1;
        let (node, tree) = (request.node, &mut self.tree);
        Answer::Is(match request.opcode {
            // FORGET, INTERRUPT and BATCH_FORGET have no answer.
            2 | 36 | 42 => return Answer::None,
            1 => tree.find(node, request.name(0, 0)).map(Body::entry),
            3 => tree.attributes(node).map(Body::attributes),
            4 => self.change(request),
            9 => tree.add(node, request.name(8, 0), Node::folder(request.u32(0))).map(Body::entry),
            10 | 11 => tree.take(node, request.name(0, 0)).map(|_| Body::default()),
            12 => self.rename(request, 8, false),
            45 => self.rename(request, 16, request.u32(8) & NO_REPLACE != 0),
            14 | 27 => Ok(Body::default().opened()),
            15 => self.read(request),
            16 => self.write(request),
            17 => Ok(Body::statfs(BYTES)),
            // RELEASE, FSYNC, FLUSH, RELEASEDIR, FSYNCDIR and DESTROY have nothing to do.
            18 | 20 | 25 | 29 | 30 | 38 => Ok(Body::default()),
            26 => Ok(Body::init()),
            28 => self.list(request),
            35 => {
                let made = tree.add(node, request.name(16, 0), Node::file(request.u32(4)));
                made.map(|made| Body::entry(made).opened())
            }
            _ => Err(Errno::NOSYS),
        })
    }

    fn change(&mut self, request: &Request<'_>) -> Result<Body, Errno> {
        const MODE: u32 = 1;
        const SIZE: u32 = 1 << 3;
        let has = |what: u32| request.u32(0) & what != 0;
        let mode = has(MODE).then(|| request.u32(68));
        let size = has(SIZE).then(|| request.u64(16));
        self.tree.change(request.node, mode, size).map(Body::attributes)
    }

    fn rename(&mut self, request: &Request<'_>, names: usize, no_replace: bool) -> Result<Body, Errno> {
        let from = (request.node, request.name(names, 0));
        let to = (request.u64(0), request.name(names, 1));
        self.tree.rename(from, to, no_replace).map(|()| Body::default())
    }

    fn read(&mut self, request: &Request<'_>) -> Result<Body, Errno> {
        let bytes = self.tree.file(request.node)?;
        let start = (request.u64(8) as usize).min(bytes.len());
        let end = start.saturating_add(request.u32(16) as usize).min(bytes.len());
        Ok(Body::bytes(&bytes[start..end]))
    }

    fn write(&mut self, request: &Request<'_>) -> Result<Body, Errno> {
        let data = request.bytes(40);
        self.pace.keep(data.len() as u64);
        let bytes = self.tree.file(request.node)?;
        let start = usize::try_from(request.u64(8)).map_err(|_| Errno::FBIG)?;
        let end = start.checked_add(data.len()).ok_or(Errno::FBIG)?;
        bytes.resize(bytes.len().max(end), 0);
        bytes[start..end].copy_from_slice(data);
        Ok(Body::written(data.len() as u32))
    }

    fn list(&mut self, request: &Request<'_>) -> Result<Body, Errno> {
        let (after, room) = (request.u64(8) as usize, request.u32(16) as usize);
        let entries = self.tree.folder(request.node)?.clone();
        let mut body = Body::default();
        for (at, (name, number)) in (1..).zip(&entries).skip(after) {
            let mode = self.tree.attributes(*number)?.mode;
            // An entry takes 24 bytes and its name, rounded up.
            if body.len() + 32 + name.len() > room {
                break;
            }
            body = body.directory_entry(at, *number, mode, name);
        }
        Ok(body)
    }
}

/// Not every request has an answer.
enum Answer {
    Is(Result<Body, Errno>),
    None,
}
