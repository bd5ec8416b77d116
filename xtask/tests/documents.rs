//! What the documents name exists: files and directories, tests, and the repository's own commands.

use std::fs;
use std::path::{Path, PathBuf};

const DOCUMENTS: [&str; 13] = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/API.md",
    "docs/ARCHITECTURE.md",
    "docs/BATTERY.md",
    "docs/CLI.md",
    "docs/GATE.md",
    "docs/GUESTS.md",
    "docs/PROBES.md",
    "docs/RUNBOOK.md",
    "docs/SANDBOXES.md",
    "docs/SWEEP.md",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(document: &str) -> String {
    fs::read_to_string(root().join(document)).unwrap_or_else(|error| panic!("{document}: {error}"))
}

/// Everything between single backticks.
fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Targets of Markdown links and pictures that lie in this repository.
fn local_links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).filter(|link| !link.contains("://"))
}

/// Whether a code span names a path of this repository: its first component is one of the top level.
fn names_a_path(span: &str) -> bool {
    let Some((first, _)) = span.split_once('/') else { return false };
    let is_path = span.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:".contains(c));
    // target/ is made by cargo.
    is_path && !first.is_empty() && first != "target" && root().join(first).is_dir()
}

#[test]
fn every_path_and_test_that_a_document_names_exists() {
    let mut missing = Vec::new();
    for document in DOCUMENTS {
        let text = read(document);
        for span in code_spans(&text).filter(|span| names_a_path(span)) {
            let (path, test) = span.split_once("::").unwrap_or((span, ""));
            let path = root().join(path);
            let has_test =
                || fs::read_to_string(&path).is_ok_and(|source| source.contains(&format!("fn {test}(")));
            if !path.exists() || !(test.is_empty() || has_test()) {
                missing.push(format!("{document}: {span}"));
            }
        }
    }
    assert!(missing.is_empty(), "named and not there:\n{}", missing.join("\n"));
}

#[test]
fn every_link_within_the_repository_leads_somewhere() {
    for document in DOCUMENTS {
        let folder = root().join(document).parent().map(Path::to_owned).unwrap_or_default();
        for link in local_links(&read(document)) {
            let file = link.split('#').next().unwrap_or_default();
            assert!(folder.join(file).exists(), "{document} links to {link}, which does not exist");
        }
    }
}

#[test]
fn the_readme_names_the_two_commands_on_its_first_screen() {
    let text = read("README.md");
    let first_screen: Vec<&str> = text.lines().take(24).collect();
    for needed in ["cargo xtask demo", "cargo xtask test", "](docs/img/sweep.png)"] {
        assert!(first_screen.iter().any(|line| line.contains(needed)), "not in the first 24 lines: {needed}");
    }
}
