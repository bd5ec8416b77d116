//! What a test may need of the host, and how its absence is found.

use std::env;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

/// A property of the host that a test cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Effective uid 0.
    Root,
    /// `/dev/kvm` that can be opened for reading and writing.
    Kvm,
    /// A `firecracker` binary: `$FORKD_FIRECRACKER`, or one on `PATH`.
    Firecracker,
    /// Kernel type information, which every BPF program of ours reads at load.
    Btf,
    /// A KVM that runs any guest, not only one that keeps to what it emulates.
    OrdinaryGuests,
    /// The Linux guest that `guest/linux/build` makes: see [`linux_guest`].
    LinuxGuest,
    /// A loop device and `mkfs.ext4` to put a file system on it.
    LoopExt4,
    /// Writeback throttling on loop devices.
    WritebackThrottling,
    /// A loop device and `mkfs.xfs`.
    LoopXfs,
    /// A loop device and `mkfs.btrfs`.
    LoopBtrfs,
    /// The blkio controller of cgroup v1, which limits what a block device is given.
    DiskThrottle,
    /// `systemd-analyze`, which checks units without running systemd.
    SystemdAnalyze,
    /// What only the test itself can find out.
    Other(Finder),
}

/// Gives what is missing and how to get it, in one line; `None` where nothing is.
#[derive(Clone, Copy, Debug)]
pub struct Finder(pub fn() -> Option<String>);

impl PartialEq for Finder {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::fn_addr_eq(self.0, other.0)
    }
}

impl Eq for Finder {}

impl Need {
    /// `None` when the host has it, else what is missing and how to get it, in one line.
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Root => (!rustix::process::geteuid().is_root()).then(|| "needs root".to_owned()),
            Self::Kvm => OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/kvm")
                .err()
                .map(|error| format!("needs /dev/kvm ({error})")),
            Self::Firecracker => firecracker()
                .is_none()
                .then(|| "needs firecracker on PATH or in FORKD_FIRECRACKER (cargo xtask setup)".to_owned()),
            Self::Btf => (!Path::new("/sys/kernel/btf/vmlinux").exists())
                .then(|| "needs a kernel with BTF (/sys/kernel/btf/vmlinux)".to_owned()),
            Self::OrdinaryGuests => missing_hardware_virtualisation(),
            Self::LinuxGuest => missing_linux_guest(),
            Self::WritebackThrottling => missing_writeback_throttling(),
            Self::LoopExt4 => missing_loop("mkfs.ext4", "e2fsprogs"),
            Self::LoopXfs => missing_loop("mkfs.xfs", "xfsprogs"),
            Self::LoopBtrfs => missing_loop("mkfs.btrfs", "btrfs-progs"),
            Self::DiskThrottle => missing_disk_throttle(),
            Self::SystemdAnalyze => on_path("systemd-analyze")
                .is_none()
                .then(|| "needs systemd-analyze on PATH (apt-get install systemd)".to_owned()),
            Self::Other(Finder(find)) => find(),
        }
    }
}

/// The Firecracker binary that tests run: `$FORKD_FIRECRACKER`, else the first on `PATH`.
pub fn firecracker() -> Option<PathBuf> {
    match env::var_os("FORKD_FIRECRACKER") {
        Some(named) => Some(PathBuf::from(named)).filter(|path| path.is_file()),
        None => on_path("firecracker"),
    }
}

/// A `/dev/kvm` on a processor that shows neither VT-x nor AMD-V is no hardware's: such a KVM interprets what it
/// cannot run, and ordinary kernels come across something that it cannot interpret.
fn missing_hardware_virtualisation() -> Option<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    let has_it = flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
    (!has_it).then(|| {
        "needs a KVM that runs ordinary guests, and this processor shows neither vmx nor svm (/proc/cpuinfo)".to_owned()
    })
}

/// Kernel and initrd of the Linux guest that tests boot: `$FORKD_LINUX_KERNEL` and `$FORKD_LINUX_INITRD`, else
/// `target/linux-guest/vmlinux` and `initrd`.
pub fn linux_guest() -> (PathBuf, PathBuf) {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/linux-guest");
    let file =
        |variable: &str, name: &str| env::var_os(variable).map_or_else(|| built.join(name), PathBuf::from);
    (file("FORKD_LINUX_KERNEL", "vmlinux"), file("FORKD_LINUX_INITRD", "initrd"))
}

fn missing_linux_guest() -> Option<String> {
    let (kernel, initrd) = linux_guest();
    let missing = [kernel, initrd].into_iter().find(|path| !path.is_file())?;
    Some(format!("needs {} (guest/linux/build target/linux-guest)", missing.display()))
}

fn missing_loop(mkfs: &str, package: &str) -> Option<String> {
    if !Path::new("/dev/loop-control").exists() {
        return Some("needs loop devices (/dev/loop-control)".to_owned());
    }
    [mkfs, "losetup", "mount"]
        .into_iter()
        .find(|tool| on_path(tool).is_none())
        .map(|tool| format!("needs {tool} on PATH (apt-get install {package} util-linux mount)"))
}

fn missing_disk_throttle() -> Option<String> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let is_blkio = |line: &&str| {
        let fields: Vec<&str> = line.split(' ').collect();
        matches!(fields[..], [_, _, "cgroup", options, ..] if options.split(',').any(|option| option == "blkio"))
    };
    let group = mounts.lines().find(is_blkio).and_then(|line| line.split(' ').nth(1));
    let has_it = group.is_some_and(|group| Path::new(group).join("blkio.throttle.write_bps_device").exists());
    (!has_it).then(|| "needs the blkio controller of cgroup v1, with throttling".to_owned())
}

fn missing_writeback_throttling() -> Option<String> {
    const TARGET: &str = "/sys/block/loop0/queue/wbt_lat_usec";
    let target = fs::read_to_string(TARGET).unwrap_or_default();
    let is_on = target.trim().parse().is_ok_and(|microseconds: u64| microseconds > 0);
    (!is_on).then(|| format!("needs writeback throttling on loop devices ({TARGET} above 0)"))
}

/// The first file of that name in the folders of `PATH`, then in `/usr/sbin`.
pub fn on_path(program: &str) -> Option<PathBuf> {
    // sbin is not on every user's PATH, and mkfs.ext4 lives there.
    let mut folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    folders.push(PathBuf::from("/usr/sbin"));
    folders
        .into_iter()
        .map(|folder| folder.join(program))
        .find(|path| fs::metadata(path).is_ok_and(|metadata| metadata.is_file()))
}
