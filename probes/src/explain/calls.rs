//! Calls of the function that bounds windows, from what its entries and returns tell. Pure.

use std::collections::HashMap;

use crate::decode::{Mark, ThreadId};

/// What a return takes off the stack: its address, of eight bytes in a 64-bit program and of four in a 32-bit one.
const RETURN_ADDRESS_BYTES: u64 = 8;

/// The calls that are under way: one window a thread, from its outermost entry to the return from that.
///
/// Which call an entry or a return is of is told by the stack pointer, and not by counting: the kernel does not tell
/// the returns of calls deeper than `MAX_URETPROBE_DEPTH` (kernel/events/uprobes.c), a function that is left by
/// `longjmp` does not return, and a record can be lost.
#[derive(Debug, Default)]
pub struct Calls {
    open: HashMap<u32, Call>,
    opened: u64,
}

#[derive(Debug)]
struct Call {
    thread: ThreadId,
    start_ns: u64,
    /// Where its return address lies: calls inside of it have theirs below.
    sp: u64,
    was_reentered: bool,
    /// A record was lost since it began, maybe that of its return: the next return that is told ends it, because one
    /// that does not come would keep the window open for ever.
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
    /// It was cut: its thread was not seen to return.
    pub clamped: bool,
    /// The thread entered the function once more at the same place of its stack, before it was seen to return. Either
    /// the function has called itself as the last thing that it did, or these are two calls, and the first ended unseen.
    pub was_reentered: bool,
}

impl Calls {
    /// Takes the next entry or return; gives the window that it ends.
    pub fn take(&mut self, mark: &Mark) -> Option<Span> {
        if mark.opens { self.enter(mark) } else { self.leave(mark) }
    }

    /// An entry above the outermost call's return address, or by another thread of that id: the call is over, and its
    /// return was not told.
    fn enter(&mut self, mark: &Mark) -> Option<Span> {
        let Mark { thread, sp, time_ns, .. } = *mark;
        match self.open.get_mut(&thread.tid) {
            Some(call) if call.thread == thread && sp <= call.sp => {
                call.was_reentered |= sp == call.sp;
                return None;
            }
            _ => {}
        }
        let ended = self.end(thread.tid, time_ns, true);
        self.opened += 1;
        let call = Call { thread, start_ns: time_ns, sp, was_reentered: false, is_doubtful: false };
        self.open.insert(thread.tid, call);
        ended
    }

    /// The return from the outermost call takes its return address off the stack, and no more; one from inside of it
    /// does not. Where more is gone the return is another call's, whose entry was not told.
    fn leave(&mut self, mark: &Mark) -> Option<Span> {
        let Mark { thread, sp, time_ns, .. } = *mark;
        let call = self.open.get(&thread.tid)?;
        let is_own = call.thread == thread && sp > call.sp && sp - call.sp <= RETURN_ADDRESS_BYTES;
        let is_over = call.thread != thread || sp > call.sp || call.is_doubtful;
        if is_over { self.end(thread.tid, time_ns, !is_own) } else { None }
    }

    fn end(&mut self, tid: u32, end_ns: u64, clamped: bool) -> Option<Span> {
        let Call { start_ns, was_reentered, .. } = self.open.remove(&tid)?;
        Some(Span { tid, start_ns, end_ns, clamped, was_reentered })
    }

    /// Records may have been lost among those that were taken.
    pub fn doubt(&mut self) {
        self.open.values_mut().for_each(|call| call.is_doubtful = true);
    }

    /// Cuts the windows of these threads at `end_ns`.
    pub fn cut(&mut self, threads: &[ThreadId], end_ns: u64) -> Vec<Span> {
        let is_open =
            |thread: &&ThreadId| self.open.get(&thread.tid).is_some_and(|call| call.thread == **thread);
        let tids: Vec<u32> = threads.iter().filter(is_open).map(|thread| thread.tid).collect();
        tids.into_iter().filter_map(|tid| self.end(tid, end_ns, true)).collect()
    }

