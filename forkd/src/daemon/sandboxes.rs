//! Operations on sandboxes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};

use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Config, Daemon, OperationError};
use crate::api::Happening;
use crate::branch::{blocking, user_pause};
use crate::clock;
use crate::sandbox::{Child, Sandbox, new_id};
use crate::snapshot::compose::check_drive;
use crate::snapshot::manifest::Manifest;
use crate::snapshot::origin::Origin;
use crate::snapshot::pace::Urgent;
use crate::snapshot::store::at;
use crate::snapshot::tag::Tag;
use crate::vmm::cgroup::Limits;
use crate::vmm::confine::Confinement;
use crate::vmm::netns::Netns;

/// Forks of one request that are started at the same time.
const FORKS_AT_ONCE: usize = 8;

/// How children are forked.
#[derive(Clone, Debug, Default)]
pub struct ForkOptions {
    /// The network namespace that they run in.
    pub netns: Option<String>,
    /// What each may use.
    pub limits: Limits,
    /// Whether a snapshot of another Firecracker or CPU is restored.
    pub force: bool,
}

impl Daemon {
    /// Forks `n` sandboxes from a snapshot: all of them, or none.
    #[tracing::instrument(name = "fork", skip_all, fields(%tag, n))]
    pub async fn fork(
        &self,
        tag: &Tag,
        n: u32,
        options: &ForkOptions,
    ) -> Result<Vec<Arc<Sandbox>>, OperationError> {
        let requested_ns = clock::monotonic_ns();
        let netns = options.netns.as_deref().map(Netns::open).transpose()?.map(Arc::new);
        // One look for all of them. Blocks this task's thread; the runtime moves other tasks to another one.
        let (snapshot, image) =
            tokio::task::block_in_place(|| self.images.snapshot_with_image(&self.store, tag))?;
        require_rootfs(&snapshot.manifest)?;
        tokio::task::block_in_place(|| check_drive(&self.store, &snapshot, &Urgent))?;
        self.require_origin(&snapshot.manifest, options.force)?;
        let fork_one = async |_| -> Result<Arc<Sandbox>, OperationError> {
            let Config { firecracker, run_dir, .. } = &self.config;
            let snapshot = snapshot.try_clone().map_err(at("open", &snapshot.dir))?;
            let image = image.try_clone().map_err(at("open", &snapshot.dir))?;
            let id = new_id();
            let drive = tokio::task::block_in_place(|| self.drives.create_for_child(&id, &snapshot))?;
            let cgroup = self.cgroups.create(&id, options.limits)?.map(Arc::new);
            let confinement = Confinement { netns: netns.clone(), cgroup };
            let runs_on = self.origin.clone();
            let child = Child { id, snapshot, image, drive, confinement, runs_on, requested_ns };
            Ok(Arc::new(Sandbox::fork(firecracker, run_dir, child).await?))
        };
        // A failure drops the sandboxes forked so far, which ends them.
        let forked: Vec<_> = stream::iter(0..n).map(fork_one).buffered(FORKS_AT_ONCE).try_collect().await?;
        // From here on they outlive this daemon.
        if let Some((id, source)) =
            forked.iter().find_map(|sandbox| Some((&sandbox.id, sandbox.settle().err()?)))
        {
            join_all(forked.iter().map(|sandbox| sandbox.kill())).await;
            return Err(OperationError::Record { id: id.clone(), source });
        }
        let mut sandboxes = self.lock_sandboxes();
        sandboxes.extend(forked.iter().map(|sandbox| (sandbox.id.clone(), Arc::clone(sandbox))));
        drop(sandboxes);
        forked.iter().for_each(|sandbox| self.tell_of(sandbox));
        Ok(forked)
    }

    /// Adds the sandboxes of an earlier daemon.
    pub(super) fn take_over(&self, adopted: Vec<Arc<Sandbox>>) {
        adopted.iter().for_each(|sandbox| self.tell_of_end(sandbox));
        self.lock_sandboxes().extend(adopted.into_iter().map(|sandbox| (sandbox.id.clone(), sandbox)));
    }

