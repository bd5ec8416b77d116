//! What `setup` cannot install: properties of the host, and how one gets them.

use std::path::Path;
use std::process::Command;

use testkit::Need;

/// What running microVMs and tracing them takes, besides installed files.
pub const NEEDS: [Need; 4] = [Need::Root, Need::Kvm, Need::LoopExt4, Need::Btf];

/// The need's name in a report.
pub fn name(need: Need) -> &'static str {
    match need {
        Need::Root => "root",
        Need::Kvm => "/dev/kvm",
        Need::Firecracker => "firecracker",
        Need::Btf => "kernel BTF",
        Need::LoopExt4 | Need::LoopXfs | Need::LoopBtrfs => "loop devices",
        Need::DiskThrottle => "disk throttling",
        Need::OrdinaryGuests => "a KVM of the hardware",
        Need::LinuxGuest => "the Linux guest",
        Need::SystemdAnalyze => "systemd-analyze",
        Need::WritebackThrottling => "writeback throttling",
        Need::Other(_) => "what one test needs",
    }
}

/// `None` when the host has it, else what is missing and how to get it, in one line.
pub fn missing(need: Need) -> Option<String> {
    let what = need.missing().or_else(|| (need == Need::LoopExt4).then(no_free_loop_device).flatten())?;
    Some(format!("{what}: {}", remedy(need)))
}

/// Whether the tests on real microVMs can run at all: there nothing may be skipped.
pub fn runs_microvms() -> bool {
    [Need::Root, Need::Kvm].into_iter().all(|need| need.missing().is_none())
}

fn remedy(need: Need) -> &'static str {
    match need {
        Need::Root => "run the command as root",
        Need::Kvm if Path::new("/dev/kvm").exists() => "run the command as root, or as a member of its group",
        Need::Kvm => {
            "on bare metal `modprobe kvm_intel` or `modprobe kvm_amd`, in a virtual machine turn nested \
             virtualisation on, in a container pass `--device /dev/kvm`"
        }
        Need::Firecracker => "run `cargo xtask setup`",
        Need::Btf => "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y, as Debian's are",
        Need::LoopExt4 | Need::LoopXfs | Need::LoopBtrfs => {
            "`modprobe loop`, free one with `losetup --detach`, in a container use `--privileged`"
        }
        Need::WritebackThrottling => "boot a kernel built with CONFIG_BLK_WBT_MQ=y, as Debian's are",
        Need::DiskThrottle => "mount the blkio controller of cgroup v1, where cgroup v2 does not have it",
        Need::OrdinaryGuests => {
            "use bare metal with VT-x or AMD-V turned on in its firmware, or turn nested virtualisation on"
        }
        Need::LinuxGuest => "run `guest/linux/build target/linux-guest`",
        Need::SystemdAnalyze => "run `apt-get install systemd`",
        Need::Other(_) => "see the test",
    }
}

fn no_free_loop_device() -> Option<String> {
    // Only root may ask, and others are told that they are not root.
    Need::Root.missing().is_none().then_some(())?;
    let asked = Command::new("losetup").arg("--find").output();
    let said = match asked {
        Ok(output) if output.status.success() => return None,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    Some(format!("needs a free loop device ({said})"))
}
