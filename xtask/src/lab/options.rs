//! What the commands of the lab have in common on their command lines.

use std::time::Duration;

use clap::ValueEnum;

/// The machine to boot.
#[derive(Clone, Debug, clap::Args)]
pub struct Hardware {
    /// Memory of the machine in MiB
    #[arg(long = "mem", value_name = "MIB", default_value_t = 3072, value_parser = clap::value_parser!(u32).range(256..))]
    pub mem_mib: u32,
    /// Processors of the machine; each that computes takes one of this host's [default: 2; with a QEMU before 8.1, on
    /// which a kernel that changes its own code may crash with more than one, 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub cpus: Option<u32>,
    /// Size of the data disk in MiB, which is mounted on /data
    #[arg(long = "disk-mib", value_name = "MIB", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(512..))]
    pub disk_mib: u32,
    /// Bytes a second that the data disk takes in writing
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub disk_bps: Option<u64>,
    /// Requests a second that the data disk takes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub disk_iops: Option<u64>,
    /// File system of the data disk
    #[arg(long, default_value = "ext4")]
    pub fs: FileSystem,
    /// Emulate a processor with AMD's virtualisation and load kvm-amd: Firecracker runs inside
    #[arg(long)]
    pub kvm_amd: bool,
    /// End the machine after that many seconds, its boot included
    #[arg(long = "timeout", value_name = "SECONDS", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout_s: u64,
}

/// A file system of the data disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FileSystem {
    /// Needs e2fsprogs on this host.
    Ext4,
    /// Needs xfsprogs on this host.
    Xfs,
    /// Needs btrfs-progs on this host.
    Btrfs,
}

/// As the command line has it where nothing is said.
impl Default for Hardware {
    fn default() -> Self {
        Self {
            mem_mib: 3072,
            cpus: None,
            disk_mib: 4096,
            disk_bps: None,
            disk_iops: None,
            fs: FileSystem::Ext4,
            kvm_amd: false,
            timeout_s: 1800,
        }
    }
}

impl Hardware {
    /// Until when the machine may run.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_s)
    }

    /// The speed of the data disk, as what follows in a `-drive` option.
    pub fn throttling(&self) -> String {
        let mut options = String::new();
        if let Some(bps) = self.disk_bps {
            options.push_str(&format!(",throttling.bps-write={bps}"));
        }
        if let Some(iops) = self.disk_iops {
            options.push_str(&format!(",throttling.iops-total={iops}"));
        }
        options
    }
}

impl FileSystem {
    /// Its name in `mount -t`, which is that of its module, too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::Hardware;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        hardware: Hardware,
    }

    #[test]
    fn a_machine_of_which_nothing_is_said_is_the_command_lines() {
        let line = Line::parse_from(["lab"]).hardware;
        assert_eq!(format!("{line:?}"), format!("{:?}", Hardware::default()));
    }
}
