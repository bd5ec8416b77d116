//! The steps of one BRANCH, and what they have found out so far.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};

use probes_common::BranchPhase;

use super::boot::copy_drive;
use super::destination::Destination;
use super::pause::{FIRST_STUCK_WAIT, PauseError, keep_resuming, with_guest_left_paused, with_guest_paused};
use super::phases::PhaseLog;
use super::written::{Measured, Written};
use super::{BranchError, Copied, GuestState, Lower, Place, Plan, staging_bytes_of};
use crate::api::{Branch, BranchMode, DataPath, Happening, SnapshotStatus};
use crate::clock;
use crate::events::Events;
use crate::sandbox::{DiffBase, Sandbox};
use crate::snapshot::copy::{Method, pack};
use crate::snapshot::digest::Digest;
use crate::snapshot::drives::{Drive, DriveCopy, describe};
use crate::snapshot::manifest::{Manifest, Memory, Parent, SCHEMA};
use crate::snapshot::staging::Staging;
use crate::snapshot::store::{StoreError, at};
use crate::vmm::control::{Control, Request};

/// One BRANCH under way.
pub(super) struct Work<'a> {
    place: Place<'a>,
    sandbox: &'a Arc<Sandbox>,
    plan: &'a Plan,
    /// What Firecracker writes, which may be more than was asked for.
    pub mode: BranchMode,
    pub log: PhaseLog,
    pub measured: Measured,
    warnings: Vec<String>,
    fell_back_to_disk: bool,
    drive_copy: Option<DriveCopy>,
}

impl<'a> Work<'a> {
    pub fn new(place: Place<'a>, sandbox: &'a Arc<Sandbox>, plan: &'a Plan) -> Self {
        let measured = Measured { extents: Vec::new(), physical_bytes: 0, staged_bytes: 0 };
        let (log, warnings) = (PhaseLog::default(), Vec::new());
        let mode = plan.mode;
        Self {
            place,
            sandbox,
            plan,
            mode,
            log,
            measured,
            warnings,
            fell_back_to_disk: false,
            drive_copy: None,
        }
    }

    /// How bytes are moved on this data path.
    pub fn method(&self) -> Method {
        match self.plan.data_path {
            DataPath::Naive | DataPath::Fallocate | DataPath::Stage => Method::Kernel,
            DataPath::Direct => Method::Direct,
            DataPath::Uring => Method::Uring,
        }
    }

    /// Finds what a diff can be laid on; where there is nothing, the BRANCH is full.
    pub fn choose_mode_and_base(&mut self, base: Option<&DiffBase>) -> Result<Lower, BranchError> {
        if self.mode == BranchMode::Full {
            return Ok(Lower::Nothing);
        }
        if !self.place.store.tells_data_from_holes {
            return Ok(self
                .full_instead("the file system of the snapshot root does not say which pages were written"));
        }
        let Some(base) = base else {
            return Ok(
                self.full_instead("a BRANCH before this one failed, and the record of dirty pages with it")
            );
        };
        if self.plan.data_path != DataPath::Stage
            && let Some(image) = &base.image
        {
            let image = image.try_clone().map_err(|source| BranchError::Image { what: "open", source })?;
            return Ok(Lower::Image(image));
        }
        let (pin, parent) = match self.place.store.pin(&base.tag) {
            Ok((pin, parent)) => (pin, parent.manifest),
            Err(StoreError::NotFound(tag)) => {
                return Ok(self.full_instead(&format!("its parent '{tag}' was deleted")));
            }
            Err(error) => return Err(error.into()),
        };
        if parent.identity != base.identity {
            return Ok(
                self.full_instead(&format!("its parent '{}' was replaced by another snapshot", base.tag))
            );
        }
        if self.plan.data_path == DataPath::Stage {
            // A durable parent lies on durable ones only: this is where that is seen to.
            if self.plan.durable && !parent.durable {
                return Ok(self
                    .full_instead("a snapshot that it would lie on is not durable, and this one is to be"));
            }
            let parent = Parent { tag: base.tag.to_string(), identity: base.identity };
            return Ok(Lower::Parent { parent, _pin: pin });
        }
        let Place { images, store, .. } = self.place;
        let (_, image) = images.snapshot_with_image(store, &base.tag)?;
        Ok(Lower::Image(image.file))
    }

    fn full_instead(&mut self, reason: &str) -> Lower {
        self.warn(&format!("full instead of diff: {reason}"));
        self.mode = BranchMode::Full;
        Lower::Nothing
    }

    fn warn(&mut self, warning: &str) {
        tracing::warn!(sandbox = self.sandbox.id, "{warning}");
        self.warnings.push(warning.to_owned());
    }

