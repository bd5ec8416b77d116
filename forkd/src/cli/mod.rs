//! The commands of `forkd`, one a file, and what they share.

pub mod branch;
pub mod compact;
pub mod completions;
pub mod config;
pub mod console;
mod disk;
pub mod doctor;
pub mod exit;
mod failures;
mod find;
pub mod fork;
pub mod history;
pub mod images;
pub mod kill;
pub mod log;
pub mod ls;
pub mod man;
pub mod options;
mod output;
pub mod pack;
mod phases;
mod place;
pub mod rmi;
pub mod serve;
mod service;
pub mod snapshot;
mod table;
mod tree;
pub mod unpack;
pub mod user_pause;
pub mod watchdog;

use clap::Subcommand;
use forkd::client::Client;
use forkd::http_client::Endpoint;

use self::options::Options;
use self::output::Output;

/// Where snapshots are when nothing says otherwise.
const DEFAULT_SNAPSHOT_ROOT: &str = "/var/lib/forkd/snapshots";

/// The commands that speak to a daemon.
#[derive(Subcommand, Debug)]
pub enum ClientCommand {
    Images(images::Images),
    Rmi(rmi::Rmi),
    Snapshot(snapshot::Snapshot),
    Compact(compact::Compact),
    Ls(ls::Ls),
    Fork(fork::Fork),
    Kill(kill::Kill),
    Pause(user_pause::Pause),
    Resume(user_pause::Resume),
    Branch(branch::Branch),
    Console(console::Console),
    History(history::History),
}

/// The daemon that a command speaks to, and where it prints.
pub struct Context {
    client: Client,
    out: Output,
}

impl Context {
    /// A second client of the same daemon: calls of one wait for each other.
    fn another_client(&self) -> Client {
        Client::new(self.endpoint().clone())
    }

    fn endpoint(&self) -> &Endpoint {
        self.client.endpoint()
    }
}

impl ClientCommand {
    /// Does what the command says.
    pub fn run(self, options: &Options) -> anyhow::Result<()> {
        let client = Client::new(options.endpoint(|name| std::env::var_os(name))?);
        let context = Context { client, out: Output::new(options.json, options.color) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            match self {
                Self::Images(images) => images.run(&context).await,
                Self::Rmi(rmi) => rmi.run(&context).await,
                Self::Snapshot(snapshot) => snapshot.run(&context).await,
                Self::Compact(compact) => compact.run(&context).await,
                Self::Ls(ls) => ls.run(&context).await,
                Self::Fork(fork) => fork.run(&context).await,
                Self::Kill(kill) => kill.run(&context).await,
                Self::Pause(pause) => pause.run(&context).await,
                Self::Resume(resume) => resume.run(&context).await,
                Self::Branch(branch) => branch.run(&context).await,
                Self::Console(console) => console.run(&context).await,
                Self::History(history) => history.run(&context).await,
            }
        })
    }
}
