//! The host that wrote a snapshot, and whether it can be restored on another.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::manifest::Manifest;
use crate::vmm::firecracker::Firecracker;
use crate::vmm::support::major_minor;

/// The processor that a guest saw: its state holds that processor's registers and feature bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cpu {
    /// `vendor_id` of `/proc/cpuinfo`.
    pub vendor: String,
    /// `cpu family`.
    pub family: u32,
    /// `model`.
    pub model: u32,
    /// `stepping`; another one is no other processor.
    pub stepping: u32,
    /// Digest of the names in `flags`, in alphabetical order.
    pub flags: Digest,
}

impl Cpu {
    /// The first processor that `/proc/cpuinfo` lists.
    pub fn of_this_host() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/cpuinfo")?;
        Self::parse(&text)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/cpuinfo is not as expected"))
    }

    pub(crate) fn parse(cpuinfo: &str) -> Option<Self> {
        let value = |name: &str| {
            cpuinfo.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key.trim() == name).then(|| value.trim())
            })
        };
        let number = |name: &str| value(name)?.parse().ok();
        let mut flags: Vec<&str> = value("flags")?.split_whitespace().collect();
        flags.sort_unstable();
        Some(Self {
            vendor: value("vendor_id")?.to_owned(),
            family: number("cpu family")?,
            model: number("model")?,
            stepping: number("stepping")?,
            flags: Digest::of(flags.join(" ").as_bytes()),
        })
    }
}

/// What a snapshot's restore depends on, on the host that takes it or that restores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Firecracker's version, as `major.minor.patch`.
    pub firecracker: String,
    /// The version of the format of device and CPU state (`firecracker --snapshot-version`), where it is known.
    pub snapshot_format: Option<String>,
    /// The processor, where it is known.
    pub cpu: Option<Cpu>,
}

impl Origin {
    /// What a microVM on this host and this Firecracker depends on.
    pub fn here(firecracker: &Firecracker) -> Self {
        let cpu = Cpu::of_this_host();
        if let Err(error) = &cpu {
            tracing::warn!(%error, "snapshots will not say which processor they were taken on");
        }
        Self {
            firecracker: firecracker.version.clone(),
            snapshot_format: firecracker.snapshot_format.clone(),
            cpu: cpu.ok(),
        }
    }

    /// What the snapshot of this manifest depends on.
    pub fn of(manifest: &Manifest) -> Self {
        Self {
            firecracker: manifest.firecracker.clone(),
            snapshot_format: manifest.snapshot_format.clone(),
            cpu: manifest.cpu.clone(),
        }
    }

    /// Why a snapshot of this origin is not restored `here`, in one line; `None` where it is.
    ///
    /// What one of the two does not know is not compared: a manifest without a processor says nothing about it.
    pub fn why_not_restored(&self, here: &Self) -> Option<String> {
        let mut reasons = Vec::new();
        let (there_version, here_version) = (major_minor(&self.firecracker), major_minor(&here.firecracker));
        if there_version != here_version || there_version.is_none() {
            reasons.push(format!(
                "it was written by Firecracker {}, and this is {}",
                self.firecracker, here.firecracker
            ));
        }
        if let (Some(there), Some(here)) = (&self.snapshot_format, &here.snapshot_format)
            && there != here
        {
            reasons.push(format!("its state has the format {there}, and this Firecracker's has {here}"));
        }
        if let (Some(there), Some(here)) = (&self.cpu, &here.cpu) {
            reasons.extend(other_cpu(there, here));
        }
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }
}

fn other_cpu(there: &Cpu, here: &Cpu) -> Option<String> {
    let model = |cpu: &Cpu| format!("{} family {} model {}", cpu.vendor, cpu.family, cpu.model);
    if model(there) != model(here) {
        return Some(format!("it was taken on a CPU {}, and this is {}", model(there), model(here)));
    }
    (there.flags != here.flags)
        .then(|| "it was taken on a CPU of this model with other feature flags (/proc/cpuinfo)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Cpu, Digest, Origin};

    const CPUINFO: &str = "\
processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 26
model\t\t: 2
model name\t: AMD EPYC
stepping\t: 1
flags\t\t: fpu vme de
bugs\t\t: spectre_v1

processor\t: 1
vendor_id\t: SomebodyElse
";

    fn here() -> Origin {
        Origin {
            firecracker: "1.12.1".to_owned(),
            snapshot_format: Some("6.0.0".to_owned()),
            cpu: Cpu::parse(CPUINFO),
        }
    }

    #[test]
    fn the_first_processor_is_read_and_the_order_of_its_flags_does_not_matter() {
        let cpu = Cpu::parse(CPUINFO).unwrap();
        assert_eq!((cpu.vendor.as_str(), cpu.family, cpu.model, cpu.stepping), ("AuthenticAMD", 26, 2, 1));
        assert_eq!(cpu.flags, Digest::of(b"de fpu vme"));
        assert_eq!(Cpu::parse(&CPUINFO.replace("fpu vme de", "vme de  fpu")), Some(cpu));
        assert_eq!(Cpu::parse("processor\t: 0\n"), None);
    }

    #[test]
    fn a_snapshot_is_restored_where_nothing_that_is_known_of_both_differs() {
        let cpu = |change: fn(&mut Cpu)| {
            let mut cpu = here().cpu.unwrap();
            change(&mut cpu);
            Origin { cpu: Some(cpu), ..here() }
        };
        let firecracker = |version: &str| Origin { firecracker: version.to_owned(), ..here() };
        let format = |version: &str| Origin { snapshot_format: Some(version.to_owned()), ..here() };
        for (there, expected) in [
            (here(), None),
            (firecracker("1.12.9"), None),
            (firecracker("1.11.1"), Some("it was written by Firecracker 1.11.1, and this is 1.12.1")),
            (firecracker("2.12.1"), Some("it was written by Firecracker 2.12.1, and this is 1.12.1")),
            (firecracker("?"), Some("it was written by Firecracker ?, and this is 1.12.1")),
            (format("5.0.0"), Some("its state has the format 5.0.0, and this Firecracker's has 6.0.0")),
            (Origin { snapshot_format: None, ..here() }, None),
            (Origin { cpu: None, ..here() }, None),
            (cpu(|cpu| cpu.stepping = 9), None),
            (
                cpu(|cpu| cpu.vendor = "GenuineIntel".to_owned()),
                Some(
                    "it was taken on a CPU GenuineIntel family 26 model 2, and this is AuthenticAMD family 26 model 2",
                ),
            ),
            (
                cpu(|cpu| cpu.model = 3),
                Some(
                    "it was taken on a CPU AuthenticAMD family 26 model 3, and this is AuthenticAMD family 26 model 2",
                ),
            ),
            (
                cpu(|cpu| cpu.flags = Digest::of(b"other")),
                Some("it was taken on a CPU of this model with other feature flags (/proc/cpuinfo)"),
            ),
        ] {
            assert_eq!(there.why_not_restored(&here()).as_deref(), expected, "{there:?}");
        }
        let both = Origin { snapshot_format: Some("5.0.0".to_owned()), ..firecracker("1.11.1") };
        assert_eq!(both.why_not_restored(&here()).unwrap().matches("; ").count(), 1);
    }
}
