//! `forkd branch`

use clap::Args;
use forkd::api::{BranchMode, BranchRequest, DataPath};
use forkd::snapshot::tag::Tag;

use super::exit::about_sandbox;
use super::{Context, find, phases};

/// BRANCH a sandbox: snapshot it under a tag and let it go on
#[derive(Args, Debug)]
pub struct Branch {
    /// Id of the sandbox, or its begin
    #[arg(value_name = "ID")]
    id: String,
    /// Name of the snapshot; a generated one when absent
    #[arg(long, value_name = "TAG")]
    tag: Option<Tag>,
    #[command(flatten)]
    mode: Mode,
    /// How the bytes get to disk: naive, fallocate, direct, uring or stage; the daemon's default when absent
    #[arg(long, value_name = "NAME")]
    data_path: Option<DataPath>,
    /// Come back when the guest runs again, while the snapshot still goes to disk
    #[arg(long)]
    no_wait: bool,
    /// Do not wait for the disk at all: a power cut may damage the snapshot
    #[arg(long)]
    not_durable: bool,
}

/// What Firecracker is to write.
#[derive(Args, Debug)]
pub struct Mode {
    /// Write only the pages dirtied since the last BRANCH, or since the fork
    #[arg(long)]
    pub diff: bool,
    /// Write all of the guest's memory (the default)
    #[arg(long, conflicts_with = "diff")]
    pub full: bool,
}

impl Mode {
    /// As the API has it; `None` leaves it to the daemon.
    pub fn requested(&self) -> Option<BranchMode> {
        match (self.diff, self.full) {
            (true, _) => Some(BranchMode::Diff),
            (_, true) => Some(BranchMode::Full),
            _ => None,
        }
    }
}

impl Branch {
    /// Takes the BRANCH.
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let request = BranchRequest {
            tag: self.tag.as_ref().map(Tag::to_string),
            mode: self.mode.requested(),
            data_path: self.data_path,
            durable: self.not_durable.then_some(false),
            wait: self.no_wait.then_some(false),
            ..BranchRequest::default()
        };
        take(context, &self.id, &request).await
    }
}

/// BRANCHes the sandbox whose id begins with `id`, and prints what came of it.
pub async fn take(context: &Context, id: &str, request: &BranchRequest) -> anyhow::Result<()> {
    let sandbox = find::sandbox(context, id).await?;
    let branch = context.client.branch(&sandbox.id, request).await.map_err(about_sandbox(&sandbox.id))?;
    context.out.result(&branch, || phases::text(&branch))
}
