//! What is refused, with which status, in which words.

use std::process::Command;

use forkd::api::BranchRequest;
use forkd::http_client::CallError;
use hyper::Method;
use serde_json::{Value, json};
use testkit::{Outcome, Test};

use crate::host::{Host, NEEDS, Result, other_client};

pub const TESTS: &[Test] = &[
    Test { name: "bad_input::refusals_have_a_status_and_one_line", needs: NEEDS, run: refusals },
    Test { name: "bad_input::a_body_over_64_kib_is_413", needs: NEEDS, run: large_body },
    Test { name: "bad_input::a_taken_tag_is_409_for_all_but_one", needs: NEEDS, run: taken_tag },
    Test { name: "bad_input::serve_without_firecracker_exits_3", needs: &[], run: no_firecracker },
    Test { name: "bad_input::a_second_daemon_is_refused", needs: NEEDS, run: second_daemon },
    Test {
        name: "bad_input::snapshots_in_the_run_directory_are_refused",
        needs: NEEDS,
        run: root_in_run_dir,
    },
];

fn refusal(host: &Host, method: Method, path: &str, body: &Value) -> Result<(u16, String)> {
    match host.call::<Value>(method.clone(), path, Some(body)) {
        Err(CallError::Refused { status, message }) => Ok((status.as_u16(), message)),
        other => Err(format!("{method} {path} {body}: {other:?}").into()),
    }
}

fn refusals() -> Outcome {
    let host = Host::start()?;
    host.boot("base")?;
    let source = host.fork("base")?.id;
    let branch = format!("/v1/sandboxes/{source}/branch");
    let console = format!("/v1/sandboxes/{source}/console");
    let long = "a".repeat(65);
    let cases: Vec<(Method, &str, Value, u16, &str)> = vec![
        (Method::POST, "/v1/snapshots", json!({"tag": "../x"}), 400, "tag \"../x\" refused"),
        (Method::POST, "/v1/snapshots", json!({"tag": ""}), 400, "tag \"\" refused"),
        (Method::POST, "/v1/snapshots", json!({"tag": long}), 400, "1 to 64"),
        (Method::POST, "/v1/snapshots", json!({"tag": "base"}), 409, "the tag 'base' is taken"),
        (
            Method::POST,
            "/v1/snapshots",
            json!({"tag": "x", "mem_mib": 1}),
            400,
            "'mem_mib' must be 16 to 65536",
        ),
        (Method::POST, "/v1/snapshots", json!({"tag": "x", "vcpus": 33}), 400, "'vcpus' must be 1 to 32"),
        (Method::POST, "/v1/snapshots", json!({"tag": "x", "memory": 1}), 400, "unknown field `memory`"),
        (Method::POST, "/v1/snapshots", json!({"tag": "x", "initrd": "/i"}), 400, "'initrd' needs 'kernel'"),
        (Method::POST, "/v1/snapshots", json!({"tag": "x", "kernel": "/no/k"}), 400, "no file /no/k"),
        (Method::POST, "/v1/snapshots", json!({}), 400, "missing field `tag`"),
        (Method::DELETE, "/v1/snapshots/nope", json!({}), 404, "no snapshot has the tag 'nope'"),
        (Method::DELETE, "/v1/snapshots/%2e%2e", json!({}), 400, "refused"),
        (Method::POST, "/v1/sandboxes", json!({"snapshot_tag": "nope"}), 404, "'nope'"),
        (
            Method::POST,
            "/v1/sandboxes",
            json!({"snapshot_tag": "base", "n": 0}),
            400,
            "'n' must be 1 to 1000",
        ),
        (Method::POST, "/v1/sandboxes", json!({"snapshot_tag": "base", "n": 1001}), 400, "'n' must be"),
        (Method::GET, "/v1/sandboxes/sb-0", json!({}), 404, "no sandbox has the id 'sb-0'"),
        (Method::POST, "/v1/sandboxes/sb-0/branch", json!({}), 404, "'sb-0'"),
        (Method::POST, &branch, json!({"tag": "a.b"}), 400, "refused"),
        (Method::POST, &branch, json!({"tag": "base"}), 409, "taken"),
        (Method::POST, &branch, json!({"mode": "full", "diff": true}), 400, "both 'mode' and 'diff'"),
        (Method::POST, &branch, json!({"data_path": "magic"}), 400, "unknown variant `magic`"),
        (Method::POST, &branch, json!({"mdoe": "full"}), 400, "unknown field `mdoe`"),
        (Method::POST, &console, json!({"write": "", "timeout_ms": 60_001}), 400, "'timeout_ms' must be"),
        (Method::PUT, "/v1/snapshots", json!({}), 405, "does not take that method"),
        (Method::GET, "/v2", json!({}), 404, "no such path"),
    ];
    for (method, path, body, status, words) in cases {
        let (answered, message) = refusal(&host, method.clone(), path, &body)?;
        assert_eq!(answered, status, "{method} {path} {body}: {message}");
        assert!(message.contains(words), "{method} {path} {body}: {message}");
        assert!(!message.contains('\n'), "{message}");
    }
    // Nothing of that did anything.
    assert_eq!(host.snapshots()?.len(), 1);
    host.require_running(&source)?;
    Ok(())
}

