//! One name for a thread that is named by its start in several ways.
//!
//! A thread is its id and its start. Most programs of the kernel side read the start from the task, to the nanosecond; a
//! tracepoint's printed form does not have it, and takes it from `/proc`, to a clock tick, or from the moment at which the
//! thread was made known. What comes first is the thread's name from then on.

use std::collections::HashMap;

use crate::decode::ThreadId;

/// Two starts of one id that are nearer than this are one: twice the tick of `/proc`. No kernel gives an id out again so
/// soon.
const NEAR_NS: u64 = 20_000_000;

/// The names that were given.
#[derive(Debug, Default)]
pub struct SameThread(HashMap<u32, ThreadId>);

impl SameThread {
    /// The one name of `thread`.
    pub fn name(&mut self, thread: ThreadId) -> ThreadId {
        let known = self.0.entry(thread.tid).or_insert(thread);
        if known.start_ns.abs_diff(thread.start_ns) > NEAR_NS {
            *known = thread;
        }
        *known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_its_first_name_and_a_reused_id_is_another_thread() {
        let mut same = SameThread::default();
        let of = |tid, start_ns| ThreadId { tid, start_ns };
        assert_eq!(same.name(of(7, 1_234_567_890)), of(7, 1_234_567_890));
        assert_eq!(same.name(of(7, 1_230_000_000)), of(7, 1_234_567_890));
        assert_eq!(same.name(of(8, 1_230_000_000)), of(8, 1_230_000_000));
        assert_eq!(same.name(of(7, 9_000_000_000)), of(7, 9_000_000_000));
        assert_eq!(same.name(of(7, 9_009_000_000)), of(7, 9_000_000_000));
    }
}
