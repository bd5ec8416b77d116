//! Inputs for parsers: seeds, and what becomes of them when they are damaged.
//!
//! The same inputs every time, so that a failure comes again.

/// A parser with inputs that it takes.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Feeds it any bytes; a panic is a finding.
    pub body: fn(&[u8]),
    /// Inputs that lead far into it.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Bytes that parsers stumble over.
const ODD: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'\n', b' ', b'-'];
/// Mutations of one seed lie on top of each other up to this many.
const DEPTH: u64 = 4;

/// Runs `target` on its seeds, on each cut of them, and on `count` damaged ones.
pub fn run(target: &Target, count: u32) {
    let seeds = (target.seeds)();
    (target.body)(&[]);
    for seed in &seeds {
        (target.body)(seed);
        let step = (seed.len() / 64).max(1);
        for cut in (0..seed.len()).step_by(step) {
            (target.body)(&seed[..cut]);
        }
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..count as usize {
        let mut bytes = seeds.get(round % seeds.len().max(1)).cloned().unwrap_or_default();
        for _ in 0..=random.below(DEPTH) {
            mutate(&mut bytes, &seeds, &mut random);
        }
        (target.body)(&bytes);
    }
}

fn mutate(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let length = bytes.len() as u64;
    let at = random.below(length.max(1)) as usize;
    match random.below(7) {
        0 if length > 0 => bytes[at] ^= 1 << random.below(8),
        1 if length > 0 => bytes[at] = ODD[random.below(ODD.len() as u64) as usize],
        2 => bytes.truncate(at),
        3 => {
            let end = (at + 8).min(bytes.len());
            bytes[at.min(end)..end].fill(ODD[random.below(5) as usize]);
        }
        4 => {
            let part = bytes[at.min(bytes.len())..].to_vec();
            bytes.extend(&part[..part.len().min(64)]);
        }
        5 if length > 0 => {
            bytes.remove(at);
        }
        _ => {
            let other = seeds.get(random.below(seeds.len().max(1) as u64) as usize);
            let from = other.map_or(&[][..], |other| &other[at.min(other.len())..]);
            bytes.truncate(at);
            bytes.extend(from);
        }
    }
}

/// Marsaglia's xorshift: all that is needed of it is that it does not repeat soon.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    static RUNS: AtomicU32 = AtomicU32::new(0);

    #[test]
    fn every_input_is_tried_and_a_panic_is_found() {
        let counts = Target {
            name: "counts",
            body: |_| {
                RUNS.fetch_add(1, Ordering::Relaxed);
            },
            seeds: one,
        };
        run(&counts, 100);
        // Nothing, the seed, three cuts of it, and the damaged ones.
        assert_eq!(RUNS.load(Ordering::Relaxed), 105);
        let breaks = Target { name: "breaks", body: |bytes| assert!(bytes.len() < 4), seeds: one };
        assert!(std::panic::catch_unwind(|| run(&breaks, 500)).is_err());
    }

    fn one() -> Vec<Vec<u8>> {
        vec![b"abc".to_vec()]
    }
}
