//! `forkd serve`

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use forkd::api::DataPath;
use forkd::attribution::{self, When};
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

use super::config::Effective;
use super::log::LogOptions;
use super::service;

/// How long requests under way may take to end after a signal.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(30);

/// What becomes of the sandboxes when the daemon stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnExit {
    /// They run on, for the next daemon to take over.
    Keep,
    /// They end.
    Kill,
}

/// Run the daemon in the foreground until SIGTERM or Ctrl-C
///
/// Each option can also be given as an environment variable (`--data-path` as `FORKD_DATA_PATH`) or in the
/// configuration file (as `data_path`). The command line comes first, then the environment, then the file.
#[derive(Args, Debug)]
pub struct Serve {
    /// Configuration file, in TOML; /etc/forkd/config.toml where that is there
    #[arg(long, value_name = "PATH", env = "FORKD_CONFIG")]
    config: Option<PathBuf>,
    /// Print the options that are in force and where each comes from, and do nothing else
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    log: LogOptions,
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
    #[arg(long, value_name = "PATH")]
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
    #[arg(long, value_name = "DIR", default_value = "/var/lib/forkd")]
    data_dir: PathBuf,
    /// BRANCHes that the history remembers; the oldest are forgotten first
    #[arg(long, value_name = "N", default_value = "100000", value_parser = clap::value_parser!(u64).range(1..))]
    history_keep: u64,
    /// BRANCHes that may be under way at once; eight per CPU when absent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_branches: Option<u64>,
    /// BRANCHes that may be taken of one sandbox; as many as one likes when absent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_branches_per_source: Option<u64>,
    /// File that gets one line of JSON for each request that may change something; reopened on SIGHUP
    #[arg(long, value_name = "PATH")]
    audit_log: Option<PathBuf>,
    /// Start with a Firecracker of a version that is not supported too
    #[arg(long)]
    allow_unsupported_firecracker: bool,
    /// cgroup below which sandboxes with limits get theirs, as /proc/self/cgroup writes it; the daemon's own when
    /// absent
    #[arg(long, value_name = "CGROUP")]
    cgroup_root: Option<PathBuf>,
    /// What becomes of the sandboxes at the end: keep or kill; when absent Ctrl-C kills them, and SIGTERM keeps them
    #[arg(long, value_name = "WHAT", hide_possible_values = true)]
    on_exit: Option<OnExit>,
    /// How long a pause may be before the watchdog looks after it
    #[arg(long, value_name = "MS", default_value = "5000")]
    pause_lease_ms: u64,
    /// Which pauses are accounted for, cause by cause: off, sampled or always. Needs forkd-probe, and for it the
    /// rights to trace
    #[arg(long, value_name = "WHEN", default_value_t)]
    attribution: When,
    /// With --attribution sampled: one of how many pauses
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u64).range(1..))]
    attribution_every: u64,
    /// The forkd-probe that holds the probes; beside the daemon or on PATH when absent
    #[arg(long, value_name = "PATH")]
    attribution_probe: Option<PathBuf>,
}

impl Serve {
    /// Serves until a signal comes, or only prints the options in force.
    pub fn run(self, effective: Effective) -> anyhow::Result<()> {
        if self.print_config {
            print!("{effective}");
            return Ok(());
        }
        self.log.init()?;
        // Before anything is created: memory images and sockets are for the owner only.
        rustix::process::umask(Mode::from_raw_mode(0o077));
        let firecracker = Firecracker::find(self.firecracker.as_deref())?;
        firecracker.check_support(self.allow_unsupported_firecracker)?;
        check_kvm()?;
        give_back_buffers();
        raise_file_limit();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(self.serve(firecracker))
    }

    async fn serve(self, firecracker: Firecracker) -> anyhow::Result<()> {
        // Installed first: a signal during the start must not leave a socket behind.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let version = firecracker.version.clone();
        let config = Config {
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
            pause_lease: Duration::from_millis(self.pause_lease_ms),
            attribution: attribution::Options {
                when: self.attribution,
                every: self.attribution_every,
                probe: self.attribution_probe,
            },
            watchdog_environment: self.log.as_environment().to_vec(),
        };
        let daemon = Arc::new(Daemon::start(config).await?);
        let router = match self.audit_log {
            Some(path) => {
                let log = open_audit_log(&path)?;
                daemon.audit_to(Arc::clone(&log));
                audited(router(Arc::clone(&daemon)), log)
            }
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
        service::ready(&format!("{} sandboxes", daemon.sandboxes().len()));
        let keep_alive = tokio::spawn(service::keep_alive());
        let by_default = tokio::select! {
            _ = terminate.recv() => OnExit::Keep,
            _ = interrupt.recv() => OnExit::Kill,
        };
        keep_alive.abort();
        service::stopping(2 * SHUTDOWN_DEADLINE);
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
        match self.on_exit.unwrap_or(by_default) {
            OnExit::Kill => daemon.end_all_sandboxes().await,
            OnExit::Keep => match daemon.sandboxes().len() {
                0 => {}
                sandboxes => {
                    tracing::info!(
                        sandboxes,
                        "left running for the next daemon on this --run-dir to take over"
                    );
                }
            },
        }
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

/// A buffer of this size or more is mapped for itself, and given back to the system when it is freed.
#[cfg(target_env = "gnu")]
const OWN_MAPPING_BYTES: libc::c_int = 128 << 10;

/// Keeps the allocator from keeping what copies and digests took. Left alone, glibc takes the first large buffer that
/// is freed for a sign to keep the next ones (mallopt(3), M_MMAP_THRESHOLD), once for each thread that had one.
fn give_back_buffers() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) changes settings of the allocator, and may be called at any time.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING_BYTES);
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}
