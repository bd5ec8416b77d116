//! `forkd serve`

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use forkd::api::DataPath;
use forkd::audit::AuditLog;
use forkd::branch::staging_memory::StagingMemory;
use forkd::daemon::{Config, Daemon};
use forkd::http::audit::audited;
use forkd::http::router;
use forkd::http::serve::Listeners;
use forkd::snapshot::ahead::ImagesAhead;
use forkd::vmm::firecracker::{Firecracker, check_kvm};
use rustix::fs::Mode;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

/// How long requests under way may take to end after a signal.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(30);

/// Run the daemon in the foreground until SIGTERM or Ctrl-C; its sandboxes end with it
#[derive(Args, Debug)]
pub struct Serve {
    /// Unix socket to listen on
    #[arg(long, value_name = "PATH", default_value = "/run/forkd/forkd.sock")]
    socket: PathBuf,
    /// Loopback TCP address to listen on as well
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "127.0.0.1:8889")]
    tcp: Option<SocketAddr>,
    /// Directory of the snapshots
    #[arg(long, value_name = "DIR", default_value = "/var/lib/forkd/snapshots")]
    snapshot_root: PathBuf,
    /// Directory of sockets and logs of running microVMs (a short path)
    #[arg(long, value_name = "DIR", default_value = "/run/forkd/vms")]
    run_dir: PathBuf,
    /// Firecracker binary; the first on PATH when absent
    #[arg(long, value_name = "PATH", env = "FORKD_FIRECRACKER")]
    firecracker: Option<PathBuf>,
    /// How a BRANCH gets to disk when the request does not say: naive, fallocate, direct, uring or stage
    #[arg(long, value_name = "NAME", default_value = "stage")]
    data_path: DataPath,
    /// Memory that snapshots may take between the pause and the disk; half of what is available when absent
    #[arg(long, value_name = "MIB")]
    staging_mib: Option<u64>,
    /// Disk space for memory images made of layers; the least recently used go first
    #[arg(long, value_name = "MIB", default_value = "16384")]
    images_mib: u64,
    /// Whether layers get memory images before they are forked from: never, reflink (where the file system
    /// shares blocks) or always (each BRANCH then writes all of guest memory once, later and slowly)
    #[arg(long, value_name = "WHEN", default_value_t)]
    images_ahead: ImagesAhead,
    /// Directory of the history of BRANCHes
    #[arg(long, value_name = "DIR", env = "FORKD_DATA_DIR", default_value = "/var/lib/forkd")]
    data_dir: PathBuf,
    /// BRANCHes that the history remembers; the oldest are forgotten first
    #[arg(long, value_name = "N", env = "FORKD_HISTORY_KEEP", default_value = "100000", value_parser = clap::value_parser!(u64).range(1..))]
    history_keep: u64,
    /// BRANCHes that may be under way at once; eight per CPU when absent
    #[arg(long, value_name = "N", env = "FORKD_MAX_BRANCHES", value_parser = clap::value_parser!(u64).range(1..))]
    max_branches: Option<u64>,
    /// BRANCHes that may be taken of one sandbox; as many as one likes when absent
    #[arg(long, value_name = "N", env = "FORKD_MAX_BRANCHES_PER_SOURCE", value_parser = clap::value_parser!(u64).range(1..))]
    max_branches_per_source: Option<u64>,
    /// File that gets one line of JSON for each request that may change something; reopened on SIGHUP
    #[arg(long, value_name = "PATH", env = "FORKD_AUDIT_LOG")]
    audit_log: Option<PathBuf>,
    /// Start with a Firecracker of a version that is not supported too
    #[arg(long)]
    allow_unsupported_firecracker: bool,
    /// cgroup below which sandboxes with limits get theirs, as /proc/self/cgroup writes it; the daemon's own when
    /// absent
    #[arg(long, value_name = "CGROUP")]
    cgroup_root: Option<PathBuf>,
}

impl Serve {
    /// Serves until a signal comes.
    pub fn run(self) -> anyhow::Result<()> {
        // Before anything is created: memory images and sockets are for the owner only.
        rustix::process::umask(Mode::from_raw_mode(0o077));
        let firecracker = Firecracker::find(self.firecracker.as_deref())?;
        firecracker.check_support(self.allow_unsupported_firecracker)?;
        check_kvm()?;
        raise_file_limit();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(self.serve(firecracker))
    }

    async fn serve(self, firecracker: Firecracker) -> anyhow::Result<()> {
        // Installed first: a signal during the start must not leave a socket behind.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let version = firecracker.version.clone();
        let daemon = Arc::new(Daemon::start(Config {
            snapshot_root: self.snapshot_root,
            run_dir: self.run_dir,
            firecracker,
            data_path: self.data_path,
            staging_bytes: self.staging_mib.map_or_else(StagingMemory::half_of_available, |mib| mib << 20),
            images_bytes: self.images_mib << 20,
            images_ahead: self.images_ahead,
            data_dir: self.data_dir,
            history_keep: self.history_keep,
            max_branches: self.max_branches.unwrap_or_else(eight_per_cpu),
            max_branches_per_source: self.max_branches_per_source,
            cgroup_root: self.cgroup_root,
        })?);
        let router = match self.audit_log {
            Some(path) => audited(router(Arc::clone(&daemon)), open_audit_log(&path)?),
            None => router(Arc::clone(&daemon)),
        };
        if let Some(parent) = self.socket.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        }
        let listeners = Listeners::bind(&self.socket, self.tcp).await?;
        tracing::info!(
            socket = %self.socket.display(),
            tcp = listeners.tcp_address().map(|address| address.to_string()),
            snapshot_root = %daemon.config().snapshot_root.display(),
            firecracker = version,
            "listening"
        );
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let serving = tokio::spawn(listeners.serve(router, async {
            // An error says that the sender is gone, which stops too.
            let _ = stopped.await;
        }));
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: waiting for requests under way");
        // Whoever follows the events is told, and their requests end.
        daemon.events().end();
        let _ = stop.send(());
        if timeout(SHUTDOWN_DEADLINE, serving).await.is_err() {
            tracing::warn!("a request did not end within {} s", SHUTDOWN_DEADLINE.as_secs());
        }
        if timeout(SHUTDOWN_DEADLINE, daemon.wait_for_branches()).await.is_err() {
            tracing::warn!("a BRANCH did not end within {} s", SHUTDOWN_DEADLINE.as_secs());
        }
        daemon.end_all_sandboxes().await;
        Ok(())
    }
}

/// The audit log, which goes on in a fresh file after each SIGHUP: that is how logs are rotated.
fn open_audit_log(path: &Path) -> anyhow::Result<Arc<AuditLog>> {
    let log =
        AuditLog::open(path).with_context(|| format!("cannot open the audit log {}", path.display()))?;
    let log = Arc::new(log);
    let mut hangup = signal(SignalKind::hangup())?;
    let reopened = Arc::clone(&log);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            match reopened.reopen() {
                Ok(()) => tracing::info!(path = %reopened.path().display(), "the audit log is reopened"),
                Err(error) => tracing::error!(
                    path = %reopened.path().display(), %error,
                    "cannot reopen the audit log: it goes on in the old file"
                ),
            }
        }
    });
    Ok(log)
}

fn eight_per_cpu() -> u64 {
    std::thread::available_parallelism().map_or(8, |cpus| 8 * cpus.get() as u64)
}

/// Each sandbox holds several files open: take as many as the host allows.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
