//! Every body of a fuzz target has its program in `fuzz/`, and the other way round: nothing here builds them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// By name, what each target calls: `Target { name: "NAME", body: BODY, ...` of the crates' lists.
fn bodies() -> BTreeMap<String, String> {
    let mut bodies = BTreeMap::new();
    for package in ["forkd", "probes"] {
        let source = read(&format!("{package}/src/fuzzing.rs"));
        for entry in source.split("Target { name: \"").skip(1) {
            let (name, rest) = entry.split_once("\", body: ").expect("a target has a body");
            let body = rest.split(',').next().unwrap_or_default();
            assert!(source.contains(&format!("pub fn {body}(bytes: &[u8])")), "{package}: {body}");
            let before = bodies.insert(name.to_owned(), format!("{package}::fuzzing::{body}"));
            assert_eq!(before, None, "two targets are called {name}");
        }
    }
    bodies
}

#[test]
fn every_body_has_a_target_and_every_target_a_body() {
    let bodies = bodies();
    assert!(bodies.len() > 15, "{bodies:?}");
    let manifest = read("fuzz/Cargo.toml");
    for (name, body) in &bodies {
        let program = read(&format!("fuzz/fuzz_targets/{name}.rs"));
        let call = format!("libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {body}(bytes));");
        assert!(program.contains(&call), "{name} does not call {body}:\n{program}");
        let entry = format!("[[bin]]\nname = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"\n");
        assert!(manifest.contains(&entry), "fuzz/Cargo.toml has no {name}");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), bodies.len(), "fuzz/Cargo.toml has more");
    let programs = fs::read_dir(root().join("fuzz/fuzz_targets")).expect("fuzz/fuzz_targets is there");
    assert_eq!(programs.count(), bodies.len(), "fuzz/fuzz_targets has more");
}
