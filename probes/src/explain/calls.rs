//! Calls of the function that bounds windows, from what its entries and returns tell. Pure.

use std::collections::HashMap;

use crate::decode::Mark;

/// The calls that are under way: one window a thread, from its outermost entry to the return from that.
///
/// Which call an entry or a return is of is told by the stack pointer, and not by counting: the kernel does not tell
/// the returns of calls deeper than `MAX_URETPROBE_DEPTH` (kernel/events/uprobes.c), a function that is left by an
/// exception or by `longjmp` does not return, and a record can be lost.
#[derive(Debug, Default)]
pub struct Calls {
    open: HashMap<u32, Call>,
    opened: u64,
}

#[derive(Debug)]
struct Call {
    start_ns: u64,
    /// Where its return address lies: calls inside of it have theirs below.
    sp: u64,
    was_reentered: bool,
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
    /// It was cut: its thread was not seen to return.
    pub clamped: bool,
    /// The thread entered the function once more at the same place of its stack, before it was seen to return. Either
    /// the function has called itself as the last thing that it did, or these are two calls, of which the first ended
    /// unseen.
    pub was_reentered: bool,
}

impl Calls {
    /// Takes the next entry or return; gives the window that it ends.
    pub fn take(&mut self, mark: &Mark) -> Option<Span> {
        if mark.opens { self.enter(mark) } else { self.leave(mark) }
    }

    /// An entry above the outermost call's return address: that call is over, and its return was not told.
    fn enter(&mut self, mark: &Mark) -> Option<Span> {
        let tid = mark.thread.tid;
        match self.open.get_mut(&tid) {
            Some(call) if mark.sp <= call.sp => {
                call.was_reentered |= mark.sp == call.sp;
                return None;
            }
            _ => {}
        }
        let ended = self.end(tid, mark.time_ns, true);
        self.opened += 1;
        self.open.insert(tid, Call { start_ns: mark.time_ns, sp: mark.sp, was_reentered: false });
        ended
    }

    /// The return from the outermost call takes its return address off the stack; one from inside of it does not.
    fn leave(&mut self, mark: &Mark) -> Option<Span> {
        let tid = mark.thread.tid;
        let is_outermost = self.open.get(&tid).is_some_and(|call| mark.sp > call.sp);
        if is_outermost { self.end(tid, mark.time_ns, false) } else { None }
    }

    fn end(&mut self, tid: u32, end_ns: u64, clamped: bool) -> Option<Span> {
        let Call { start_ns, was_reentered, .. } = self.open.remove(&tid)?;
        Some(Span { tid, start_ns, end_ns, clamped, was_reentered })
    }

    /// Cuts the windows of these threads at `end_ns`.
    pub fn cut(&mut self, tids: &[u32], end_ns: u64) -> Vec<Span> {
        tids.iter().filter_map(|tid| self.end(*tid, end_ns, true)).collect()
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
    use super::{Calls, Span};
    use crate::decode::{Mark, ThreadId};

    /// Where the stack of each thread here begins.
    const TOP: u64 = 0x7fff_0000;

    /// An entry has pushed its return address at depth words below the top; a return has taken it off again.
    fn mark(tid: u32, time_ns: u64, opens: bool, depth: u64) -> Mark {
        let sp = TOP - 8 * depth + if opens { 0 } else { 8 };
        Mark { time_ns, thread: ThreadId { tid, start_ns: 0 }, opens, sp }
    }

    /// Entries (`+`) and returns (`-`) of thread 7, one a nanosecond, each with how deep its call is: the windows, with
    /// a letter for those that were cut and for those that were entered again.
    fn windows(marks: &str) -> Vec<(u64, u64, &'static str)> {
        let mut calls = Calls::default();
        let numbered = marks.split_whitespace().zip(0..);
        let closed = numbered.filter_map(|(word, time_ns)| {
            let (opens, depth) = (word.starts_with('+'), word[1..].parse().unwrap());
            calls.take(&mark(7, time_ns, opens, depth))
        });
        let kind = |span: &Span| match (span.clamped, span.was_reentered) {
            (false, false) => "",
            (true, false) => "cut",
            (false, true) => "again",
            (true, true) => "cut, again",
        };
        closed.map(|span| (span.start_ns, span.end_ns, kind(&span))).collect()
    }

    #[test]
    fn a_function_that_calls_itself_is_one_window_up_to_its_outermost_return() {
        assert_eq!(windows("+1 +3 -3 +3 -3 -1 +1 -1"), [(0, 5, ""), (6, 7, "")]);
        assert_eq!(windows("+1 +2 -2 -1"), [(0, 3, "")], "frames of one word");
    }

    #[test]
    fn threads_are_counted_apart() {
        let mut calls = Calls::default();
        assert_eq!(calls.take(&mark(7, 0, true, 1)), None);
        assert_eq!(calls.take(&mark(8, 1, true, 1)), None);
        assert_eq!(calls.take(&mark(9, 2, false, 1)), None, "a return without an entry");
        let closed = calls.take(&mark(7, 3, false, 1));
        let expected = Span { tid: 7, start_ns: 0, end_ns: 3, clamped: false, was_reentered: false };
        assert_eq!(closed, Some(expected));
        assert_eq!((calls.tids(), calls.opened()), (vec![8], 2));
    }

    #[test]
    fn returns_from_inside_that_are_not_told_are_not_waited_for() {
        assert_eq!(windows("+1 +3 +5 +7 -5 -3 -1 +1 -1"), [(0, 6, ""), (7, 8, "")]);
        assert_eq!(windows("+1 +3 -1"), [(0, 2, "")]);
    }

    #[test]
    fn a_call_that_ended_unseen_is_cut_where_the_thread_is_seen_above_it() {
        assert_eq!(windows("+5 +1 -1"), [(0, 1, "cut"), (1, 2, "")]);
    }

    #[test]
    fn two_entries_at_one_place_of_the_stack_are_one_window_that_says_so() {
        // Its last act calls it again, and the kernel tells both returns at once.
        assert_eq!(windows("+1 +1 -1 -1"), [(0, 2, "again")]);
        // The return of the first was lost.
        assert_eq!(windows("+1 +1 -1 +1 -1"), [(0, 2, "again"), (3, 4, "")]);
        assert_eq!(windows("+2 +2 +1 -1"), [(0, 2, "cut, again"), (2, 3, "")]);
    }

    #[test]
    fn what_is_cut_is_marked_and_its_return_closes_nothing_more() {
        let mut calls = Calls::default();
        assert_eq!(calls.take(&mark(7, 0, true, 1)), None);
        let cut = Span { tid: 7, start_ns: 0, end_ns: 5, clamped: true, was_reentered: false };
        assert_eq!(calls.cut(&[7, 8], 5), [cut]);
        assert_eq!(calls.take(&mark(7, 6, false, 1)), None);
        assert!(calls.is_idle());
    }
}
