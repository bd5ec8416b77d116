//! A snapshot root in memory, a daemon on it, and sandboxes to be BRANCHed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use forkd::api::{BranchRequest, Sandbox};

use super::host::slow_fs::SlowFs;
use super::scenario::{BranchOf, Place, Scene};
use crate::Error;
use crate::cell::FileSystem;
use crate::host::facts;
use crate::host::memory::touch_and_free;
use crate::site::mount::Mounted;
use crate::site::{Programs, Site};
use crate::trial::{Made, ask};
use crate::work::Work;

/// Room for snapshots and neighbours.
const BYTES: u64 = 3 << 30;
/// More than a BRANCH of any scenario allocates.
const SETTLED_BYTES: usize = 384 << 20;

/// One place with a daemon on it. Dropping it takes down the daemon first, then what it stands on.
pub struct Stage {
    /// The daemon.
    pub site: Site,
    /// What the snapshots lie on.
    pub place: Place,
    snapshots: PathBuf,
    neighbours: PathBuf,
    device: Option<String>,
    bases: BTreeSet<u32>,
    root: Root,
}

/// What is mounted, the innermost first: fields are dropped in their order.
struct Root {
    slow_fs: Option<SlowFs>,
    _mounted: Option<Mounted>,
    _below: Option<Mounted>,
}

impl Root {
    fn mount(place: Place, folder: &Path, point: &Path) -> Result<Self, Error> {
        let nothing = Self { slow_fs: None, _mounted: None, _below: None };
        Ok(match place {
            Place::Memory => Self { _mounted: Some(Mounted::tmpfs(point, BYTES)?), ..nothing },
            Place::Fuse => Self { slow_fs: Some(SlowFs::mount(point)?), ..nothing },
            Place::Ext4 | Place::Ext4Ordered => {
                let below = Mounted::tmpfs(&folder.join("memory"), BYTES)?;
                let image = below.point().join("disk.img");
                let options: &[&str] = if place == Place::Ext4Ordered { &["nodioread_nolock"] } else { &[] };
                let mounted = Mounted::on_loop(FileSystem::Ext4, options, &image, point, BYTES)?;
                Self { _mounted: Some(mounted), _below: Some(below), ..nothing }
            }
        })
    }
}

impl Stage {
    /// Sets one up, in the site's folder of `work`.
    pub async fn build(work: &Work, programs: &Programs, place: Place) -> Result<Self, Error> {
        let folder = work.site()?;
        let point = folder.join("disk");
        let root = Root::mount(place, &folder, &point)?;
        let [snapshots, neighbours] = ["snapshots", "neighbours"].map(|name| point.join(name));
        fs::create_dir(&neighbours).map_err(Error::file("create", &neighbours))?;
        let device = facts::root("battery", &point)?.device.map(|device| device.name);
        let site = Site::on(work, programs, &folder, &snapshots).await?;
        Ok(Self { site, place, snapshots, neighbours, device, bases: BTreeSet::new(), root })
    }

    /// Forks a sandbox of the guest that `of` asks for.
    pub async fn fork(&mut self, work: &Work, of: BranchOf, made: &mut Made) -> Result<Sandbox, Error> {
        let base = format!("base-{}", of.mem_mib);
        if self.bases.insert(of.mem_mib) {
            self.site.api.create_snapshot(&base, of.mem_mib).await?;
        }
        let sandbox = self.site.api.fork(&base).await?;
        work.record(sandbox.pid)?;
        made.add_sandbox(&sandbox.id);
        Ok(sandbox)
    }

    /// What an injection against the process `pid` may act on.
    pub fn scene(&self, pid: u32) -> Scene<'_> {
        Scene {
            pid,
            root: &self.snapshots,
            neighbours: self.neighbours.clone(),
            device: self.device.clone(),
            slow_fs: self.root.slow_fs.as_ref(),
        }
    }

    /// Has the guest dirty its first `count` pages that commands may touch.
    pub async fn dirty(&self, sandbox: &Sandbox, count: u64) -> Result<(), Error> {
        let pages = ask(&self.site.api, &sandbox.id, "pages").await?;
        let first = pages.split(' ').next().unwrap_or_default();
        ask(&self.site.api, &sandbox.id, &format!("dirty {first} {count} 1")).await.map(drop)
    }

    /// Right before a BRANCH: what it allocates is to cost what memory costs, and not what a hypervisor adds.
    pub fn settle_memory() {
        touch_and_free(SETTLED_BYTES);
    }

    /// The request for a BRANCH as `of` asks for it, to `tag`. Its answer does not wait for the disk.
    pub fn request(of: BranchOf, tag: &str) -> BranchRequest {
        BranchRequest {
            tag: Some(tag.to_owned()),
            mode: Some(of.mode),
            data_path: Some(of.data_path),
            durable: Some(false),
            ..BranchRequest::default()
        }
    }
}
