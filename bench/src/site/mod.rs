//! A place to measure in: a fresh file system with a daemon of our own on it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use forkd::http_client::Endpoint;
use reports::run;

use crate::cell::Root;
use crate::host::facts;
use crate::work::Work;
use crate::{Error, api::Api};

pub mod daemon;
pub mod mount;

use daemon::Daemon;
use mount::Mounted;

/// The programs that a site runs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The daemon.
    pub forkd: PathBuf,
    /// The VMM.
    pub firecracker: PathBuf,
    /// Further arguments of `forkd serve`.
    pub serve_args: Vec<String>,
}

impl Programs {
    /// The same, with a daemon that accounts for one of `every` pauses, with `probe` as its forkd-probe.
    pub fn accounting(mut self, probe: &Path, every: u64) -> Self {
        let words =
            ["--attribution", "sampled", "--attribution-every", &every.to_string(), "--attribution-probe"];
        self.serve_args.extend(words.map(str::to_owned));
        self.serve_args.push(probe.to_string_lossy().into_owned());
        self
    }
}

/// A daemon to measure. Dropping it takes down what it stands on, daemon first.
pub struct Site {
    /// How to speak to it.
    pub api: Api,
    /// What its snapshots lie on; not known before the first snapshot where the daemon is not ours.
    pub facts: Option<run::Root>,
    daemon: Option<Daemon>,
    root: Option<Mounted>,
}

impl Site {
    /// Mounts a fresh `root` of `bytes` and starts a daemon on it.
    pub async fn build(work: &Work, programs: &Programs, root: Root, bytes: u64) -> Result<Self, Error> {
        let folder = work.site()?;
        let snapshots = folder.join("snapshots");
        let mounted = match root {
            Root::Ext4Loop => Mounted::ext4_loop(&folder.join("root.img"), &snapshots, bytes)?,
            Root::Tmpfs => Mounted::tmpfs(&snapshots, bytes)?,
            Root::Daemon => return Err(Error::Usage("the root 'daemon' needs --url".to_owned())),
        };
        let facts = facts::root(root.name(), &snapshots)?;
        let site = Self::on(work, programs, &folder, &snapshots).await?;
        Ok(Self { facts: Some(facts), root: Some(mounted), ..site })
    }

    /// Starts a daemon whose snapshots go to the folder `snapshots`, and its socket, log and history to `folder`.
    pub async fn on(
        work: &Work,
        programs: &Programs,
        folder: &Path,
        snapshots: &Path,
    ) -> Result<Self, Error> {
        let daemon = Daemon::start(work, programs, folder, snapshots)?;
        let api = Api::new(Endpoint::Unix(daemon.socket().to_owned()));
        daemon.wait_until_ready(&api).await?;
        Ok(Self { api, facts: None, daemon: Some(daemon), root: None })
    }

    /// The daemon that listens at `endpoint`, which is not ours to stop.
    pub async fn external(endpoint: Endpoint) -> Result<Self, Error> {
        let api = Api::new(endpoint);
        api.version().await?;
        Ok(Self { api, facts: None, daemon: None, root: None })
    }

    /// Process id of the daemon, where it is ours.
    pub fn daemon_pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::pid)
    }

    /// Where our daemon's snapshots are, where it is ours.
    pub fn snapshots(&self) -> Option<&Path> {
        self.root.as_ref().map(Mounted::point)
    }

    /// Firecracker's own socket of sandbox `id`, where the daemon is ours.
    pub fn firecracker_socket(&self, id: &str) -> Option<PathBuf> {
        self.daemon.as_ref().map(|daemon| daemon.run_dir().join(id).join("api.sock"))
    }

    /// What the snapshots lie on, where `snapshot` is one of them.
    pub fn root_facts(&mut self, root: Root, snapshot: &Path) -> Result<run::Root, Error> {
        if self.facts.is_none() {
            // The path is the daemon's, and may mean nothing on this host.
            let here = snapshot.is_dir();
            self.facts = Some(match here {
                true => facts::root(root.name(), snapshot)?,
                false => facts::unknown_root(root.name()),
            });
        }
        Ok(self.facts.clone().unwrap_or_else(|| facts::unknown_root(root.name())))
    }
}

/// Bytes that `branches` BRANCHes of a guest take, its base snapshot included and with room to spare: a full
/// file system would change what is measured.
pub fn bytes_needed(branches: u32, mem_mib: u32, dirty_pages: u64) -> u64 {
    const MIB: u64 = 1 << 20;
    let (branches, memory) = (u64::from(branches), u64::from(mem_mib) * MIB);
    let snapshots = (branches + 2) * memory + branches * (dirty_pages * 4096 + 8 * MIB);
    snapshots + snapshots / 8 + 256 * MIB
}

/// How long a daemon may take to answer once started.
const START_LIMIT: Duration = Duration::from_secs(10);
