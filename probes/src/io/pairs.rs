//! Calls that are told of by an entry and an exit in the same thread.

use std::collections::HashMap;

use crate::decode::ThreadId;

/// One call, as far as it lies in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paired<E, X> {
    /// What the entry said; `None` where the call had been entered before the window.
    pub entry: Option<E>,
    /// What the exit said; `None` where it was not over at the window's end.
    pub exit: Option<X>,
    /// When it was entered, or the window opened.
    pub start_ns: u64,
    /// When it was left, or the window closed.
    pub end_ns: u64,
}

/// Entries whose exit has not come.
#[derive(Debug)]
pub struct Pairs<E> {
    window_start_ns: u64,
    open: HashMap<ThreadId, (u64, E)>,
}

impl<E> Pairs<E> {
    /// For a window that opened at `window_start_ns`.
    pub fn new(window_start_ns: u64) -> Self {
        Self { window_start_ns, open: HashMap::new() }
    }

    /// A thread enters. An entry that is open already has lost its exit, and is forgotten.
    pub fn enter(&mut self, thread: ThreadId, time_ns: u64, entry: E) {
        self.open.insert(thread, (time_ns.max(self.window_start_ns), entry));
    }

    /// A thread leaves.
    pub fn exit<X>(&mut self, thread: ThreadId, time_ns: u64, exit: X) -> Paired<E, X> {
        let open = self.open.remove(&thread);
        let start_ns = open.as_ref().map_or(self.window_start_ns, |(start_ns, _)| *start_ns);
        let entry = open.map(|(_, entry)| entry);
        Paired { entry, exit: Some(exit), start_ns, end_ns: time_ns.max(start_ns) }
    }

    /// What is open at the end of the window, in the order of its entry.
    pub fn finish<X>(self, end_ns: u64) -> Vec<(ThreadId, Paired<E, X>)> {
        let paired = |(thread, (start_ns, entry))| {
            (thread, Paired { entry: Some(entry), exit: None, start_ns, end_ns: end_ns.max(start_ns) })
        };
        let mut open: Vec<_> = self.open.into_iter().map(paired).collect();
        open.sort_by_key(|(thread, paired)| (paired.start_ns, *thread));
        open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ThreadId = ThreadId { tid: 1, start_ns: 1 };
    const B: ThreadId = ThreadId { tid: 2, start_ns: 1 };

    //  window 100-200: A 110-150, B <100-140, A 160-
    #[test]
    fn calls_are_clamped_to_the_window_at_both_ends() {
        let mut pairs = Pairs::new(100);
        pairs.enter(A, 110, 7);
        let early = pairs.exit(B, 140, 0);
        assert_eq!(early, Paired { entry: None, exit: Some(0), start_ns: 100, end_ns: 140 });
        let whole = pairs.exit(A, 150, -5);
        assert_eq!(whole, Paired { entry: Some(7), exit: Some(-5), start_ns: 110, end_ns: 150 });
        pairs.enter(A, 160, 8);
        let open = pairs.finish::<i32>(200);
        assert_eq!(open, [(A, Paired { entry: Some(8), exit: None, start_ns: 160, end_ns: 200 })]);
    }
}
