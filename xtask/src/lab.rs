//! `cargo xtask lab`: real kernels in software emulation, with kprobes, exact disks and power cuts, on any machine.

mod archive;
mod cpio;
mod image;
mod kernels;
mod machine;
mod matrix;
mod modules;
mod options;
mod powercut;
mod programs;
mod run;
mod session;
mod test;

use std::process::ExitCode;

use anyhow::Result;

pub use kernels::KERNELS;
pub use matrix::{list_tests, outside};
pub use run::with_microvms as run_with_microvms;
pub use test::{Matrix, table_of};

/// Boot real Debian kernels in QEMU's software emulation and run our programs in them.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Run(run::RunArguments),
    Shell(run::ShellArguments),
    Test(test::Arguments),
    Powercut(powercut::Arguments),
}

/// The command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.command {
        Command::Run(arguments) => run::run(arguments),
        Command::Shell(arguments) => run::shell(arguments),
        Command::Test(arguments) => test::run(arguments),
        Command::Powercut(arguments) => powercut::run(arguments),
    }
}

/// A word as a shell takes it literally.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn a_quoted_word_is_one_word_whatever_it_holds() {
        assert_eq!(quote("a b"), "'a b'");
        assert_eq!(quote("it's $HOME"), r"'it'\''s $HOME'");
    }
}
