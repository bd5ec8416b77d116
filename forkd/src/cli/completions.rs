//! `forkd completions`

use clap::{Args, Command};
use clap_complete::{Shell, generate};

/// Print completions for a shell: `forkd completions bash > /etc/bash_completion.d/forkd`
#[derive(Args, Debug)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    /// Prints them.
    pub fn run(self, mut command: Command) -> anyhow::Result<()> {
        let mut script = Vec::new();
        generate(self.shell, &mut command, "forkd", &mut script);
        super::output::write_all(&script)
    }
}
