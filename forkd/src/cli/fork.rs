//! `forkd fork`

use clap::Args;
use forkd::api::CreateSandboxes;
use forkd::snapshot::tag::Tag;

use super::Context;
use super::exit::about_snapshot;
use super::ls::ids;

/// Fork sandboxes from a snapshot, and print their ids
#[derive(Args, Debug)]
pub struct Fork {
    /// Tag of the snapshot
    #[arg(value_name = "TAG")]
    tag: Tag,
    /// How many; all are forked, or none
    #[arg(short, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1000))]
    n: u32,
    /// Network namespace that they run in, as `ip netns` lists it
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
    /// Memory that each may use, guest memory included; beyond it the kernel kills it
    #[arg(long, value_name = "MIB")]
    memory_limit_mib: Option<u32>,
    /// CPU time that each may use, as a number of CPUs: 1.5 is one and a half
    #[arg(long, value_name = "CPUS")]
    cpu_quota: Option<f64>,
    /// Restore a snapshot of another Firecracker or CPU all the same: the guest may crash or compute wrongly
    #[arg(long)]
    force: bool,
}

impl Fork {
    /// Forks them.
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let request = CreateSandboxes {
            netns: self.netns,
            memory_limit_mib: self.memory_limit_mib,
            cpu_quota: self.cpu_quota,
            force: self.force,
            ..CreateSandboxes::new(self.tag.as_str(), self.n)
        };
        let sandboxes = context.client.fork(&request).await.map_err(about_snapshot(self.tag.as_str()))?;
        context.out.result(&sandboxes, || ids(&sandboxes))
    }
}
