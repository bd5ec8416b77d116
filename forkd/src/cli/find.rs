//! Sandboxes by the begin of their ids.

use forkd::api::Sandbox;

use super::Context;
use super::exit::{Exit, Failure, no_sandbox};

/// What every id begins with; it may be left out.
const PREFIX: &str = "sb-";

/// The sandbox whose id is `id` or, as the only one, begins with it.
pub async fn sandbox(context: &Context, id: &str) -> anyhow::Result<Sandbox> {
    Ok(unique(context.client.sandboxes().await?, id)?)
}

fn unique(sandboxes: Vec<Sandbox>, id: &str) -> Result<Sandbox, Failure> {
    let begin = if id.starts_with(PREFIX) { id.to_owned() } else { format!("{PREFIX}{id}") };
    let fits = |sandbox: &Sandbox| !id.is_empty() && sandbox.id.starts_with(&begin);
    let mut found: Vec<Sandbox> = sandboxes.into_iter().filter(fits).collect();
    if let Some(exact) = found.iter().position(|sandbox| sandbox.id == begin) {
        return Ok(found.swap_remove(exact));
    }
    match found.len() {
        0 => Err(no_sandbox(id)),
        1 => Ok(found.swap_remove(0)),
        n => {
            let some: Vec<&str> = found.iter().take(3).map(|sandbox| sandbox.id.as_str()).collect();
            let more = if n > some.len() { ", ..." } else { "" };
            let message =
                format!("'{id}' fits {n} sandboxes ({}{more}): write more of the id", some.join(", "));
            Err(Failure::new(Exit::Usage, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use forkd::api::{Sandbox, SandboxState};

    use super::unique;

    fn check(id: &str, expected: Result<&str, &str>) {
        let sandboxes = ["sb-12ab", "sb-12ac", "sb-12abcd", "sb-9f00"].map(|id| Sandbox {
            id: id.to_owned(),
            snapshot_tag: "base".to_owned(),
            state: SandboxState::Running,
            pid: 1,
            created_at_unix: 0,
            mem_mib: 32,
            branches: 0,
            running_after_ns: 0,
            running_after_ms: 0.0,
            netns: None,
            memory_limit_mib: None,
            cpu_quota: None,
            dead_because: None,
        });
        let found = unique(sandboxes.to_vec(), id).map(|sandbox| sandbox.id).map_err(|error| error.message);
        match expected {
            Ok(id) => assert_eq!(found.as_deref(), Ok(id)),
            Err(words) => assert!(found.as_ref().is_err_and(|said| said.contains(words)), "{found:?}"),
        }
    }

    #[test]
    fn an_id_may_be_cut_where_it_fits_one_sandbox_and_a_whole_one_is_no_prefix() {
        check("sb-9", Ok("sb-9f00"));
        check("9f", Ok("sb-9f00"));
        check("sb-12ab", Ok("sb-12ab"));
        check("12abc", Ok("sb-12abcd"));
        check("sb-12", Err("'sb-12' fits 3 sandboxes (sb-12ab, sb-12ac, sb-12abcd): write more"));
        check("sb-", Err("fits 4 sandboxes (sb-12ab, sb-12ac, sb-12abcd, ...)"));
        check("sb-77", Err("no sandbox has the id 'sb-77'"));
        check("", Err("no sandbox"));
    }
}
