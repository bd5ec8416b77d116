//! `forkd pause` and `forkd resume`

use clap::Args;
use forkd::api::SandboxState;
use serde::Serialize;

use super::exit::about_sandbox;
use super::failures::Failures;
use super::{Context, find};

/// Pause the guests of sandboxes until they are resumed
#[derive(Args, Debug)]
pub struct Pause {
    #[command(flatten)]
    sandboxes: Sandboxes,
}

/// Let paused guests go on
#[derive(Args, Debug)]
pub struct Resume {
    #[command(flatten)]
    sandboxes: Sandboxes,
}

#[derive(Args, Debug)]
struct Sandboxes {
    /// Ids of the sandboxes, or begins of ids that fit one sandbox each
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

/// What the guests are to do.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    StandStill,
    Run,
}

/// What became of one sandbox.
#[derive(Debug, Serialize)]
struct Turned {
    id: String,
    /// Absent where it could not be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<SandboxState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Pause {
    /// Pauses one after another, goes on after a failure, and fails at the end where there was one.
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        self.sandboxes.turn(context, Wanted::StandStill).await
    }
}

impl Resume {
    /// Resumes one after another, goes on after a failure, and fails at the end where there was one.
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        self.sandboxes.turn(context, Wanted::Run).await
    }
}

impl Sandboxes {
    async fn turn(self, context: &Context, wanted: Wanted) -> anyhow::Result<()> {
        let mut all = Vec::new();
        let mut failures = Failures::default();
        for id in self.ids {
            match turn_one(context, &id, wanted).await {
                Ok((id, state)) => {
                    if !context.out.json {
                        context.out.print(&format!("{id}\n"))?;
                    }
                    all.push(Turned { id, state: Some(state), error: None });
                }
                Err(error) => {
                    let error = Some(failures.note(context, &id, error));
                    all.push(Turned { id, state: None, error });
                }
            }
        }
        if context.out.json {
            context.out.result(&all, String::new)?;
        }
        failures.conclude(context)
    }
}

async fn turn_one(context: &Context, id: &str, wanted: Wanted) -> anyhow::Result<(String, SandboxState)> {
    let id = find::sandbox(context, id).await?.id;
    let turned = match wanted {
        Wanted::StandStill => context.client.pause(&id).await,
        Wanted::Run => context.client.resume(&id).await,
    };
    let sandbox = turned.map_err(about_sandbox(&id))?;
    Ok((sandbox.id, sandbox.state))
}
