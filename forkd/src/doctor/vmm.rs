//! What microVMs run on.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use super::Check;
use crate::vmm::firecracker::{Firecracker, HostError};
use crate::vmm::support::Support;

// include/uapi/linux/kvm.h: _IO(0xAE, 0x00) and _IO(0xAE, 0x01)
const KVM_GET_API_VERSION: libc::c_ulong = 0xAE00;
const KVM_CREATE_VM: libc::c_ulong = 0xAE01;
/// The only version since Linux 2.6.22 (Documentation/virt/kvm/api.rst).
const KVM_API_VERSION: libc::c_int = 12;

pub fn checks(firecracker: Option<&Path>) -> Vec<Check> {
    vec![kvm(), self::firecracker(firecracker)]
}

fn kvm() -> Check {
    const NAME: &str = "KVM";
    let device = match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(device) => device,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Check::missing(
                NAME,
                format!("/dev/kvm: {error}"),
                "usermod -aG kvm $USER, then log in again",
            );
        }
        Err(error) => {
            let mend = "modprobe kvm_intel || modprobe kvm_amd (in a VM: turn nested virtualisation on)";
            return Check::missing(NAME, format!("/dev/kvm: {error}"), mend);
        }
    };
    // SAFETY: the call takes no argument and touches no memory.
    let version = unsafe { libc::ioctl(device.as_raw_fd(), KVM_GET_API_VERSION, 0) };
    // SAFETY: the call takes an integer and touches no memory.
    let machine = unsafe { libc::ioctl(device.as_raw_fd(), KVM_CREATE_VM, 0) };
    if machine < 0 {
        let error = io::Error::last_os_error();
        return Check::missing(NAME, format!("a VM cannot be created: {error}"), "dmesg | grep -i kvm");
    }
    // SAFETY: the kernel has just given this descriptor to us and to nobody else. Dropping it ends the VM.
    drop(unsafe { OwnedFd::from_raw_fd(machine) });
    if version != KVM_API_VERSION {
        return Check::missing(NAME, format!("API version {version} instead of 12"), "boot a newer kernel");
    }
    Check::ok(NAME, "/dev/kvm opens, and a VM can be created")
}

fn firecracker(named: Option<&Path>) -> Check {
    const NAME: &str = "Firecracker";
    const MEND: &str = "cargo xtask setup, or name another with --firecracker";
    let Firecracker { path, version, .. } = match Firecracker::find(named) {
        Ok(found) => found,
        Err(error @ HostError::NoBinary) => {
            return Check::missing(NAME, error.to_string(), "cargo xtask setup");
        }
        Err(error) => return Check::missing(NAME, error.to_string(), MEND),
    };
    let support = Support::of(&version);
    let found = format!("{version}, {}: {}", support.name(), path.display());
    match support {
        Support::Tested => Check::ok(NAME, found),
        Support::Accepted => Check::warn(NAME, found, format!("use one of these: {}", Support::versions())),
        Support::Unsupported => {
            Check::missing(NAME, found, format!("use one of these: {}", Support::versions()))
        }
    }
}