    /// Tells that a sandbox runs, and, when that time comes, that it does no more.
    fn tell_of(&self, sandbox: &Arc<Sandbox>) {
        let (id, snapshot_tag) = (sandbox.id.clone(), sandbox.origin.tag.clone());
        self.events.tell(Happening::SandboxStarted { sandbox: id, snapshot_tag, pid: sandbox.pid() });
        self.tell_of_end(sandbox);
    }

    fn tell_of_end(&self, sandbox: &Arc<Sandbox>) {
        let id = sandbox.id.clone();
        let (end, events, sandbox) = (sandbox.end(), Arc::clone(&self.events), Arc::downgrade(sandbox));
        tokio::spawn(async move {
            end.await;
            // One that was forgotten was killed before that.
            let alone = sandbox.upgrade().filter(|sandbox| !sandbox.was_killed());
            let why = alone.and_then(|sandbox| sandbox.obituary()).map(|obituary| obituary.to_string());
            let why = why.unwrap_or_else(|| "ended by request".to_owned());
            events.tell(Happening::SandboxEnded { sandbox: id, why });
        });
    }

    fn require_origin(&self, manifest: &Manifest, force: bool) -> Result<(), OperationError> {
        let tag = manifest.tag.clone();
        match Origin::of(manifest).why_not_restored(&self.origin) {
            None => Ok(()),
            Some(reason) if force => {
                tracing::warn!(tag, reason, "restored all the same, because it was forced");
                Ok(())
            }
            Some(reason) => Err(OperationError::OtherOrigin { tag, reason }),
        }
    }

    /// Every sandbox, dead ones included, in the order of their ids.
    pub fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        self.lock_sandboxes().values().cloned().collect()
    }

    /// The sandbox with that id.
    pub fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, OperationError> {
        self.lock_sandboxes().get(id).cloned().ok_or_else(|| OperationError::NoSandbox(id.to_owned()))
    }

    /// Pauses a sandbox's guest until its user resumes it; does nothing to one that is paused.
    pub async fn pause(&self, id: &str) -> Result<Arc<Sandbox>, OperationError> {
        let sandbox = self.sandbox(id)?;
        let (paused, events) = (Arc::clone(&sandbox), Arc::clone(&self.events));
        blocking(move || user_pause::pause(&paused, &events)).await?;
        Ok(sandbox)
    }

    /// Lets a paused sandbox's guest go on; does nothing to one that runs.
    pub async fn resume(&self, id: &str) -> Result<Arc<Sandbox>, OperationError> {
        let sandbox = self.sandbox(id)?;
        let (resumed, events) = (Arc::clone(&sandbox), Arc::clone(&self.events));
        blocking(move || user_pause::resume(&resumed, &events)).await?;
        Ok(sandbox)
    }

    /// Ends a sandbox and forgets it. A BRANCH of it under way fails.
    pub async fn end_sandbox(&self, id: &str) -> Result<(), OperationError> {
        let removed = self.lock_sandboxes().remove(id);
        removed.ok_or_else(|| OperationError::NoSandbox(id.to_owned()))?.kill().await;
        self.pauses.forget(id);
        Ok(())
    }

    /// Ends every sandbox.
    pub async fn end_all_sandboxes(&self) {
        let all = std::mem::take(&mut *self.lock_sandboxes());
        join_all(all.values().map(|sandbox| sandbox.kill())).await;
    }

    fn lock_sandboxes(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Sandbox>>> {
        // Nothing that holds the lock can leave the map half-changed.
        self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn require_rootfs(manifest: &Manifest) -> Result<(), OperationError> {
    match &manifest.rootfs {
        Some(path) if !Path::new(path).is_file() => {
            Err(OperationError::RootfsGone { tag: manifest.tag.clone(), path: path.clone() })
        }
        _ => Ok(()),
    }
}
