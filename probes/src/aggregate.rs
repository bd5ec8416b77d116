//! Intervals to the report: sums by thread and by stack.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

use reports::offcpu::{Stack, State, Thread, Waker};

use crate::comm::Comm;
use crate::decode::{ThreadId, UserSide};
use crate::interrupt;
use crate::interval::{self, Doing, Interval, KernelStack, OffCpu, ThreadNote, Wait};

/// Gives addresses names.
pub trait Names {
    /// Names of the frames of a kernel stack, innermost first, without those of the tracing itself.
    fn kernel(&mut self, frames: &[u64]) -> Vec<String>;
    /// Names of the frames of a user stack of the process `tgid`.
    fn user(&mut self, tgid: u32, user: &UserSide) -> UserNames;
    /// Who has a handler for a device interrupt, as `/proc/interrupts` names them.
    fn device(&mut self, interrupt: u32) -> Option<String> {
        let _ = interrupt;
        None
    }
}

/// A user stack, named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct UserNames {
    /// Innermost first.
    pub frames: Vec<String>,
    /// The outermost frames are missing.
    pub truncated: bool,
}

/// Which off-CPU intervals a report lists by stack. The default takes them all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The shortest.
    pub min_ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// These waits only; every one where this is empty.
    pub waits: Vec<Wait>,
    /// These threads only; every one where this is empty.
    pub tids: Vec<u32>,
}

impl Default for Filter {
    fn default() -> Self {
        Self { min_ns: 0, max_ns: u64::MAX, waits: Vec::new(), tids: Vec::new() }
    }
}

impl Filter {
    fn takes_thread(&self, tid: u32) -> bool {
        self.tids.is_empty() || self.tids.contains(&tid)
    }

    fn takes(&self, wait: Wait, length_ns: u64) -> bool {
        (self.min_ns..=self.max_ns).contains(&length_ns)
            && (self.waits.is_empty() || self.waits.contains(&wait))
    }
}

impl fmt::Display for Filter {
    /// What the filter leaves out, after the word "intervals".
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut causes = Vec::new();
        if self.min_ns > 0 {
            causes.push(format!("shorter than {} us", self.min_ns / 1000));
        }
        if self.max_ns < u64::MAX {
            causes.push(format!("longer than {} us", self.max_ns / 1000));
        }
        if !self.waits.is_empty() {
            causes.push("in other states than those asked for".to_owned());
        }
        formatter.write_str(&causes.join(" or "))
    }
}

/// Sums, as intervals come in.
#[derive(Debug, Default)]
pub struct Totals {
    threads: BTreeMap<ThreadId, ThreadTotal>,
    waits: HashMap<(ThreadId, OffCpu), Sum>,
    filter: Filter,
    left_out: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct ThreadTotal {
    off_cpu_ns: u64,
    run_queue_ns: u64,
    on_cpu_ns: u64,
    unknown_ns: u64,
    switches: u64,
    truncated: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    ns: u64,
    count: u64,
}

/// The two lists of a report.
#[derive(Clone, Debug, PartialEq)]
pub struct Tables {
    /// Threads, most off-CPU time first.
    pub threads: Vec<Thread>,
    /// Stacks, longest first.
    pub stacks: Vec<Stack>,
}

impl Totals {
    /// Sums whose `stacks` hold what `filter` takes; `threads` sum everything of the threads that it takes.
    pub fn new(filter: Filter) -> Self {
        Self { filter, ..Self::default() }
    }

    /// Adds one interval.
    pub fn add(&mut self, interval: &Interval) {
        if !self.filter.takes_thread(interval.thread.tid) {
            return;
        }
        let length_ns = interval.length_ns();
        let total = self.threads.entry(interval.thread).or_default();
        total.truncated += u64::from(interval.truncated);
        total.switches += u64::from(interval.left_cpu);
        match &interval.doing {
            Doing::OnCpu => total.on_cpu_ns += length_ns,
            Doing::Unknown => total.unknown_ns += length_ns,
            Doing::OffCpu(off) => {
                total.off_cpu_ns += length_ns;
                if off.wait.is_runnable() {
                    total.run_queue_ns += length_ns;
                }
                self.add_wait(interval.thread, off, length_ns);
            }
        }
    }

