//! The watched programs.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::AsFd;
use std::ptr::null;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use probes_common::number;

use crate::subject::{command, ready_and_wait, say, spawn};

static CONTENDED: Mutex<u64> = Mutex::new(0);
static WORD: AtomicU32 = AtomicU32::new(1);

const PRIVATE: u32 = 128;
/// FUTEX2_SIZE_U32 | FUTEX2_PRIVATE
const WORD_FLAGS: u32 = 2 | PRIVATE;
const ROUNDS: u64 = 10;
const NAP: Duration = Duration::from_millis(10);

/// Plays a role until the test ends it, or the role is over.
pub fn play(role: &str) {
    match role {
        "mutex" => {
            for name in ["lock-a", "lock-b"] {
                spawn(name, || {
                    loop {
                        let mut count = CONTENDED.lock().unwrap();
                        let begun = Instant::now();
                        while begun.elapsed() < Duration::from_millis(5) {
                            *count += 1;
                        }
                        drop(count);
                        // The lock is not fair: whoever comes back at once may have it always.
                        thread::sleep(Duration::from_millis(1));
                    }
                });
            }
            ready_and_wait();
        }
        "condition" => condition(),
        "parked" => {
            spawn("parked", || {
                loop {
                    thread::park();
                }
            });
            ready_and_wait();
        }
        "operations" => {
            say("ready");
            command();
            say(&operations());
            command();
        }
        "shared" => shared(),
        unknown => panic!("no role {unknown}"),
    }
}

fn condition() {
    let pair = Arc::new((Mutex::new(0_u64), Condvar::new()));
    let heard = Arc::clone(&pair);
    spawn("listener", move || {
        let mut seen = 0;
        loop {
            let mut told = heard.0.lock().unwrap();
            while *told == seen {
                told = heard.1.wait(told).unwrap();
            }
            seen = *told;
        }
    });
    spawn("teller", move || {
        loop {
            thread::sleep(Duration::from_millis(20));
            *pair.0.lock().unwrap() += 1;
            pair.1.notify_one();
        }
    });
    ready_and_wait();
}

/// A word at an offset of its own in the second page of a file.
fn shared() {
    let file = tempfile::Builder::new().prefix("forkd-shared-word").tempfile().unwrap();
    file.as_file().set_len(3 * 4096).unwrap();
    file.as_file().flush().unwrap();
    // SAFETY: a fresh mapping of a file that is kept as long as the process.
    let start = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            2 * 4096,
            rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
            rustix::mm::MapFlags::SHARED,
            file.as_fd(),
            4096,
        )
    }
    .unwrap() as usize;
    spawn("sharer", move || {
        let word = (start + 64) as *const AtomicU32;
        loop {
            // FUTEX_WAIT, not private, for the value that the file holds.
            futex(word, 0, 0, Some(NAP));
        }
    });
    ready_and_wait();
}

/// Runs every wait operation, each to its timeout, and one that does not wait; tells what it saw of them.
fn operations() -> String {
    let word = &raw const WORD;
    let waitv = [1, word as u64, u64::from(WORD_FLAGS), 1, word as u64 + 8, u64::from(WORD_FLAGS)];
    let waitv_with = |first: u64| {
        let elements = [first, waitv[1], waitv[2]];
        let deadline = deadline();
        syscall(number::FUTEX_WAITV, [elements.as_ptr() as usize, 1, 0, &raw const deadline as usize, 1, 0])
    };
    let wait2 = |value: usize| {
        let deadline = deadline();
        let flags = WORD_FLAGS as usize;
        syscall(
            number::FUTEX_WAIT,
            [word as usize, value, u32::MAX as usize, flags, &raw const deadline as usize, 1],
        )
    };
    let lines = [
        line("FUTEX_WAIT", |value| futex(word, PRIVATE, value, Some(NAP))),
        line("FUTEX_WAIT_BITSET", |value| {
            let deadline = deadline();
            let arguments =
                [word as usize, (9 | PRIVATE) as usize, value as usize, &raw const deadline as usize, 0];
            syscall(
                number::FUTEX,
                [arguments[0], arguments[1], arguments[2], arguments[3], 0, u32::MAX as usize],
            )
        }),
        line("FUTEX_WAIT_REQUEUE_PI", |value| {
            let deadline = deadline();
            let second = word as usize + 64;
            let arguments =
                [word as usize, (11 | PRIVATE) as usize, value as usize, &raw const deadline as usize];
            syscall(
                number::FUTEX,
                [arguments[0], arguments[1], arguments[2], arguments[3], second, u32::MAX as usize],
            )
        }),
        line("futex_waitv", |value| waitv_with(u64::from(value))),
        line("futex_wait", |value| wait2(value as usize)),
        Some(lock_pi()),
    ];
    lines.into_iter().flatten().collect::<Vec<_>>().join(",")
}

