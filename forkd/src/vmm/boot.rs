//! What a microVM boots: the built-in guest, or a kernel that the user names.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::api::{CreateSnapshot, RootfsMode};

/// Given to a kernel whose user names no command line: serial console, and an end instead of a hang on panic.
const DEFAULT_BOOT_ARGS: &str = "console=ttyS0 reboot=k panic=1 pci=off";

/// What to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootSource {
    /// The guest embedded in this binary.
    BuiltIn,
    /// A kernel on the host.
    Kernel {
        /// The uncompressed kernel image.
        kernel: PathBuf,
        /// The initial RAM disk.
        initrd: Option<PathBuf>,
        /// The root file system image.
        rootfs: Option<PathBuf>,
        /// Whether the guest gets the image itself, or a copy to write to.
        rootfs_mode: RootfsMode,
        /// The kernel's command line.
        boot_args: String,
    },
}

/// When a booted guest counts as ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// When it prints this line, within this time.
    Line(&'static str, Duration),
    /// After this time, whatever it prints.
    Wait(Duration),
}

impl BootSource {
    /// Reads what to boot from a request, or says what is wrong with the request.
    pub fn from_request(request: &CreateSnapshot) -> Result<Self, String> {
        let Some(kernel) = &request.kernel else {
            let needs_kernel = [
                ("initrd", request.initrd.is_some()),
                ("rootfs", request.rootfs.is_some()),
                ("rootfs_mode", request.rootfs_mode.is_some()),
                ("boot_args", request.boot_args.is_some()),
            ];
            return match needs_kernel.into_iter().find(|(_, given)| *given) {
                Some((field, _)) => Err(format!("'{field}' needs 'kernel': the built-in guest takes none")),
                None => Ok(Self::BuiltIn),
            };
        };
        if request.rootfs_mode.is_some() && request.rootfs.is_none() {
            return Err("'rootfs_mode' needs 'rootfs': it says what guests may do with that image".to_owned());
        }
        Ok(Self::Kernel {
            kernel: host_file("kernel", kernel)?,
            initrd: request.initrd.as_deref().map(|path| host_file("initrd", path)).transpose()?,
            rootfs: request.rootfs.as_deref().map(|path| host_file("rootfs", path)).transpose()?,
            rootfs_mode: request.rootfs_mode.unwrap_or_default(),
            boot_args: request.boot_args.clone().unwrap_or_else(|| DEFAULT_BOOT_ARGS.to_owned()),
        })
    }

    /// When this guest counts as ready, given the request's `boot_wait_ms`.
    pub fn readiness(&self, boot_wait_ms: Option<u64>) -> Readiness {
        match self {
            Self::BuiltIn => {
                Readiness::Line(guest::READY_LINE, Duration::from_millis(boot_wait_ms.unwrap_or(10_000)))
            }
            Self::Kernel { .. } => Readiness::Wait(Duration::from_millis(boot_wait_ms.unwrap_or(2_000))),
        }
    }

    pub(super) fn initrd(&self) -> Option<&Path> {
        match self {
            Self::BuiltIn => None,
            Self::Kernel { initrd, .. } => initrd.as_deref(),
        }
    }

    /// The root file system image, with what guests may do with it.
    pub fn rootfs(&self) -> Option<(&Path, RootfsMode)> {
        match self {
            Self::BuiltIn => None,
            Self::Kernel { rootfs, rootfs_mode, .. } => rootfs.as_deref().map(|path| (path, *rootfs_mode)),
        }
    }

    /// The image that the guest and all its children read.
    pub fn shared_rootfs(&self) -> Option<&Path> {
        self.rootfs().and_then(|(path, mode)| (mode == RootfsMode::ReadOnly).then_some(path))
    }

    /// The image that the guest and each of its children get a copy of.
    pub fn copied_rootfs(&self) -> Option<&Path> {
        self.rootfs().and_then(|(path, mode)| (mode == RootfsMode::PerSandbox).then_some(path))
    }

    pub(super) fn boot_args(&self) -> Option<&str> {
        match self {
            Self::BuiltIn => None,
            Self::Kernel { boot_args, .. } => Some(boot_args),
        }
    }
}

fn host_file(field: &str, path: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    if !path.is_absolute() {
        return Err(format!(
            "'{field}' must be an absolute path on the daemon's host, and '{}' is not",
            path.display()
        ));
    }
    if !path.is_file() {
        return Err(format!("'{field}': there is no file {} on the daemon's host", path.display()));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::{BootSource, CreateSnapshot};

    #[test]
    fn without_a_kernel_the_built_in_guest_boots_and_takes_nothing_else() {
        assert_eq!(BootSource::from_request(&CreateSnapshot::default()), Ok(BootSource::BuiltIn));
        let request = CreateSnapshot { initrd: Some("/initrd".to_owned()), ..CreateSnapshot::default() };
        assert!(BootSource::from_request(&request).unwrap_err().contains("'initrd' needs 'kernel'"));
    }

    #[test]
    fn a_kernel_must_be_an_absolute_path_of_a_file() {
        for path in ["vmlinux", "/no/such/kernel", "/"] {
            let request = CreateSnapshot { kernel: Some(path.to_owned()), ..CreateSnapshot::default() };
            assert!(BootSource::from_request(&request).is_err(), "{path}");
        }
    }
}
