//! What a call of the futex family does: which words it waits on, or wakes.
//!
//! Numbers and flags are those of include/uapi/linux/futex.h and futex(2).

use probes_common::{WAITV_WORDS, number};

const PRIVATE: u64 = 128;
const CLOCK_REALTIME: u64 = 256;

/// What a call does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It may sleep.
    Wait(Waiting),
    /// It may end others' sleep.
    Wake(Waking),
}

/// A call that may sleep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The operation, less its flags.
    pub name: &'static str,
    /// The private flag.
    pub private: bool,
    /// The addresses; one but for `futex_waitv`, and none where its elements could not be read.
    pub words: Vec<u64>,
    /// The kernel keeps an owner in the word: to wait on it is to wait for a holder.
    pub lock: bool,
}

/// A call that may end others' sleep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waking {
    /// The operation, less its flags.
    pub name: &'static str,
    /// The addresses whose waiters it wakes.
    pub words: Vec<u64>,
    /// Waiters that it does not wake wait on this word from then on.
    pub requeues_to: Option<u64>,
    /// It wakes one waiter at most.
    pub single: bool,
}

/// Reads a call's arguments, and the words recorded with it; `None` where it neither waits nor wakes.
pub fn operation(number: u32, arguments: &[u64; 6], words: &[u64]) -> Option<Operation> {
    match number {
        number::FUTEX => futex(arguments),
        number::FUTEX_WAITV => Some(waitv(words)),
        number::FUTEX_WAIT => {
            Some(wait("futex_wait", arguments[3] & PRIVATE != 0, vec![arguments[0]], false))
        }
        number::FUTEX_WAKE => Some(wake("futex_wake", vec![arguments[0]], None, arguments[2] == 1)),
        _ => None,
    }
}

/// The words that a call waits on, or may go on to wait on.
pub fn waited_words(number: u32, arguments: &[u64; 6], words: &[u64]) -> Vec<u64> {
    match operation(number, arguments, words) {
        Some(Operation::Wait(waiting)) => waiting.words,
        _ => Vec::new(),
    }
}

fn futex(arguments: &[u64; 6]) -> Option<Operation> {
    let [word, operation, count, _, second, _] = *arguments;
    let operation = operation & 0xffff_ffff;
    let private = operation & PRIVATE != 0;
    let single = count as u32 == 1;
    let waits = |name, lock| Some(wait(name, private, vec![word], lock));
    match operation & !(PRIVATE | CLOCK_REALTIME) {
        0 => waits("FUTEX_WAIT", false),
        6 => waits("FUTEX_LOCK_PI", true),
        9 => waits("FUTEX_WAIT_BITSET", false),
        11 => waits("FUTEX_WAIT_REQUEUE_PI", false),
        13 => waits("FUTEX_LOCK_PI2", true),
        1 => Some(wake("FUTEX_WAKE", vec![word], None, single)),
        3 => Some(wake("FUTEX_REQUEUE", vec![word], Some(second), single)),
        4 => Some(wake("FUTEX_CMP_REQUEUE", vec![word], Some(second), single)),
        5 => Some(wake("FUTEX_WAKE_OP", vec![word, second], None, single)),
        7 => Some(wake("FUTEX_UNLOCK_PI", vec![word], None, true)),
        10 => Some(wake("FUTEX_WAKE_BITSET", vec![word], None, single)),
        12 => Some(wake("FUTEX_CMP_REQUEUE_PI", vec![word], Some(second), single)),
        // FUTEX_FD is gone, FUTEX_TRYLOCK_PI never sleeps, and the rest does not exist.
        _ => None,
    }
}

/// Elements are value, address and flags; the private flag is each element's own.
fn waitv(words: &[u64]) -> Operation {
    let elements = words.chunks_exact(WAITV_WORDS);
    let private = elements.clone().all(|element| element[2] & PRIVATE != 0);
    wait("futex_waitv", private, elements.map(|element| element[1]).collect(), false)
}

const fn wait(name: &'static str, private: bool, words: Vec<u64>, lock: bool) -> Operation {
    Operation::Wait(Waiting { name, private, words, lock })
}

const fn wake(name: &'static str, words: Vec<u64>, requeues_to: Option<u64>, single: bool) -> Operation {
    Operation::Wake(Waking { name, words, requeues_to, single })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORD: u64 = 0x7f10;
    const SECOND: u64 = 0x7f20;

    /// The name, `p`rivate, `l`ock, `1` for a single wake, and the words.
    fn check(number: u32, arguments: [u64; 6], words: &[u64], expected: &str) {
        let drawn = match operation(number, &arguments, words) {
            None => "-".to_owned(),
            Some(Operation::Wait(wait)) => {
                let private = if wait.private { " p" } else { "" };
                let lock = if wait.lock { " l" } else { "" };
                format!("{}{private}{lock} {:x?}", wait.name, wait.words)
            }
            Some(Operation::Wake(wake)) => {
                let single = if wake.single { " 1" } else { "" };
                let to = wake.requeues_to.map_or(String::new(), |to| format!(" to {to:x}"));
                format!("{}{single} {:x?}{to}", wake.name, wake.words)
            }
        };
        assert_eq!(drawn, expected, "{number} {arguments:?}");
    }

    #[test]
    fn every_operation_is_told_with_its_flags_masked() {
        let futex = |operation, expected| check(202, [WORD, operation, 1, 0, SECOND, 0], &[], expected);
        futex(0, "FUTEX_WAIT [7f10]");
        futex(128, "FUTEX_WAIT p [7f10]");
        futex(137, "FUTEX_WAIT_BITSET p [7f10]");
        futex(9 | 128 | 256, "FUTEX_WAIT_BITSET p [7f10]");
        futex(6, "FUTEX_LOCK_PI l [7f10]");
        futex(13 | 128, "FUTEX_LOCK_PI2 p l [7f10]");
        futex(11 | 128, "FUTEX_WAIT_REQUEUE_PI p [7f10]");
        futex(129, "FUTEX_WAKE 1 [7f10]");
        futex(4, "FUTEX_CMP_REQUEUE 1 [7f10] to 7f20");
        futex(5, "FUTEX_WAKE_OP 1 [7f10, 7f20]");
        futex(7, "FUTEX_UNLOCK_PI 1 [7f10]");
        futex(10, "FUTEX_WAKE_BITSET 1 [7f10]");
        futex(12, "FUTEX_CMP_REQUEUE_PI 1 [7f10] to 7f20");
        futex(8, "-");
        // Only 32 bits of the register are the operation: what is above them is anybody's.
        futex(0xdead_0000_0080, "FUTEX_WAIT p [7f10]");
        check(202, [WORD, 129, i32::MAX as u64, 0, 0, 0], &[], "FUTEX_WAKE [7f10]");
    }

    #[test]
    fn the_calls_that_came_after_futex_are_told_as_well() {
        check(455, [WORD, 1, u64::MAX, 128 | 2, 0, 1], &[], "futex_wait p [7f10]");
        check(454, [WORD, u64::MAX, 1, 2, 0, 0], &[], "futex_wake 1 [7f10]");
        check(449, [0x1000, 2, 0, 0, 0, 0], &[1, WORD, 130, 2, SECOND, 130], "futex_waitv p [7f10, 7f20]");
        check(449, [0x1000, 2, 0, 0, 0, 0], &[1, WORD, 130, 2, SECOND, 2], "futex_waitv [7f10, 7f20]");
        check(0, [WORD, 0, 0, 0, 0, 0], &[], "-");
    }
}