    fn add_wait(&mut self, thread: ThreadId, off: &OffCpu, length_ns: u64) {
        if !self.filter.takes(off.wait, length_ns) {
            self.left_out += 1;
            return;
        }
        let sum = self.waits.entry((thread, off.clone())).or_default();
        sum.ns += length_ns;
        sum.count += 1;
    }

    /// Off-CPU intervals that the filter kept out of the stacks.
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The report's tables. Stacks that differ in addresses only, and read the same, become one.
    pub fn tables(self, notes: &[ThreadNote], names: &mut dyn Names) -> Tables {
        let comms: HashMap<ThreadId, Comm> =
            notes.iter().filter_map(|note| Some((note.thread, note.comm?))).collect();
        let tgids: HashMap<ThreadId, u32> = notes.iter().map(|note| (note.thread, note.tgid)).collect();
        let tgid = |thread: ThreadId| tgids.get(&thread).copied().unwrap_or(0);
        let comm = |thread: ThreadId| comms.get(&thread).map_or_else(String::new, |comm| comm.text().into());
        let mut threads: Vec<Thread> =
            self.threads.iter().map(|(id, total)| thread_row(*id, tgid(*id), comm(*id), total)).collect();
        threads.sort_by_key(|row| (std::cmp::Reverse(row.off_cpu_ns), row.tid));
        let mut merged: HashMap<(ThreadId, Named), Sum> = HashMap::new();
        for ((thread, off), sum) in self.waits {
            let slot = merged.entry((thread, named(tgid(thread), &off, names))).or_default();
            slot.ns += sum.ns;
            slot.count += sum.count;
        }
        let mut stacks: Vec<Stack> = merged
            .into_iter()
            .map(|((thread, named), sum)| stack_row(thread, comm(thread), named, sum))
            .collect();
        stacks.sort_by(longest_first);
        Tables { threads, stacks }
    }
}

/// Everything else decides between equals, so that one recording always gives one order.
fn longest_first(a: &Stack, b: &Stack) -> Ordering {
    let frames = |stack: &Stack| (stack.kernel.len(), stack.user.len(), stack.user_truncated);
    b.ns.cmp(&a.ns)
        .then_with(|| (a.tid, a.state).cmp(&(b.tid, b.state)))
        .then_with(|| frames(a).cmp(&frames(b)))
        .then_with(|| (&a.kernel, &a.user, &a.waker).cmp(&(&b.kernel, &b.user, &b.waker)))
}

#[derive(PartialEq, Eq, Hash)]
struct Named {
    state: State,
    kernel: Vec<String>,
    user: UserNames,
    waker: Option<Waker>,
}

fn named(tgid: u32, off: &OffCpu, names: &mut dyn Names) -> Named {
    let kernel = match &off.stack {
        KernelStack::Addresses(frames) => names.kernel(frames),
        KernelStack::Names(frames) => frames.to_vec(),
        KernelStack::Missing => Vec::new(),
    };
    let waker = off.waker.as_ref().map(|waker| named_waker(waker, names));
    let user = off.user.map(|user| names.user(tgid, &user)).unwrap_or_default();
    Named { state: state(off.wait), kernel, user, waker }
}

/// Who woke. Which thread an interrupt came upon is chance, so the interrupt is named in its place.
fn named_waker(waker: &interval::Waker, names: &mut dyn Names) -> Waker {
    match interrupt::name(waker, names) {
        Some(name) => Waker { tid: 0, comm: name, interrupt: true },
        None => Waker { tid: waker.peer.tid, comm: waker.peer.comm.text().into(), interrupt: false },
    }
}

const fn state(wait: Wait) -> State {
    match wait {
        Wait::Interruptible => State::Interruptible,
        Wait::Uninterruptible => State::Uninterruptible,
        Wait::Stopped => State::Stopped,
        Wait::Preempted => State::Preempted,
        Wait::RunQueue => State::RunQueue,
        Wait::Unknown => State::Unknown,
    }
}

const fn thread_row(id: ThreadId, pid: u32, comm: String, total: &ThreadTotal) -> Thread {
    Thread {
        pid,
        tid: id.tid,
        comm,
        off_cpu_ns: total.off_cpu_ns,
        run_queue_ns: total.run_queue_ns,
        on_cpu_ns: total.on_cpu_ns,
        unknown_ns: total.unknown_ns,
        switches: total.switches,
        truncated: total.truncated,
    }
}

fn stack_row(thread: ThreadId, comm: String, named: Named, sum: Sum) -> Stack {
    let Named { state, kernel, user, waker } = named;
    let UserNames { frames: user, truncated: user_truncated } = user;
    let (tid, ns, count) = (thread.tid, sum.ns, sum.count);
    Stack { tid, comm, state, ns, count, kernel, user, user_truncated, waker }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Names an address by its number.
    struct Numbers;

    impl Names for Numbers {
        fn kernel(&mut self, frames: &[u64]) -> Vec<String> {
            frames.iter().map(|frame| format!("k{}", frame / 10)).collect()
        }

        fn user(&mut self, _: u32, user: &UserSide) -> UserNames {
            UserNames { frames: vec![format!("u{}", user.ip)], truncated: true }
        }
    }

    const THREAD: ThreadId = ThreadId { tid: 7, start_ns: 1 };

    fn asleep(start_ns: u64, end_ns: u64, frame: u64) -> Interval {
        let off = OffCpu {
            wait: Wait::Interruptible,
            stack: KernelStack::Addresses(Arc::from([frame])),
            user: Some(UserSide { ip: 5, stack: None }),
            waker: None,
        };
        let doing = Doing::OffCpu(off);
        Interval { thread: THREAD, start_ns, end_ns, doing, left_cpu: true, truncated: false }
    }

    // address 21 and 22 lie in one function, 31 in another
    #[test]
    fn two_call_sites_of_one_function_are_one_stack() {
        let mut totals = Totals::new(Filter::default());
        for interval in [asleep(0, 10, 21), asleep(20, 25, 22), asleep(30, 31, 31)] {
            totals.add(&interval);
        }
        let note = ThreadNote { thread: THREAD, tgid: 7, comm: Some(Comm::from_text("worker")) };
        let tables = totals.tables(&[note], &mut Numbers);
        let seen: Vec<_> =
            tables.stacks.iter().map(|stack| (stack.kernel.join(";"), stack.ns, stack.count)).collect();
        assert_eq!(seen, [("k2".to_owned(), 15, 2), ("k3".to_owned(), 1, 1)]);
        assert_eq!(tables.threads[0].off_cpu_ns, 16);
        assert_eq!(tables.threads[0].switches, 3);
        assert_eq!(tables.threads[0].comm, "worker");
    }

    #[test]
    fn short_intervals_leave_the_stacks_and_stay_in_the_thread() {
        let mut totals = Totals::new(Filter { min_ns: 10, ..Filter::default() });
        totals.add(&asleep(0, 10, 21));
        totals.add(&asleep(20, 25, 22));
        assert_eq!(totals.left_out(), 1);
        let tables = totals.tables(&[], &mut Numbers);
        assert_eq!((tables.stacks.len(), tables.stacks[0].ns), (1, 10));
        assert_eq!(tables.threads[0].off_cpu_ns, 15);
    }

    #[test]
    fn a_filter_keeps_threads_states_and_lengths_apart() {
        let count = |filter: Filter| {
            let mut totals = Totals::new(filter);
            totals.add(&asleep(0, 10, 21));
            totals.add(&asleep(20, 25, 22));
            let left_out = totals.left_out();
            let tables = totals.tables(&[], &mut Numbers);
            (tables.threads.len(), tables.stacks.iter().map(|stack| stack.count).sum::<u64>(), left_out)
        };
        let all = Filter::default;
        assert_eq!(count(all()), (1, 2, 0));
        assert_eq!(count(Filter { max_ns: 5, ..all() }), (1, 1, 1));
        assert_eq!(count(Filter { waits: vec![Wait::Uninterruptible], ..all() }), (1, 0, 2));
        assert_eq!(count(Filter { waits: vec![Wait::Interruptible], ..all() }), (1, 2, 0));
        assert_eq!(count(Filter { tids: vec![8], ..all() }), (0, 0, 0));
        let both = Filter { min_ns: 2_000, max_ns: 9_000, ..all() };
        assert_eq!(both.to_string(), "shorter than 2 us or longer than 9 us");
    }
}
