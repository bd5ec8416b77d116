//! Looks to counts. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use reports::stacks::{Seen, Source, Thread};

use super::role::role;

/// One look at one thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Its process.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// When it was made, in clock ticks: with the id it names the thread.
    pub start_ticks: u64,
    /// Its name.
    pub comm: String,
    /// The letter of its state.
    pub state: char,
    /// The system call that it was in.
    pub call: Option<String>,
    /// Whole kernel frames, innermost first, where the kernel shows them.
    pub stack: Option<Vec<String>>,
    /// The function that it sleeps in, where the kernel shows that.
    pub wchan: Option<String>,
}

/// What was seen of one thread: state, call and frames.
type Sight = (char, Option<String>, Vec<String>);

/// Counts of looks.
#[derive(Debug, Default)]
pub struct Tally {
    threads: BTreeMap<(u32, u32, u64), Counts>,
    with_stack: bool,
    with_wchan: bool,
}

#[derive(Debug, Default)]
struct Counts {
    comm: String,
    looks: u64,
    sights: BTreeMap<Sight, u64>,
}

impl Tally {
    /// Counts one look.
    pub fn add(&mut self, look: Look) {
        let Look { pid, tid, start_ticks, comm, state, call, stack, wchan } = look;
        self.with_stack |= stack.is_some();
        self.with_wchan |= wchan.is_some();
        let frames = stack.unwrap_or_else(|| wchan.into_iter().collect());
        let counts = self.threads.entry((pid, tid, start_ticks)).or_default();
        counts.comm = comm;
        counts.looks += 1;
        *counts.sights.entry((state, call, frames)).or_default() += 1;
    }

    /// Where the frames came from.
    pub const fn source(&self) -> Source {
        match (self.with_stack, self.with_wchan) {
            (true, _) => Source::Stack,
            (false, true) => Source::Wchan,
            (false, false) => Source::Nothing,
        }
    }

    /// The report's threads: of each process its main thread first.
    pub fn threads(self, process_comm: impl Fn(u32) -> String) -> Vec<Thread> {
        let thread = |((pid, tid, _), counts): ((u32, u32, u64), Counts)| {
            let seen = |((state, call, kernel), looks): (Sight, u64)| Seen { looks, state, call, kernel };
            let mut seen: Vec<Seen> = counts.sights.into_iter().map(seen).collect();
            seen.sort_by(|a, b| (Reverse(a.looks), &a.kernel).cmp(&(Reverse(b.looks), &b.kernel)));
            let role = role(&process_comm(pid), &counts.comm);
            Thread { pid, tid, comm: counts.comm, role, looks: counts.looks, seen }
        };
        self.threads.into_iter().map(thread).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(tid: u32, start_ticks: u64, stack: Option<&str>) -> Look {
        Look {
            pid: 7,
            tid,
            start_ticks,
            comm: "fc_vcpu 0".to_owned(),
            state: 'S',
            call: Some("ioctl".to_owned()),
            stack: stack.map(|frame| vec![frame.to_owned()]),
            wchan: Some("kvm_vcpu_halt".to_owned()),
        }
    }

    #[test]
    fn equal_looks_are_counted_and_the_most_frequent_comes_first() {
        let mut tally = Tally::default();
        for stack in ["a", "b", "b"] {
            tally.add(look(8, 1, Some(stack)));
        }
        assert_eq!(tally.source(), Source::Stack);
        let threads = tally.threads(|_| "firecracker".to_owned());
        let seen: Vec<_> = threads[0].seen.iter().map(|seen| (seen.kernel[0].as_str(), seen.looks)).collect();
        assert_eq!(seen, [("b", 2), ("a", 1)]);
        assert_eq!((threads[0].role.as_str(), threads[0].looks), ("vCPU 0", 3));
    }

    #[test]
    fn a_reused_id_is_another_thread() {
        let mut tally = Tally::default();
        tally.add(look(8, 1, Some("a")));
        tally.add(look(8, 2, Some("a")));
        assert_eq!(tally.threads(|_| String::new()).len(), 2);
    }

    #[test]
    fn without_stacks_the_one_function_stands_in() {
        let mut tally = Tally::default();
        tally.add(look(8, 1, None));
        assert_eq!(tally.source(), Source::Wchan);
        assert_eq!(tally.threads(|_| String::new())[0].seen[0].kernel, ["kvm_vcpu_halt"]);
        assert_eq!(Tally::default().source(), Source::Nothing);
    }
}