    /// In memory where the data path asks for it and memory can be reserved, else on disk.
    pub fn choose_where_firecracker_writes(&mut self, staging: &Staging) -> Written {
        if !self.plan.data_path.stages_in_memory() {
            return Written::on_disk(staging, self.mode);
        }
        let memory_bytes = self.sandbox.origin.memory_bytes();
        let guess = match self.mode {
            BranchMode::Full => Vec::new(),
            BranchMode::Diff => self.sandbox.last_diff().guess(memory_bytes),
        };
        let in_memory = self.place.staging_memory.reserve(staging_bytes_of(&self.sandbox.origin)).and_then(
            |reservation| {
                Written::in_memory(memory_bytes, &guess, reservation).map_err(|error| error.to_string())
            },
        );
        in_memory.unwrap_or_else(|reason| {
            self.fell_back_to_disk = true;
            self.warn(&format!("written to disk instead of memory: {reason}"));
            Written::on_disk(staging, self.mode)
        })
    }

    /// The memory image to be filled; `None` for a layer, and where Firecracker itself creates the image.
    pub fn create_destination(
        &mut self,
        staging: &Staging,
        written: &Written,
    ) -> Result<Option<Destination>, BranchError> {
        let data_path = self.plan.data_path;
        let is_layer = self.mode == BranchMode::Diff && data_path == DataPath::Stage;
        let firecracker_creates_it = self.mode == BranchMode::Full && !written.is_in_memory();
        if is_layer || (firecracker_creates_it && data_path != DataPath::Fallocate) {
            return Ok(None);
        }
        let path = staging.memory_path();
        let bytes = self.sandbox.origin.memory_bytes();
        let destination = Destination::create(&path, bytes, data_path).map_err(at("create", &path))?;
        if let Some(reason) = &destination.not_preallocated {
            self.warn(reason);
        }
        Ok((!firecracker_creates_it).then_some(destination))
    }

    pub fn snapshot_paused(
        &mut self,
        guest: GuestState,
        control: &mut Control,
        (written, drive_path): (&Written, &Path),
    ) -> Result<(), BranchError> {
        let sandbox = self.sandbox;
        let create = Request::create_snapshot(self.mode, &written.vmstate_path, &written.memory_path);
        let write = |control: &mut Control| {
            control.call(&create)?;
            copy_drive(sandbox.drive.as_ref(), drive_path)
        };
        sandbox.set_branching(true);
        let armed = self.place.attribution.arm(&self.plan.id, sandbox.pid());
        let outcome = match guest {
            GuestState::Running => {
                let watched = self.place.watchdog.watch(sandbox.identity(), sandbox.api_socket());
                with_guest_paused(control, &watched, &mut self.log, write)
            }
            GuestState::PausedByUser => with_guest_left_paused(control, &mut self.log, write),
        };
        armed.disarm(self.log.pause_window());
        sandbox.set_branching(false);
        if let Err(error @ PauseError::StuckPaused(_)) = &outcome
            && sandbox.obituary().is_none()
        {
            tracing::error!(sandbox = sandbox.id, %error, "STUCK PAUSED");
            free_when_resumed(sandbox, error, self.place.events);
        }
        match (outcome, sandbox.obituary()) {
            (Ok(drive_copy), _) => {
                self.drive_copy = drive_copy;
                self.warn_of_copied_drive();
                Ok(())
            }
            (Err(_), Some(source)) => Err(BranchError::Dead { id: sandbox.id.clone(), source }),
            (Err(error), None) => Err(error.into()),
        }
    }

    fn warn_of_copied_drive(&mut self) {
        if let Some(DriveCopy { ns, shares_blocks: false }) = self.drive_copy {
            self.warn(&format!(
                "the drive was copied inside the pause, in {:.1} ms: the file system of the snapshot root cannot \
                 share blocks (xfs and btrfs can)",
                to_ms(ns)
            ));
        }
    }

    /// Has the drive written back as far as it is before the pause, in which Firecracker, or a file system that
    /// shares its blocks, would wait for that.
    pub fn write_back_drive(&mut self) {
        if let Some(Err(error)) = self.sandbox.drive.as_ref().map(Drive::write_back) {
            self.warn(&format!("the drive could not be written back before the pause: {error}"));
        }
    }

    pub fn finish_copy(&mut self, copying: JoinHandle<Copied>) -> Result<(), BranchError> {
        let image = |source| BranchError::Image { what: "copy", source };
        let copied = copying.join().map_err(|_panic| image(io::Error::other("the copy panicked")))?;
        self.log.record(BranchPhase::Copy, copied.start_ns, copied.end_ns);
        copied.result.map(drop).map_err(image)
    }

    /// Brings what Firecracker wrote to where it belongs: over the copied image, into a new image, or into a layer.
    pub fn merge(
        &mut self,
        staging: &Staging,
        written: &Written,
        destination: Option<Destination>,
    ) -> Result<(), BranchError> {
        let image = |source| BranchError::Image { what: "merge", source };
        let layer = (self.mode == BranchMode::Diff && destination.is_none()).then(|| staging.layer_path());
        if destination.is_none() && layer.is_none() {
            // Firecracker has written the image where it belongs.
            return Ok(());
        }
        let memory = written.memory().map_err(image)?;
        let (method, extents) = (self.method(), &self.measured.extents);
        let merge = || match (destination, layer) {
            (Some(destination), _) => destination.overlay(method, &memory).map(drop),
            (None, Some(path)) => {
                let layer = File::options().read(true).write(true).create_new(true).open(path)?;
                pack(&memory, extents, &layer).map(drop)
            }
            (None, None) => Ok(()),
        };
        self.log.time(BranchPhase::Merge, merge).map_err(image)
    }