    /// The threads that are inside the function.
    pub fn threads(&self) -> Vec<ThreadId> {
        self.open.values().map(|call| call.thread).collect()
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

    fn thread(tid: u32) -> ThreadId {
        ThreadId { tid, start_ns: 0 }
    }

    /// An entry has pushed its return address at `depth` words below the top; a return has taken it off again.
    fn mark(tid: u32, time_ns: u64, opens: bool, depth: u64) -> Mark {
        let sp = TOP - 8 * depth + if opens { 0 } else { 8 };
        Mark { time_ns, thread: thread(tid), opens, sp }
    }

    /// Entries (`+`) and returns (`-`) of thread 7, one a nanosecond, each with how deep its call is, and losses (`?`):
    /// the windows, with a word for those that were cut and for those that were entered again.
    fn windows(marks: &str) -> Vec<(u64, u64, &'static str)> {
        let mut calls = Calls::default();
        let numbered = marks.split_whitespace().zip(0..);
        let closed = numbered.filter_map(|(word, time_ns)| {
            if word == "?" {
                calls.doubt();
                return None;
            }
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
        assert_eq!((calls.threads(), calls.opened()), (vec![thread(8)], 2));
    }

    #[test]
    fn another_thread_of_the_same_id_and_stack_is_inside_no_call_of_the_first() {
        let mut calls = Calls::default();
        let of_another = |time_ns, opens| {
            let thread = ThreadId { tid: 7, start_ns: 5 };
            Mark { thread, ..mark(7, time_ns, opens, 3) }
        };
        assert_eq!(calls.take(&mark(7, 0, true, 1)), None);
        let cut = calls.take(&of_another(6, true)).map(|span| (span.start_ns, span.end_ns, span.clamped));
        assert_eq!(cut, Some((0, 6, true)));
        assert_eq!(calls.cut(&[thread(7)], 7), [], "it is the other one that is inside");
        let closed = calls.take(&of_another(8, false)).map(|span| (span.start_ns, span.end_ns, span.clamped));
        assert_eq!(closed, Some((6, 8, false)));
    }

    #[test]
    fn returns_from_inside_that_are_not_told_are_not_waited_for() {
        assert_eq!(windows("+1 +3 +5 +7 -5 -3 -1 +1 -1"), [(0, 6, ""), (7, 8, "")]);
        assert_eq!(windows("+1 +3 -1"), [(0, 2, "")]);
    }

    #[test]
    fn a_call_that_ended_unseen_is_cut_where_the_thread_is_seen_above_it() {
        assert_eq!(windows("+5 +1 -1"), [(0, 1, "cut"), (1, 2, "")]);
        assert_eq!(windows("+5 -1 +5 -5"), [(0, 1, "cut"), (2, 3, "")]);
    }

    #[test]
    fn a_window_whose_return_may_be_lost_ends_with_the_next_one() {
        assert_eq!(windows("+1 ? +3 -3 +3 -3"), [(0, 3, "cut"), (4, 5, "")]);
        assert_eq!(windows("+1 ? -1 +1 -1"), [(0, 2, ""), (3, 4, "")]);
    }

    #[test]
    fn two_entries_at_one_place_of_the_stack_are_one_window_that_says_so() {
        // Its last act calls it again, and the kernel tells both returns at once.
        assert_eq!(windows("+1 +1 -1 -1"), [(0, 2, "again")]);
        // The first was left by a jump.
        assert_eq!(windows("+1 +1 -1 +1 -1"), [(0, 2, "again"), (3, 4, "")]);
        assert_eq!(windows("+2 +2 +1 -1"), [(0, 2, "cut, again"), (2, 3, "")]);
    }

    #[test]
    fn what_is_cut_is_marked_and_its_return_closes_nothing_more() {
        let mut calls = Calls::default();
        assert_eq!(calls.take(&mark(7, 0, true, 1)), None);
        let cut = Span { tid: 7, start_ns: 0, end_ns: 5, clamped: true, was_reentered: false };
        assert_eq!(calls.cut(&[thread(7), thread(8)], 5), [cut]);
        assert_eq!(calls.take(&mark(7, 6, false, 1)), None);
        assert!(calls.is_idle());
    }
}