/// Ten waits that time out, and two that find another value. `None` where this kernel has no such call: `futex_wait` came
/// with Linux 6.7.
fn line(name: &str, wait: impl Fn(u32) -> i64) -> Option<String> {
    let begun = Instant::now();
    if wait(2) == -i64::from(libc::ENOSYS) {
        return None;
    }
    for _ in 0..ROUNDS {
        assert_eq!(wait(1), -i64::from(libc::ETIMEDOUT), "{name}");
    }
    assert_eq!(wait(2), -i64::from(libc::EAGAIN), "{name}");
    Some(format!("{name} {} {} {ROUNDS} 2", ROUNDS + 2, begun.elapsed().as_nanos()))
}

/// A lock that another thread has and keeps.
fn lock_pi() -> String {
    static LOCK: AtomicU32 = AtomicU32::new(0);
    let lock = |timeout: *const libc::timespec| {
        let word = &raw const LOCK as usize;
        syscall(number::FUTEX, [word, (6 | PRIVATE) as usize, 0, timeout as usize, 0, 0])
    };
    let (told, hears) = std::sync::mpsc::channel();
    spawn("keeper", move || {
        // Nobody has it yet: the kernel writes this thread into the word, and returns.
        assert_eq!(lock(null()), 0);
        told.send(()).unwrap();
        loop {
            thread::park();
        }
    });
    hears.recv().unwrap();
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        let deadline = realtime_deadline();
        assert_eq!(lock(&raw const deadline), -i64::from(libc::ETIMEDOUT));
    }
    // The keeper's own call is one more, and took no time to speak of.
    format!("FUTEX_LOCK_PI {} {} {ROUNDS} 0", ROUNDS + 1, begun.elapsed().as_nanos())
}

/// `name waits nanoseconds timeouts changed`, parted by commas.
pub fn parse(text: &str) -> HashMap<String, [u64; 4]> {
    let one = |part: &str| {
        let (name, rest) = part.split_once(' ').unwrap();
        let numbers: Vec<u64> = rest.split(' ').map(|number| number.parse().unwrap()).collect();
        (name.to_owned(), numbers.try_into().unwrap())
    };
    text.split(',').map(one).collect()
}

/// `futex(word, operation, value, timeout)`, with a relative timeout.
fn futex(word: *const AtomicU32, operation: u32, value: u32, timeout: Option<Duration>) -> i64 {
    let timeout = timeout.map(|timeout| libc::timespec { tv_sec: 0, tv_nsec: timeout.subsec_nanos().into() });
    let timeout = timeout.as_ref().map_or(null(), std::ptr::from_ref);
    syscall(number::FUTEX, [word as usize, operation as usize, value as usize, timeout as usize, 0, 0])
}

/// A moment from now, on CLOCK_MONOTONIC.
fn deadline() -> libc::timespec {
    let at_ns = probes::monotonic_ns() + NAP.as_nanos() as u64;
    libc::timespec {
        tv_sec: (at_ns / 1_000_000_000).cast_signed(),
        tv_nsec: (at_ns % 1_000_000_000).cast_signed(),
    }
}

/// The same on CLOCK_REALTIME, which FUTEX_LOCK_PI measures by.
fn realtime_deadline() -> libc::timespec {
    let at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap() + NAP;
    libc::timespec { tv_sec: at.as_secs().cast_signed(), tv_nsec: at.subsec_nanos().into() }
}

/// The result, or the negative errno.
fn syscall(number: u32, arguments: [usize; 6]) -> i64 {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: every caller passes a futex operation on words and timeouts that live until it returns.
    let result = unsafe { libc::syscall(i64::from(number), a, b, c, d, e, f) };
    if result < 0 { -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap()) } else { result }
}
