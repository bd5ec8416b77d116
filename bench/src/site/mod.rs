//! A place to measure in: a fresh file system with a daemon of our own on it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use forkd::http_client::Endpoint;
use reports::run;

use crate::cell::Root;
use crate::host::{facts, mountinfo};
use crate::neighbour::{self, Neighbour};
use crate::work::Work;
use crate::{Error, api::Api};

mod companion;
pub mod daemon;
pub mod mount;
pub mod throttle;

use companion::Companion;
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

/// A daemon to measure. Dropping it takes down what it stands on, the neighbour and the daemon first.
pub struct Site {
    /// How to speak to it.
    pub api: Api,
    /// What its snapshots lie on; not known before the first snapshot where the daemon is not ours.
    pub facts: Option<run::Root>,
    companion: Option<Companion>,
    daemon: Option<Daemon>,
    root: Option<Mounted>,
}

/// What a site stands on.
#[derive(Clone, Debug)]
pub struct Ground {
    /// What to make.
    pub root: Root,
    /// Its size, where it is made with one.
    pub bytes: u64,
    /// What a loop device is throttled to, in bytes a second each way.
    pub disk_bps: Option<u64>,
}

impl Ground {
    /// `bytes` of `root`, not throttled.
    pub fn of(root: Root, bytes: u64) -> Self {
        Self { root, bytes, disk_bps: None }
    }

    fn make(&self, work: &Work, folder: &Path) -> Result<Mounted, Error> {
        let point = folder.join("root");
        let mut mounted = match &self.root {
            Root::Loop(file_system) => {
                Mounted::on_loop(*file_system, &[], &folder.join("root.img"), &point, self.bytes)?
            }
            Root::Tmpfs => Mounted::tmpfs(&point, self.bytes)?,
            Root::Folder(parent) => Mounted::folder(parent)?,
            Root::Daemon => return Err(Error::Usage("the root 'daemon' needs --url".to_owned())),
        };
        if let Some(bps) = self.disk_bps {
            let device = mountinfo::of(mounted.point())?.and_then(|mount| mount.device_number());
            let number = device.ok_or_else(|| {
                Error::Missing(format!("no block device lies below {} to be throttled", self.root))
            })?;
            mounted.throttle(work, &number, bps)?;
        }
        Ok(mounted)
    }
}

impl Site {
    /// Makes fresh ground and starts a daemon on it.
    pub async fn build(work: &Work, programs: &Programs, ground: &Ground) -> Result<Self, Error> {
        let folder = work.site()?;
        let mounted = ground.make(work, &folder)?;
        let snapshots = mounted.point().join(SNAPSHOTS);
        std::fs::create_dir(&snapshots).map_err(Error::file("create", &snapshots))?;
        let facts = facts::root(ground.root.name(), &snapshots)?;
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
        Ok(Self { api, facts: None, companion: None, daemon: Some(daemon), root: None })
    }

    /// Lets `neighbour` work on the same file system, from now on.
    pub fn accompany(&mut self, work: &Work, neighbour: Neighbour) -> Result<(), Error> {
        if let Some(root) = &self.root {
            self.companion = Companion::start(work, neighbour, root.point())?;
        }
        Ok(())
    }

    /// Whether the neighbour, where there is one, still works.
    pub fn is_accompanied(&self) -> bool {
        self.companion.as_ref().is_none_or(Companion::works)
    }

    /// The daemon that listens at `endpoint`, which is not ours to stop.
    pub async fn external(endpoint: Endpoint) -> Result<Self, Error> {
        let api = Api::new(endpoint);
        api.version().await?;
        Ok(Self { api, facts: None, companion: None, daemon: None, root: None })
    }

    /// Process id of the daemon, where it is ours.
    pub fn daemon_pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::pid)
    }

    /// Where our daemon's snapshots are, where it is ours.
    pub fn snapshots(&self) -> Option<PathBuf> {
        self.root.as_ref().map(|root| root.point().join(SNAPSHOTS))
    }

    /// Folders on the file systems that it takes space of: what the snapshots lie on and, below an image, the
    /// disk that holds the image.
    pub fn places(&self) -> Vec<PathBuf> {
        let root = self.root.as_ref().map(|root| root.point().to_owned());
        let around = root.as_deref().and_then(Path::parent).map(Path::to_owned);
        root.into_iter().chain(around).collect()
    }

    /// Firecracker's own socket of sandbox `id`, where the daemon is ours.
    pub fn firecracker_socket(&self, id: &str) -> Option<PathBuf> {
        self.daemon.as_ref().map(|daemon| daemon.run_dir().join(id).join("api.sock"))
    }

    /// What the snapshots lie on, where `snapshot` is one of them.
    pub fn root_facts(&mut self, root: &Root, snapshot: &Path) -> Result<run::Root, Error> {
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
    let snapshots = snapshots + neighbour::FILE_BYTES;
    snapshots + snapshots / 8 + 256 * MIB
}

/// The daemon's folder on the ground, beside which a neighbour has its file.
const SNAPSHOTS: &str = "snapshots";

/// How long a daemon may take to answer once started.
const START_LIMIT: Duration = Duration::from_secs(10);
