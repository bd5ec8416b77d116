//! From a stack to a row of the cause table.

use super::causes::{BY_FRAME, Cause, DOMINANT, LOCK_FUNCTIONS};

/// One row that maps frames to a cause.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The cause.
    pub cause: Cause,
    /// For threads that run, that wait, or both.
    pub on: On,
    /// Whose time it is.
    pub follow: Follow,
    /// Kernel functions, any of which names the cause.
    pub at: &'static [&'static str],
    /// If any are given, one of these must be further out.
    pub within: &'static [&'static str],
}

/// What the thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// It runs.
    Running,
    /// It waits, for something other than a CPU.
    Blocked,
    /// Either.
    Any,
}

/// Whose time a wait is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// The cause's own; who ended it belongs to the chain.
    Stop,
    /// That of the thread which ended it.
    Waker,
}

/// What a stack says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The cause.
    pub cause: Cause,
    /// Whose time it is.
    pub follow: Follow,
    /// The frame that said so.
    pub frame: String,
}

/// The cause that kernel frames (innermost first) and user frames name for a thread that is `on`; `None` where no
/// row knows any of them.
pub fn classify(on: On, kernel: &[String], user: &[String]) -> Option<Match> {
    let found = dominant(on, kernel).or_else(|| innermost(on, kernel))?;
    if found.cause == Cause::FutexWait && waits_for_lock(user) {
        return Some(Match { cause: Cause::FutexContention, follow: Follow::Stop, ..found });
    }
    Some(found)
}

fn dominant(on: On, kernel: &[String]) -> Option<Match> {
    DOMINANT.iter().find_map(|rule| {
        let frame = kernel.iter().position(|frame| rule.takes(on, frame))?;
        Some(rule.matched(&kernel[frame]))
    })
}

fn innermost(on: On, kernel: &[String]) -> Option<Match> {
    kernel.iter().enumerate().find_map(|(depth, frame)| {
        let outer = &kernel[depth + 1..];
        let rule = BY_FRAME.iter().find(|rule| rule.takes(on, frame) && rule.lies_within(outer))?;
        Some(rule.matched(frame))
    })
}

fn waits_for_lock(user: &[String]) -> bool {
    // The lock's own functions are the innermost few: a lock further out is one that is held.
    const DEPTH: usize = 6;
    user.iter().take(DEPTH).any(|frame| LOCK_FUNCTIONS.iter().any(|function| frame.contains(function)))
}

impl Rule {
    fn takes(&self, on: On, frame: &str) -> bool {
        (self.on == On::Any || self.on == on) && self.at.contains(&plain(frame))
    }

    fn lies_within(&self, outer: &[String]) -> bool {
        self.within.is_empty() || outer.iter().any(|frame| self.within.contains(&plain(frame)))
    }

    fn matched(&self, frame: &str) -> Match {
        Match { cause: self.cause, follow: self.follow, frame: plain(frame).to_owned() }
    }
}

/// A function's name without what the compiler put after it: `ep_poll.isra.0`, `wbt_wait.part.0`.
fn plain(frame: &str) -> &str {
    frame.split('.').next().unwrap_or(frame)
}

/// The system call that kernel frames are under, by its name: `fsync`.
pub fn system_call(kernel: &[String]) -> Option<&str> {
    const PREFIXES: [&str; 6] =
        ["__x64_sys_", "__arm64_sys_", "__do_sys_", "__se_sys_", "ksys_", "__ia32_sys_"];
    let named = |frame: &'_ String| PREFIXES.iter().find_map(|prefix| frame.strip_prefix(prefix)).is_some();
    let frame = kernel.iter().rev().find(|frame| named(frame));
    let known = frame.and_then(|frame| PREFIXES.iter().find_map(|prefix| plain(frame).strip_prefix(prefix)));
    known.or_else(|| inlined_call(kernel))
}

/// Where the call's entry was inlined, a function that only that call has.
fn inlined_call(kernel: &[String]) -> Option<&str> {
    const KNOWN: [(&str, &str); 8] = [
        ("do_fsync", "fsync"),
        ("vfs_fsync_range", "fsync"),
        ("vfs_write", "write"),
        ("vfs_writev", "writev"),
        ("vfs_read", "read"),
        ("do_futex", "futex"),
        ("kvm_vcpu_ioctl", "ioctl"),
        ("kvm_vm_ioctl", "ioctl"),
    ];
    kernel
        .iter()
        .rev()
        .find_map(|frame| KNOWN.iter().find(|known| known.0 == plain(frame)).map(|known| known.1))
}
