//! `forkd compact`

use clap::Args;
use forkd::snapshot::tag::Tag;
use reports::units::bytes;

use super::Context;
use super::exit::about_snapshot;

/// Turn a layer into an image of its own, which lies on nothing; layers on it stay as they are
#[derive(Args, Debug)]
pub struct Compact {
    /// Tag of the layer
    #[arg(value_name = "TAG")]
    tag: Tag,
}

impl Compact {
    /// Waits until the image is on disk.
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let compacted = context.client.compact(self.tag.as_str()).await;
        let detail = compacted.map_err(about_snapshot(self.tag.as_str()))?;
        context.out.result(&detail, || {
            let layers = match detail.dependents.as_slice() {
                [] => String::new(),
                dependents => format!(", under {}", dependents.join(", ")),
            };
            format!("{} is an image of {} on disk{layers}\n", detail.tag, bytes(detail.physical_bytes))
        })
    }
}
