//! `forkd snapshot`

use clap::{Args, ValueEnum};
use forkd::api::{BranchRequest, CreateSnapshot, RootfsMode};
use forkd::snapshot::tag::Tag;
use reports::units::bytes;

use super::Context;
use super::branch::{Mode, take};

/// Boot a microVM, wait until it is ready, and snapshot it; or snapshot a sandbox
#[derive(Args, Debug)]
pub struct Snapshot {
    /// Name of the snapshot
    #[arg(value_name = "TAG")]
    tag: Tag,
    /// Snapshot this sandbox (a BRANCH) instead of booting one
    #[arg(long, value_name = "ID", conflicts_with_all = ["kernel", "vcpus", "mem_mib", "boot_wait_ms"])]
    from_sandbox: Option<String>,
    /// With --from-sandbox: write only the pages dirtied since its last BRANCH, or since the fork
    #[arg(long, requires = "from_sandbox")]
    diff: bool,
    /// Uncompressed kernel image on the daemon's host; the built-in guest when absent
    #[arg(long, value_name = "PATH")]
    kernel: Option<String>,
    /// Initial RAM disk
    #[arg(long, value_name = "PATH", requires = "kernel")]
    initrd: Option<String>,
    /// Root file system image
    #[arg(long, value_name = "PATH", requires = "kernel")]
    rootfs: Option<String>,
    /// What guests may do with it; read-only when absent
    #[arg(long, value_name = "MODE", requires = "rootfs")]
    rootfs_mode: Option<Rootfs>,
    /// Kernel command line
    #[arg(long, value_name = "TEXT", requires = "kernel", allow_hyphen_values = true)]
    boot_args: Option<String>,
    /// Virtual CPUs; 1 when absent
    #[arg(long, value_name = "N")]
    vcpus: Option<u8>,
    /// Guest memory; 128 when absent
    #[arg(long, value_name = "MIB")]
    mem_mib: Option<u32>,
    /// How long the guest may take to be ready
    #[arg(long, value_name = "MS")]
    boot_wait_ms: Option<u64>,
}

/// Who uses the root file system image.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Rootfs {
    /// All of them share it, and none can write to it
    ReadOnly,
    /// Each has a copy to write to, and each snapshot holds the copy of its guest
    PerSandbox,
}

impl From<Rootfs> for RootfsMode {
    fn from(mode: Rootfs) -> Self {
        match mode {
            Rootfs::ReadOnly => Self::ReadOnly,
            Rootfs::PerSandbox => Self::PerSandbox,
        }
    }
}

impl Snapshot {
    /// Takes the snapshot.
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let tag = self.tag.to_string();
        if let Some(id) = &self.from_sandbox {
            let mode = Mode { diff: self.diff, full: false }.requested();
            let request = BranchRequest { tag: Some(tag), mode, ..BranchRequest::default() };
            return take(context, id, &request).await;
        }
        let request = CreateSnapshot {
            tag,
            kernel: self.kernel,
            initrd: self.initrd,
            rootfs: self.rootfs,
            rootfs_mode: self.rootfs_mode.map(RootfsMode::from),
            boot_args: self.boot_args,
            vcpus: self.vcpus,
            mem_mib: self.mem_mib,
            boot_wait_ms: self.boot_wait_ms,
        };
        let snapshot = context.client.create_snapshot(&request).await?;
        context.out.result(&snapshot, || {
            let memory = bytes(u64::from(snapshot.mem_mib) << 20);
            format!("{}: {memory} of memory, {} on disk\n", snapshot.tag, bytes(snapshot.physical_bytes))
        })
    }
}
