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
}

impl Fork {
    /// Forks them.
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let request = CreateSandboxes::new(self.tag.as_str(), self.n);
        let sandboxes = context.client.fork(&request).await.map_err(about_snapshot(self.tag.as_str()))?;
        context.out.result(&sandboxes, || ids(&sandboxes))
    }
}
