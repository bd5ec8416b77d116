//! `forkd watchdog`: started by the daemon, for itself.

use std::os::fd::AsFd;

use anyhow::{Context, ensure};
use clap::Args;
use forkd::watchdog;
use rustix::net::{AddressFamily, getsockname};

/// Resume guests that the daemon at the other end of standard input cannot resume (started by `forkd serve`)
#[derive(Args, Debug)]
pub struct Watchdog {}

impl Watchdog {
    /// Watches until the daemon has ended and all guests run.
    pub fn run(self) -> anyhow::Result<()> {
        let stdin = std::io::stdin();
        let is_ours =
            getsockname(stdin.as_fd()).is_ok_and(|address| address.address_family() == AddressFamily::UNIX);
        ensure!(is_ours, "the watchdog is started by `forkd serve`, with a socket as its standard input");
        let socket = stdin.as_fd().try_clone_to_owned().context("cannot use standard input")?;
        rustix::io::ioctl_fionbio(&socket, true).context("cannot use standard input")?;
        // One thread is enough, and the least that can go wrong.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(watchdog::run(socket)).context("the watchdog failed")
    }
}
