//! The `forkd` command.
fn main() {}
