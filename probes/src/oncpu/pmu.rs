//! What a machine can sample by: the counters of each kind of core, or a clock.

use std::fs;
use std::path::Path;

use perf_event::Builder;
use perf_event::events::{Hardware, Software};

/// Where the kernel lists its event sources.
pub const DEVICES: &str = "/sys/bus/event_source/devices";
/// Where the type of the event source stands in `config` of a hardware event: since Linux 5.13 this tells the
/// kinds of cores of one machine apart (include/uapi/linux/perf_event.h, `PERF_PMU_TYPE_SHIFT`).
const TYPE_SHIFT: u32 = 32;

/// The counters of one kind of core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pmu {
    /// As sysfs names it: `cpu`, `cpu_core`, `cpu_atom`.
    pub name: String,
    /// Its number; `None` where there is but one kind of core, and no need to tell.
    pub kind: Option<u32>,
    /// The CPUs of this kind; `None` for all.
    pub cpus: Option<Vec<u32>>,
}

/// What one event counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// CPU cycles, by the counters of this kind of core.
    Cycles(Option<u32>),
    /// Time, by a software clock: blind where interrupts are off.
    Clock,
}

impl Source {
    /// An event of this source, to be completed.
    pub fn event(self) -> Builder<'static> {
        match self {
            Self::Cycles(kind) => {
                let mut event = Builder::new(Hardware::CPU_CYCLES);
                event.attrs_mut().config |= u64::from(kind.unwrap_or(0)) << TYPE_SHIFT;
                event
            }
            Self::Clock => Builder::new(Software::CPU_CLOCK),
        }
    }
}

/// The counters that `devices` lists: of each kind of core, in the order of their names.
///
/// A core's counters are called `cpu` where all cores are alike. Where they are not, each kind has a file
/// `cpus`; counters outside of cores have `cpumask` in its place.
pub fn core_pmus(devices: &Path) -> Vec<Pmu> {
    let entries = fs::read_dir(devices).into_iter().flatten();
    let mut pmus: Vec<Pmu> = entries.filter_map(|entry| pmu(&entry.ok()?.path())).collect();
    pmus.sort_by(|a, b| a.name.cmp(&b.name));
    pmus
}

fn pmu(folder: &Path) -> Option<Pmu> {
    let name = folder.file_name()?.to_str()?.to_owned();
    let file = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let cpus = file("cpus").and_then(|text| parse_cpus(&text));
    if name != "cpu" && cpus.is_none() {
        return None;
    }
    let kind = file("type")?.trim().parse().ok()?;
    Some(Pmu { name, kind: cpus.is_some().then_some(kind), cpus })
}

/// The most CPUs that Linux can be built for (`NR_CPUS` of arch/x86/Kconfig).
const MAX_CPUS: u32 = 8192;

/// A list of CPUs as the kernel writes it: `0-3,8`.
pub fn parse_cpus(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last >= MAX_CPUS {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn recorded(tree: &str) -> Vec<Pmu> {
        core_pmus(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/event_source").join(tree))
    }

    #[test]
    fn a_list_of_cpus_is_no_longer_than_a_machine_can_have() {
        assert_eq!(parse_cpus("0-2,8\n"), Some(vec![0, 1, 2, 8]));
        assert_eq!(parse_cpus("0-4294967295"), None);
        assert_eq!(parse_cpus("0-x"), None);
    }

    #[test]
    fn both_kinds_of_core_of_a_hybrid_machine_are_found() {
        let pmus = recorded("hybrid");
        let found: Vec<_> = pmus
            .iter()
            .map(|pmu| (pmu.name.as_str(), pmu.kind, pmu.cpus.as_ref().map_or(0, Vec::len)))
            .collect();
        assert_eq!(found, [("cpu_atom", Some(10), 8), ("cpu_core", Some(4), 16)]);
        assert_eq!(pmus[0].cpus.as_deref(), Some([16, 17, 18, 19, 20, 21, 22, 23].as_slice()));
    }

    #[test]
    fn alike_cores_have_one_set_of_counters_and_a_virtual_machine_none() {
        assert_eq!(recorded("plain"), [Pmu { name: "cpu".to_owned(), kind: None, cpus: None }]);
        assert_eq!(recorded("none"), []);
        assert_eq!(recorded("no such tree"), []);
    }

    #[test]
    fn each_kind_of_core_is_asked_for_by_its_number() {
        let asked = |source: Source| {
            let event = source.event();
            (event.attrs().type_, event.attrs().config)
        };
        // PERF_TYPE_HARDWARE is 0 and PERF_TYPE_SOFTWARE is 1; the first event of each is the one wanted.
        assert_eq!(asked(Source::Cycles(Some(10))), (0, 10 << 32));
        assert_eq!(asked(Source::Cycles(None)), (0, 0));
        assert_eq!(asked(Source::Clock), (1, 0));
    }

    #[test]
    fn lists_of_cpus_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_cpus("0-2,8\n"), Some(vec![0, 1, 2, 8]));
        assert_eq!(parse_cpus("3"), Some(vec![3]));
        assert_eq!(parse_cpus(""), Some(vec![]));
        assert_eq!(parse_cpus("0-x"), None);
    }
}