    /// Publishes the snapshot: what the next diff builds on. `written` is held until the snapshot is durable.
    pub fn publish(
        &mut self,
        staging: Staging,
        written: Written,
        lower: &Lower,
    ) -> Result<DiffBase, BranchError> {
        let parent = match lower {
            Lower::Parent { parent, .. } => Some(parent.clone()),
            Lower::Nothing | Lower::Image(_) => None,
        };
        let extents = self.measured.extents.clone();
        let described = self.description();
        let publish = || {
            let vmstate_path = staging.vmstate_path();
            written.write_vmstate(&staging).map_err(at("write", &vmstate_path))?;
            let vmstate = Digest::of_file(&vmstate_path).map_err(at("read", &vmstate_path))?;
            let path = if parent.is_some() { staging.layer_path() } else { staging.memory_path() };
            let digest = Digest::of_file(&path).map_err(at("read", &path))?;
            // Kept open for a next diff that copies it; a layer is of no use for that.
            let image = parent.is_none().then(|| File::open(&path)).transpose().map_err(at("open", &path))?;
            let memory = match parent {
                Some(parent) => Memory::Layer { parent, extents, digest },
                None => Memory::Image { digest },
            };
            let drive = describe(&staging.drive_path())?;
            let identity = Manifest::identity_of(vmstate, &memory, drive.as_ref());
            let manifest = Manifest { identity, vmstate, memory, drive, ..described };
            staging.publish(&manifest)?;
            Ok::<_, StoreError>((identity, image))
        };
        let (identity, image) = self.log.time(BranchPhase::Publish, publish)?;
        Ok(DiffBase { tag: self.plan.tag.clone(), identity, image })
    }

    /// The manifest without what only the files can tell.
    fn description(&self) -> Manifest {
        let (origin, here) = (&self.sandbox.origin, &self.sandbox.runs_on);
        let created_at_unix_ms = clock::unix_ms();
        Manifest {
            schema: SCHEMA.to_owned(),
            tag: self.plan.tag.to_string(),
            created_at_unix: created_at_unix_ms / 1000,
            created_at_unix_ms: Some(created_at_unix_ms),
            branched_from: Some(self.sandbox.id.clone()),
            mode: self.mode,
            data_path: self.plan.data_path,
            durable: self.plan.durable,
            firecracker: here.firecracker.clone(),
            snapshot_format: here.snapshot_format.clone(),
            cpu: here.cpu.clone(),
            ..origin.clone()
        }
    }

    pub fn report(&self, status: SnapshotStatus) -> Branch {
        let pause_ns = self.log.pause_ns();
        Branch {
            id: self.plan.id.clone(),
            tag: self.plan.tag.to_string(),
            branched_from: self.sandbox.id.clone(),
            mode: self.mode,
            data_path: self.plan.data_path,
            pause_ns,
            pause_ms: to_ms(pause_ns),
            diff_ms: to_ms(self.log.ns(BranchPhase::Create)),
            diff_physical_bytes: self.measured.physical_bytes,
            staged_bytes: self.measured.staged_bytes,
            fell_back_to_disk: self.fell_back_to_disk,
            drive_copy_ns: self.drive_copy.map_or(0, |copy| copy.ns),
            status,
            phases: self.log.spans(),
            warnings: self.warnings.clone(),
        }
    }
}

/// Marks the sandbox as stuck, and goes on trying to resume its guest for as long as its Firecracker lives. Tells
/// of both: that it is stuck because of `error`, and that it runs again.
pub(crate) fn free_when_resumed(sandbox: &Arc<Sandbox>, error: &dyn fmt::Display, events: &Arc<Events>) {
    sandbox.set_stuck_paused(true);
    let (id, events) = (sandbox.id.clone(), Arc::clone(events));
    events.tell(Happening::GuestStuckPaused { sandbox: id.clone(), error: error.to_string() });
    let (mut control, stuck) = (sandbox.control(), Arc::downgrade(sandbox));
    let is_alive = {
        let stuck = Weak::clone(&stuck);
        move || stuck.upgrade().is_some_and(|sandbox| sandbox.obituary().is_none())
    };
    let free = move || {
        if keep_resuming(&mut control, FIRST_STUCK_WAIT, is_alive)
            && let Some(sandbox) = stuck.upgrade()
        {
            sandbox.set_stuck_paused(false);
            if let Err(error) = sandbox.record(|record| record.branching = false) {
                tracing::warn!(sandbox = sandbox.id, %error, "cannot write down that a guest runs again");
            }
            tracing::warn!(sandbox = id, "a guest that was stuck paused runs again");
            events.tell(Happening::GuestRunsAgain { sandbox: id });
        }
    };
    if let Err(error) = thread::Builder::new().name("forkd-resume".to_owned()).spawn(free) {
        tracing::error!(sandbox = sandbox.id, %error, "nobody goes on trying to resume it: end the sandbox");
    }
}

fn to_ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}
