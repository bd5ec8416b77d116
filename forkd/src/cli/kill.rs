//! `forkd kill`

use std::io::{IsTerminal, Write};

use clap::Args;
use serde::Serialize;

use super::Context;
use super::exit::{Exit, Failure, about_sandbox};
use super::failures::Failures;
use super::find;

/// End sandboxes
#[derive(Args, Debug)]
pub struct Kill {
    /// Ids of the sandboxes, or begins of ids that fit one sandbox each
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// End every sandbox; asks first on a terminal
    #[arg(long)]
    all: bool,
    /// Do not ask
    #[arg(short, long, requires = "all")]
    yes: bool,
}

/// What became of one sandbox.
#[derive(Debug, Serialize)]
struct Ended {
    id: String,
    ended: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Kill {
    /// Ends one after another, goes on after a failure, and fails at the end where there was one.
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let ids = match self.all {
            true => context.client.sandboxes().await?.into_iter().map(|sandbox| sandbox.id).collect(),
            false => self.ids,
        };
        if self.all && !self.yes && !ids.is_empty() {
            confirm(&format!("end {} sandboxes at {}?", ids.len(), context.endpoint()))?;
        }
        let mut all = Vec::new();
        let mut failures = Failures::default();
        for id in ids {
            match end(context, &id).await {
                Ok(id) => {
                    if !context.out.json {
                        context.out.print(&format!("{id}\n"))?;
                    }
                    all.push(Ended { id, ended: true, error: None });
                }
                Err(error) => {
                    let error = Some(failures.note(context, &id, error));
                    all.push(Ended { id, ended: false, error });
                }
            }
        }
        if context.out.json {
            context.out.result(&all, String::new)?;
        }
        failures.conclude(context)
    }
}

async fn end(context: &Context, id: &str) -> anyhow::Result<String> {
    let sandbox = find::sandbox(context, id).await?;
    context.client.delete_sandbox(&sandbox.id).await.map_err(about_sandbox(&sandbox.id))?;
    Ok(sandbox.id)
}

/// Asks on a terminal, and fails unless the answer begins with `y`. A script has said what it wants.
fn confirm(question: &str) -> anyhow::Result<()> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Ok(());
    }
    let mut stderr = std::io::stderr();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    stdin.read_line(&mut answer)?;
    match answer.trim_start().starts_with(['y', 'Y']) {
        true => Ok(()),
        false => Err(Failure::new(Exit::Failed, "not confirmed: nothing was ended").into()),
    }
}
