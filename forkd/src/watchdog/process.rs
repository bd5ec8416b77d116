//! The watchdog's side: listens to its daemon, and resumes guests in its place.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinSet, spawn_blocking};

use super::message::{MAX_BYTES, Message, Pause};
use crate::vmm::control::{Control, Request};

/// A daemon that works ends an overdue pause within this time of the return of Firecracker's call in flight.
const GRACE: Duration = Duration::from_millis(100);
/// Between two attempts to reach a Firecracker.
const RETRY_PERIOD: Duration = Duration::from_millis(50);
/// Attempts to resume one guest, after which it is reported as stuck.
const RESUME_ATTEMPTS: u32 = 100;

/// Pauses that have begun and not ended.
#[derive(Clone, Default)]
struct Open(Arc<Mutex<BTreeMap<u64, Pause>>>);

impl Open {
    fn contains(&self, lease: u64) -> bool {
        self.lock().contains_key(&lease)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Pause>> {
        // Nothing that holds the lock can leave the map half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches over the pauses of the daemon at the other end of `socket` until that daemon has ended and every
/// guest that it left paused runs again.
pub async fn run(socket: OwnedFd) -> io::Result<()> {
    outlive_the_daemon()?;
    // SAFETY: the AsyncFd owns the descriptor, which stays open and the same until it is dropped.
    let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
    let open = Open::default();
    let mut overdue = JoinSet::new();
    let mut buffer = [0; MAX_BYTES];
    loop {
        let datagram =
            socket.async_io(Interest::READABLE, |fd| Ok(recv(fd, &mut buffer, RecvFlags::DONTWAIT)?.1)).await;
        match datagram {
            // A datagram is never empty: this is the end.
            Ok(0) => break,
            Ok(bytes) => match Message::decode(&buffer[..bytes]) {
                Ok(Message::Begin(pause)) => {
                    let lease = pause.lease;
                    open.lock().insert(lease, pause.clone());
                    overdue.spawn(look_after(pause, open.clone()));
                }
                Ok(Message::End(lease)) => drop(open.lock().remove(&lease)),
                Err(error) => tracing::error!(%error, "watchdog: not a message of a daemon"),
            },
            // The daemon has ended in the middle of something.
            Err(error) => {
                tracing::error!(%error, "watchdog: cannot hear the daemon");
                break;
            }
        }
        while overdue.try_join_next().is_some() {}
    }
    overdue.abort_all();
    let left: Vec<Pause> = open.lock().values().cloned().collect();
    let mut resuming = JoinSet::new();
    for pause in left {
        resuming.spawn_blocking(move || resume(&pause, "the daemon has ended"));
    }
    while resuming.join_next().await.is_some() {}
    Ok(())
}

/// Signals are for the daemon: this process ends with it, and after it.
fn outlive_the_daemon() -> io::Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        // Replaces what the signal does by default, for as long as the process lives.
        drop(signal(kind)?);
    }
    // Killed late where memory is short: guests may stand still just then.
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-900") {
        tracing::debug!(%error, "watchdog: cannot ask to be killed late when memory is short");
    }
    Ok(())
}

/// Waits for the end of the lease; then, where the pause has not ended, resumes the guest.
async fn look_after(pause: Pause, open: Open) {
    tokio::time::sleep(Duration::from_millis(pause.lease_ms)).await;
    if open.contains(pause.lease) {
        // An error says that it panicked, which the panic has said.
        let _ = spawn_blocking(move || look_after_overdue(&pause, &open)).await;
    }
}

/// Gives the daemon its chance once Firecracker has answered, and resumes the guest where it does not take it.
fn look_after_overdue(pause: &Pause, open: &Open) {
    if !open.contains(pause.lease) {
        return;
    }
    let Pause { lease, process, socket, lease_ms } = pause;
    tracing::error!(
        pid = process.pid,
        lease_ms,
        "watchdog: a pause outlasts its lease; waiting for Firecracker"
    );
    let mut control = Control::new(socket.clone());
    // Answered when the call in flight has returned.
    while control.instance().is_err() {
        if process.open().is_none() || !open.contains(*lease) {
            return;
        }
        sleep(RETRY_PERIOD);
    }
    sleep(GRACE);
    if open.contains(*lease) {
        resume(pause, "the pause has outlasted its lease");
    }
}

/// Resumes a guest, as often as that takes, while its Firecracker lives.
///
/// A request that the daemon sent and that Firecracker has not read yet comes first: Firecracker serves its
/// connections in the order in which they became readable. So this cannot be overtaken by the pause itself.
fn resume(pause: &Pause, why: &str) {
    let Pause { process, socket, .. } = pause;
    let begun = Instant::now();
    let mut control = Control::new(socket.clone());
    for attempt in 1..=RESUME_ATTEMPTS {
        if process.open().is_none() {
            tracing::warn!(pid = process.pid, "watchdog: {why}, and so has Firecracker");
            return;
        }
        match control.call(&Request::resume()) {
            Ok(_) => {
                let waited_ms = begun.elapsed().as_millis() as u64;
                tracing::warn!(pid = process.pid, waited_ms, "watchdog: {why}: resumed its guest");
                return;
            }
            Err(error) if attempt == RESUME_ATTEMPTS => {
                tracing::error!(pid = process.pid, %error, "STUCK PAUSED: watchdog: {why}, and the guest cannot be resumed");
            }
            Err(error) => tracing::error!(pid = process.pid, %error, "watchdog: cannot resume; trying again"),
        }
        sleep(RETRY_PERIOD);
    }
}
