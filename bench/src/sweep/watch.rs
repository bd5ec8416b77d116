//! Who looks on while a trial runs.

use forkd::api::{Branch, Sandbox};

use crate::Error;

/// Told what a trial does, as it does it.
pub trait Watch {
    /// The sandbox is ready, and the first BRANCH is about to begin.
    fn begin(&mut self, sandbox: &Sandbox) -> Result<(), Error>;

    /// A BRANCH is about to be asked for.
    fn asks(&mut self) {}

    /// A BRANCH is done.
    fn branch(&mut self, branch: &Branch);
}

/// Nobody.
impl Watch for () {
    fn begin(&mut self, _: &Sandbox) -> Result<(), Error> {
        Ok(())
    }

    fn branch(&mut self, _: &Branch) {}
}
