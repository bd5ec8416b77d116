//! The facts of the machine that a reader needs to compare two runs.

use std::env;
use std::fs;
use std::path::Path;

use reports::run::{Lab, Machine, Root};

use super::{device, mountinfo};
use crate::Error;

/// The host.
pub fn machine() -> Machine {
    let cpus: Vec<String> = values("/proc/cpuinfo", "processor");
    Machine {
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        cpu_model: values("/proc/cpuinfo", "model name").pop().unwrap_or_else(|| "unknown".to_owned()),
        cpus: cpus.len() as u32,
        mem_mib: meminfo_kib("MemTotal").unwrap_or(0) / 1024,
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        cpu_governor: line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        transparent_hugepage: line("/sys/kernel/mm/transparent_hugepage/enabled").as_deref().and_then(chosen),
        lab: lab(|name| env::var(name).ok()),
    }
}

/// What a machine of the lab is told of itself (`xtask/src/lab/session.rs`); `None` on any other.
fn lab(variable: impl Fn(&str) -> Option<String>) -> Option<Lab> {
    let number = |name: &str| variable(name)?.parse().ok();
    Some(Lab {
        kernel: variable("FORKD_LAB_KERNEL")?,
        disk_bps: number("FORKD_DISK_BPS"),
        disk_iops: number("FORKD_DISK_IOPS"),
    })
}

/// The word in brackets: `always [madvise] never` is how the kernel shows a choice.
fn chosen(words: &str) -> Option<String> {
    let (_, rest) = words.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// The file system below the folder `path`, which cells call `root`.
pub fn root(root: &str, path: &Path) -> Result<Root, Error> {
    let Some(mount) = mountinfo::of(path)? else {
        return Ok(unknown_root(root));
    };
    let below = mount.device_number().and_then(|number| device::by_number(&number));
    let image = below.as_ref().and_then(|below| device::loop_file(&below.name));
    let image_mount =
        image.as_deref().and_then(Path::parent).and_then(|folder| mountinfo::of(folder).ok()?);
    Ok(Root {
        root: root.to_owned(),
        file_system: mount.file_system,
        mount_options: mount.options,
        device: below,
        backing_device: image_mount.and_then(|mount| device::by_number(&mount.device)),
    })
}

/// A root of a daemon that runs on another host.
pub fn unknown_root(root: &str) -> Root {
    let unknown = || "unknown".to_owned();
    Root {
        root: root.to_owned(),
        file_system: unknown(),
        mount_options: unknown(),
        device: None,
        backing_device: None,
    }
}

/// A line of `/proc/meminfo`, in KiB.
pub fn meminfo_kib(name: &str) -> Option<u64> {
    values("/proc/meminfo", name).pop()?.strip_suffix(" kB")?.trim().parse().ok()
}

/// The one line of a file of the kernel, where it is there.
fn line(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Values of all lines `name: value` of a file in /proc.
fn values(path: &str, name: &str) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::{chosen, lab, machine, root};
    use reports::run::Lab;
    use std::path::Path;

    #[test]
    fn the_machine_has_a_kernel_a_processor_and_memory() {
        let machine = machine();
        assert!(!machine.kernel.is_empty() && machine.cpus > 0 && machine.mem_mib > 0, "{machine:?}");
    }

    #[test]
    fn a_choice_is_the_word_in_brackets() {
        assert_eq!(chosen("always [madvise] never").as_deref(), Some("madvise"));
        assert_eq!(chosen("none"), None);
    }

    #[test]
    fn a_machine_of_the_lab_knows_its_disk_and_any_other_is_none() {
        let told = |name: &str| match name {
            "FORKD_LAB_KERNEL" => Some("6.12".to_owned()),
            "FORKD_DISK_BPS" => Some("50000000".to_owned()),
            _ => None,
        };
        let expected = Lab { kernel: "6.12".to_owned(), disk_bps: Some(50_000_000), disk_iops: None };
        assert_eq!(lab(told), Some(expected));
        assert_eq!(lab(|name| told(name).filter(|_| name != "FORKD_LAB_KERNEL")), None);
    }

    #[test]
    fn a_root_names_its_file_system() {
        let proc = root("daemon", Path::new("/proc")).unwrap();
        assert_eq!((proc.root.as_str(), proc.file_system.as_str(), proc.device), ("daemon", "proc", None));
    }
}