fn large_body() -> Outcome {
    let host = Host::start()?;
    let body = json!({ "tag": "x", "boot_args": "y".repeat(70_000) });
    let (status, message) = refusal(&host, Method::POST, "/v1/snapshots", &body)?;
    assert_eq!(status, 413, "{message}");
    Ok(())
}

fn taken_tag() -> Outcome {
    let host = Host::start()?;
    host.boot("base")?;
    let sources = [host.fork("base")?.id, host.fork("base")?.id];
    let request = BranchRequest { tag: Some("same".into()), ..BranchRequest::default() };
    let ask = |id: &str| match other_client(
        host.socket(),
        Method::POST,
        &format!("/v1/sandboxes/{id}/branch"),
        &request,
    ) {
        Ok(answer) => answer.status.as_u16(),
        Err(_) => 0,
    };
    let mut statuses: Vec<u16> = std::thread::scope(|scope| {
        let asking: Vec<_> = sources.iter().map(|id| scope.spawn(move || ask(id))).collect();
        asking.into_iter().map(|thread| thread.join().unwrap_or(0)).collect()
    });
    statuses.sort();
    assert_eq!(statuses, [201, 409]);
    Ok(())
}

fn no_firecracker() -> Outcome {
    let output = Command::new(env!("CARGO_BIN_EXE_forkd"))
        .args(["serve", "--socket", "/nonexistent/sock"])
        .env("PATH", "/nonexistent")
        .env_remove("FORKD_FIRECRACKER")
        .output()?;
    let said = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("no firecracker on PATH"), "{said}");
    Ok(())
}

fn second_daemon() -> Outcome {
    let host = Host::start()?;
    let output = Command::new(env!("CARGO_BIN_EXE_forkd"))
        .args(["serve", "--socket", "/nonexistent/sock", "--run-dir", "/nonexistent/run", "--snapshot-root"])
        .arg(host.root())
        .env("FORKD_FIRECRACKER", testkit::firecracker().ok_or("no firecracker")?)
        .output()?;
    let said = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("is in use by another forkd"), "{said}");
    Ok(())
}

fn root_in_run_dir() -> Outcome {
    let dir = tempfile::tempdir()?;
    let output = Command::new(env!("CARGO_BIN_EXE_forkd"))
        .args(["serve", "--socket", "/nonexistent/sock", "--run-dir"])
        .arg(dir.path())
        .arg("--snapshot-root")
        .arg(dir.path().join("snapshots"))
        .env("FORKD_FIRECRACKER", testkit::firecracker().ok_or("no firecracker")?)
        .output()?;
    let said = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("lies in the run directory"), "{said}");
    Ok(())
}
