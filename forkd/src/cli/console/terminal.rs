//! The user's terminal, given back as it was found.

use std::io;

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcsetattr};

use super::QUIT;

/// A terminal with changed settings. Dropping it, which also a panic does, restores them.
#[derive(Debug)]
pub struct Terminal {
    found: Termios,
}

impl Terminal {
    /// Changes the terminal on standard input, where there is one: every key goes to the guest, which echoes.
    pub fn raw() -> io::Result<Option<Self>> {
        Self::change(Termios::make_raw)
    }

    /// The same, but the terminal echoes and edits, and only whole lines go to the guest. [`QUIT`] ends a line too.
    pub fn lines() -> io::Result<Option<Self>> {
        Self::change(|settings| {
            settings.local_modes |= LocalModes::ICANON | LocalModes::ECHO;
            settings.special_codes[SpecialCodeIndex::VEOL] = QUIT;
        })
    }

    fn change(change: impl FnOnce(&mut Termios)) -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !isatty(&stdin) {
            return Ok(None);
        }
        let found = tcgetattr(&stdin)?;
        let mut settings = found.clone();
        change(&mut settings);
        tcsetattr(&stdin, OptionalActions::Flush, &settings)?;
        Ok(Some(Self { found }))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that is gone has nothing to restore.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.found);
    }
}
