//! The parts of the Rust toolchain that the checks call.

use super::Item;
use crate::{process, workspace};

/// rustfmt and clippy, of the toolchain that `rust-toolchain.toml` names.
pub fn survey() -> Vec<Item> {
    [("rustfmt", "fmt"), ("clippy", "clippy")]
        .map(|(component, subcommand)| item(component, subcommand))
        .into()
}

fn item(component: &str, subcommand: &str) -> Item {
    let version = process::output(workspace::cargo().args([subcommand, "--version"]));
    let found = version.map(|version| version.trim().to_owned()).map_err(|_| {
        format!(
            "this Rust toolchain has no {component}: in this directory, `rustup component add {component}`"
        )
    });
    Item { name: component.to_owned(), found }
}
