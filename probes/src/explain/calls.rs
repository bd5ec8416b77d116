//! Calls of the function that bounds windows, from what its entries and returns tell. Pure.

use std::collections::HashMap;

use crate::decode::Mark;

/// Calls of one thread inside each other whose returns the kernel tells: MAX_URETPROBE_DEPTH of kernel/events/uprobes.c.
/// Those that are deeper are entered like any other, and return unseen.
const TOLD_DEPTH: u32 = 64;

/// The calls that are under way: one window a thread, from its outermost entry to the return from that.
#[derive(Debug, Default)]
pub struct Calls {
    open: HashMap<u32, Call>,
    opened: u64,
}

#[derive(Debug)]
struct Call {
    start_ns: u64,
    depth: u32,
    /// An entry or a return may have been lost: the next return that is told counts as the outermost, because
    /// waiting for one that will not come would keep the window open for ever.
    is_doubtful: bool,
}

/// A window that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The thread.
    pub tid: u32,
    /// When it entered.
    pub start_ns: u64,
    /// When it returned.
    pub end_ns: u64,
    /// It was cut before the thread returned.
    pub clamped: bool,
}

impl Calls {
    /// Takes the next entry or return; gives the window that it closes.
    pub fn take(&mut self, mark: &Mark) -> Option<Span> {
        let tid = mark.thread.tid;
        if mark.opens {
            self.enter(tid, mark.time_ns);
            return None;
        }
        let call = self.open.get_mut(&tid)?;
        call.depth -= 1;
        if call.depth > 0 && !call.is_doubtful {
            return None;
        }
        let call = self.open.remove(&tid)?;
        Some(Span { tid, start_ns: call.start_ns, end_ns: mark.time_ns, clamped: false })
    }

    fn enter(&mut self, tid: u32, time_ns: u64) {
        let opened = &mut self.opened;
        let call = self.open.entry(tid).or_insert_with(|| {
            *opened += 1;
            Call { start_ns: time_ns, depth: 0, is_doubtful: false }
        });
        call.depth = (call.depth + 1).min(TOLD_DEPTH);
    }

    /// Entries or returns may have been lost among those that were taken.
    pub fn doubt(&mut self) {
        self.open.values_mut().for_each(|call| call.is_doubtful = true);
    }

    /// Cuts the windows of these threads at `end_ns`.
    pub fn cut(&mut self, tids: &[u32], end_ns: u64) -> Vec<Span> {
        let cut = |tid: &u32| {
            let call = self.open.remove(tid)?;
            Some(Span { tid: *tid, start_ns: call.start_ns, end_ns, clamped: true })
        };
        tids.iter().filter_map(cut).collect()
    }

    /// The threads that are inside the function.
    pub fn tids(&self) -> Vec<u32> {
        self.open.keys().copied().collect()
    }

    /// No thread is inside the function.
    pub fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    /// How many windows have opened so far.
    pub const fn opened(&self) -> u64 {
        self.opened
    }
}

#[cfg(test)]
mod tests {
    use super::{Calls, Span, TOLD_DEPTH};
    use crate::decode::{Mark, ThreadId};

    fn mark(tid: u32, time_ns: u64, opens: bool) -> Mark {
        Mark { time_ns, thread: ThreadId { tid, start_ns: 0 }, opens }
    }

    /// Entries (`+`) and returns (`-`) of thread 7, one a nanosecond: when windows opened and closed.
    fn windows(calls: &mut Calls, from_ns: u64, marks: &str) -> Vec<(u64, u64)> {
        let numbered = marks.chars().zip(from_ns..);
        let closed = numbered.filter_map(|(letter, time_ns)| calls.take(&mark(7, time_ns, letter == '+')));
        closed.map(|span| (span.start_ns, span.end_ns)).collect()
    }

    #[test]
    fn a_function_that_calls_itself_is_one_window_up_to_its_outermost_return() {
        let mut calls = Calls::default();
        //                                     0..5    6.7
        assert_eq!(windows(&mut calls, 0, "++-+--+-"), [(0, 5), (6, 7)]);
        assert_eq!((calls.opened(), calls.is_idle()), (2, true));
    }

    #[test]
    fn threads_are_counted_apart() {
        let mut calls = Calls::default();
        assert_eq!(calls.take(&mark(7, 0, true)), None);
        assert_eq!(calls.take(&mark(8, 1, true)), None);
        assert_eq!(calls.take(&mark(9, 2, false)), None, "a return without an entry");
        let closed = calls.take(&mark(7, 3, false));
        assert_eq!(closed, Some(Span { tid: 7, start_ns: 0, end_ns: 3, clamped: false }));
        assert_eq!(calls.tids(), [8]);
    }

    #[test]
    fn calls_that_are_deeper_than_the_kernel_tells_have_no_return_to_wait_for() {
        let mut calls = Calls::default();
        let told = TOLD_DEPTH as usize;
        let marks = "+".repeat(told + 10) + &"-".repeat(told);
        assert_eq!(windows(&mut calls, 0, &marks), [(0, told as u64 * 2 + 9)]);
    }

    #[test]
    fn a_window_whose_return_was_lost_closes_with_the_next_one() {
        let mut calls = Calls::default();
        assert_eq!(windows(&mut calls, 0, "+"), []);
        calls.doubt();
        assert_eq!(windows(&mut calls, 10, "+-"), [(0, 11)]);
        assert_eq!(windows(&mut calls, 20, "++--"), [(20, 23)], "what comes after it is not in doubt");
    }

    #[test]
    fn what_is_cut_is_marked_and_its_return_closes_nothing_more() {
        let mut calls = Calls::default();
        assert_eq!(windows(&mut calls, 0, "++"), []);
        assert_eq!(calls.cut(&[7, 8], 5), [Span { tid: 7, start_ns: 0, end_ns: 5, clamped: true }]);
        assert_eq!(windows(&mut calls, 6, "-"), []);
        assert!(calls.is_idle());
    }
}
