//! What blocks hold: entries, one behind the other.
//!
//! ```text
//! record   1  length u16  bytes as the kernel side wrote them; of a user stack without registers and stack
//! stack    2  process u32  signature u64  truncated u8  frames u16  (mapping u32, address u64) each
//! pass     3  begun u64  ended u64  CPUs u16  causes u16  (attempted u64, lost u64 for each cause) each
//! fact     4  length u32  JSON
//! ```
//!
//! Numbers are little-endian; `u32::MAX` as a mapping stands for none. What comes often has a form of its own, and
//! what comes seldom is JSON.

use probes_common::{CpuCounters, Loss};

use super::facts::Fact;
use crate::images::Place;
use crate::pipeline::Pass;
use crate::unwind::{MAX_DEPTH, UserFrames};

const RECORD: u8 = 1;
const STACK: u8 = 2;
const PASS: u8 = 3;
const FACT: u8 = 4;

/// One entry.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry<'a> {
    /// A record of the kernel side.
    Record(&'a [u8]),
    /// A user stack, unwound.
    Stack {
        /// The process.
        pid: u32,
        /// What records call it.
        signature: u64,
        /// The frames.
        frames: UserFrames,
    },
    /// The end of a pass.
    Pass(Pass),
    /// Anything else.
    Fact(Box<Fact>),
}

/// Appends a record.
pub fn put_record(to: &mut Vec<u8>, bytes: &[u8]) {
    // The kernel side writes no longer ones.
    let Ok(length) = u16::try_from(bytes.len()) else { return };
    to.push(RECORD);
    to.extend(length.to_le_bytes());
    to.extend(bytes);
}

/// Appends a user stack.
pub fn put_stack(to: &mut Vec<u8>, pid: u32, signature: u64, frames: &UserFrames) {
    to.push(STACK);
    to.extend(pid.to_le_bytes());
    to.extend(signature.to_le_bytes());
    to.push(u8::from(frames.truncated));
    let places = &frames.places[..frames.places.len().min(MAX_DEPTH)];
    to.extend((places.len() as u16).to_le_bytes());
    for place in places {
        to.extend(place.mapping.unwrap_or(u32::MAX).to_le_bytes());
        to.extend(place.address.to_le_bytes());
    }
}

/// Appends the end of a pass.
pub fn put_pass(to: &mut Vec<u8>, pass: &Pass) {
    to.push(PASS);
    to.extend(pass.begun_ns.to_le_bytes());
    to.extend(pass.ended_ns.to_le_bytes());
    to.extend((pass.counters.len() as u16).to_le_bytes());
    to.extend((Loss::ALL.len() as u16).to_le_bytes());
    for cpu in &pass.counters {
        to.extend(cpu.attempted.to_le_bytes());
        to.extend(cpu.lost.iter().flat_map(|count| count.to_le_bytes()));
    }
}

/// Appends anything else.
///
/// # Errors
/// Where it has no JSON.
pub fn put_fact(to: &mut Vec<u8>, fact: &Fact) -> serde_json::Result<()> {
    let text = serde_json::to_vec(fact)?;
    to.push(FACT);
    to.extend((text.len() as u32).to_le_bytes());
    to.extend(text);
    Ok(())
}

/// The entries of a block.
#[derive(Clone, Debug)]
pub struct Entries<'a>(pub &'a [u8]);

impl<'a> Entries<'a> {
    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn next_entry(&mut self) -> Result<Option<Entry<'a>>, &'static str> {
        let Some(tag) = self.take(1).map(|tag| tag[0]) else { return Ok(None) };
        let entry = match tag {
            RECORD => self.record(),
            STACK => self.stack(),
            PASS => self.pass(),
            FACT => return self.fact().map(Some),
            _ => return Err("an entry of a kind that does not exist"),
        };
        entry.map(Some).ok_or("an entry that is cut short")
    }

    fn record(&mut self) -> Option<Entry<'a>> {
        let length = self.u16()?;
        Some(Entry::Record(self.take(usize::from(length))?))
    }

    fn stack(&mut self) -> Option<Entry<'a>> {
        let (pid, signature) = (self.u32()?, self.u64()?);
        let truncated = self.take(1)?[0] != 0;
        let depth = usize::from(self.u16()?);
        if depth > MAX_DEPTH {
            return None;
        }
        let mut places = Vec::with_capacity(depth);
        for _ in 0..depth {
            let mapping = Some(self.u32()?).filter(|number| *number != u32::MAX);
            places.push(Place { mapping, address: self.u64()? });
        }
        Some(Entry::Stack { pid, signature, frames: UserFrames { places, truncated } })
    }

    fn pass(&mut self) -> Option<Entry<'a>> {
        let (begun_ns, ended_ns) = (self.u64()?, self.u64()?);
        let (cpus, causes) = (self.u16()?, usize::from(self.u16()?));
        let mut counters = Vec::new();
        for _ in 0..cpus {
            let mut cpu = CpuCounters { attempted: self.u64()?, ..CpuCounters::default() };
            for cause in 0..causes {
                let count = self.u64()?;
                // Causes that came later have no place; a file with such has a later version.
                if let Some(slot) = cpu.lost.get_mut(cause) {
                    *slot = count;
                }
            }
            counters.push(cpu);
        }
        Some(Entry::Pass(Pass { begun_ns, ended_ns, counters }))
    }

    fn fact(&mut self) -> Result<Entry<'a>, &'static str> {
        let text = self.u32().and_then(|length| self.take(length as usize));
        let text = text.ok_or("an entry that is cut short")?;
        serde_json::from_slice(text).map(Entry::Fact).map_err(|_| "a fact that cannot be read")
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().copied().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.first_chunk().copied().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.first_chunk().copied().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<Entry<'_>>, &'static str> {
        let mut entries = Entries(bytes);
        let mut all = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            all.push(entry);
        }
        Ok(all)
    }

    fn frames() -> impl Strategy<Value = UserFrames> {
        let place = (any::<Option<u16>>(), any::<u64>())
            .prop_map(|(mapping, address)| Place { mapping: mapping.map(u32::from), address });
        (prop::collection::vec(place, 0..MAX_DEPTH), any::<bool>())
            .prop_map(|(places, truncated)| UserFrames { places, truncated })
    }

    fn counters() -> impl Strategy<Value = Vec<CpuCounters>> {
        let one = any::<(u64, [u64; Loss::ALL.len()])>()
            .prop_map(|(attempted, lost)| CpuCounters { attempted, lost });
        prop::collection::vec(one, 0..8)
    }

    proptest! {
        #[test]
        fn what_is_put_comes_back(
            record in prop::collection::vec(any::<u8>(), 0..1200),
            ((pid, signature), frames) in (any::<(u32, u64)>(), frames()),
            ((begun_ns, ended_ns), counters) in (any::<(u64, u64)>(), counters()),
        ) {
            let (pass, homes) = (Pass { begun_ns, ended_ns, counters }, Fact::Homes(Vec::new()));
            let mut bytes = Vec::new();
            put_record(&mut bytes, &record);
            put_stack(&mut bytes, pid, signature, &frames);
            put_pass(&mut bytes, &pass);
            put_fact(&mut bytes, &homes).unwrap();
            let expected = vec![
                Entry::Record(&record),
                Entry::Stack { pid, signature, frames },
                Entry::Pass(pass),
                Entry::Fact(Box::new(homes)),
            ];
            prop_assert_eq!(all(&bytes), Ok(expected));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = all(&bytes);
        }
    }
}
