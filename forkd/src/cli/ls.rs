//! `forkd ls`

use anstyle::{AnsiColor, Style};
use clap::Args;
use forkd::api::{Sandbox, SandboxState};
use forkd::clock::unix_seconds;
use reports::units::{ago, bytes};

use super::Context;
use super::table::{Column, Keep, Table};

/// List sandboxes, newest first
#[derive(Args, Debug)]
pub struct Ls {
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
}

impl Ls {
    /// Lists them.
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut sandboxes = context.client.sandboxes().await?;
        sandboxes.sort_by(|a, b| (b.created_at_unix, &a.id).cmp(&(a.created_at_unix, &b.id)));
        let columns = context.out.columns();
        context.out.result(&sandboxes, || match self.quiet {
            true => ids(&sandboxes),
            false => text(&sandboxes, unix_seconds(), columns),
        })
    }
}

/// Their ids, one a line.
pub fn ids(sandboxes: &[Sandbox]) -> String {
    sandboxes.iter().map(|sandbox| format!("{}\n", sandbox.id)).collect()
}

fn text(sandboxes: &[Sandbox], now_unix: u64, columns: Option<usize>) -> String {
    let mut table = Table::new([
        Column::left("ID"),
        Column::elastic("SNAPSHOT", Keep::Start),
        Column::left("STATE"),
        Column::right("PID"),
        Column::right("MEMORY"),
        Column::right("BRANCHES"),
        Column::left("CREATED"),
    ]);
    for sandbox in sandboxes {
        let cells = [
            sandbox.id.clone(),
            sandbox.snapshot_tag.clone(),
            state_name(sandbox.state),
            sandbox.pid.to_string(),
            bytes(u64::from(sandbox.mem_mib) << 20),
            sandbox.branches.to_string(),
            ago(now_unix.saturating_sub(sandbox.created_at_unix)),
        ];
        table.row(cells, style(sandbox.state));
    }
    table.render(columns)
}

/// A state as the API spells it.
fn state_name(state: SandboxState) -> String {
    serde_json::to_value(state).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

fn style(state: SandboxState) -> Style {
    match state {
        SandboxState::StuckPaused => AnsiColor::Red.on_default().bold(),
        SandboxState::Paused => AnsiColor::Yellow.on_default(),
        SandboxState::Dead => Style::new().dimmed(),
        _ => Style::new(),
    }
}

#[cfg(test)]
mod tests {
    use forkd::api::{Sandbox, SandboxState};
    use unicode_width::UnicodeWidthStr;

    use super::text;

    fn sandbox(tag: &str, state: SandboxState) -> Sandbox {
        Sandbox {
            id: "sb-0123456789ab".to_owned(),
            snapshot_tag: tag.to_owned(),
            state,
            pid: 4711,
            created_at_unix: 1_000,
            mem_mib: 512,
            branches: 12,
            running_after_ns: 0,
            running_after_ms: 0.0,
            netns: None,
            memory_limit_mib: None,
            cpu_quota: None,
            dead_because: None,
        }
    }

    #[test]
    fn the_list_fits_80_columns_with_a_long_tag_and_the_longest_state() {
        let sandboxes = [
            sandbox("base", SandboxState::Running),
            sandbox("base", SandboxState::Paused),
            sandbox(&"t".repeat(64), SandboxState::StuckPaused),
        ];
        let shown = anstream::adapter::strip_str(&text(&sandboxes, 1_185, Some(80))).to_string();
        assert_eq!(
            shown,
            "ID               SNAPSHOT   STATE          PID   MEMORY  BRANCHES  CREATED\n\
             sb-0123456789ab  base       running       4711  512 MiB        12  3 minutes ago\n\
             sb-0123456789ab  base       paused        4711  512 MiB        12  3 minutes ago\n\
             sb-0123456789ab  tttttttt…  stuck-paused  4711  512 MiB        12  3 minutes ago\n"
        );
        assert!(shown.lines().all(|line| line.width() <= 80), "{shown}");
    }
}
