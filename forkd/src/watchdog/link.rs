//! The daemon's side: starts the watchdog, keeps it running, tells it of pauses.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::message::{Message, Pause};
use crate::vmm::detach::Detach;
use crate::vmm::identity::Identity;

/// A watchdog that ends sooner than this after its start is not started again before that.
const RESTART_PERIOD: Duration = Duration::from_secs(1);

/// The running watchdog, as the daemon knows it.
#[derive(Debug)]
pub struct Watchdog {
    link: Arc<Link>,
    lease: Duration,
    // Ends with this; the watchdog itself ends when it has nothing left to watch.
    _supervisor: JoinSet<()>,
}

#[derive(Debug)]
struct Link {
    environment: Vec<(&'static str, String)>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// This daemon's end; `None` while there is no watchdog.
    socket: Option<OwnedFd>,
    /// Pauses that have begun and not ended: a watchdog that is started meanwhile is told of them.
    open: BTreeMap<u64, Pause>,
    last_lease: u64,
}

/// The guest of one Firecracker, as the watchdog will know it.
#[derive(Clone, Debug)]
pub struct Watched(Option<(Arc<Link>, Pause)>);

/// A pause that the watchdog knows of. Dropping it says that the pause has ended.
#[derive(Debug)]
#[must_use = "dropping it says that the pause has ended"]
pub struct Lease(Option<(Arc<Link>, u64)>);

impl Watchdog {
    /// Starts the watchdog, and starts it again whenever it ends. `lease` is how long a pause may be before the
    /// watchdog looks after it; `environment` is added to its own.
    pub fn start(lease: Duration, environment: Vec<(&'static str, String)>) -> io::Result<Self> {
        let link = Arc::new(Link { environment, state: Mutex::default() });
        let child = link.spawn()?;
        let mut supervisor = JoinSet::new();
        supervisor.spawn(supervise(Arc::clone(&link), child));
        Ok(Self { link, lease, _supervisor: supervisor })
    }

    /// Prepares to watch the pauses of one guest.
    pub fn watch(&self, process: Identity, socket: PathBuf) -> Watched {
        let lease_ms = self.lease.as_millis() as u64;
        Watched(Some((Arc::clone(&self.link), Pause { lease: 0, process, socket, lease_ms })))
    }
}

impl Watched {
    /// A guest that nobody but this daemon resumes.
    pub fn by_nobody() -> Self {
        Self(None)
    }

    /// Tells the watchdog that a pause is about to begin: one system call, which does not block.
    pub fn begin(&self) -> Lease {
        let Some((link, pause)) = &self.0 else { return Lease(None) };
        let mut state = link.lock();
        state.last_lease += 1;
        let pause = Pause { lease: state.last_lease, ..pause.clone() };
        let lease = pause.lease;
        state.send(&Message::Begin(pause.clone()));
        state.open.insert(lease, pause);
        Lease(Some((Arc::clone(link), lease)))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some((link, lease)) = self.0.take() else { return };
        let mut state = link.lock();
        state.open.remove(&lease);
        state.send(&Message::End(lease));
    }
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can leave the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a watchdog and tells it of the pauses that have begun.
    fn spawn(&self) -> io::Result<Child> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // This very program, also where its file has been replaced by an upgrade.
        let child = Command::new("/proc/self/exe")
            .arg0("forkd")
            .arg("watchdog")
            .envs(self.environment.iter().cloned())
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .in_own_session()
            .spawn()?;
        let mut state = self.lock();
        state.socket = Some(ours);
        for pause in state.open.clone().into_values() {
            state.send(&Message::Begin(pause));
        }
        tracing::debug!(pid = child.id(), "started the watchdog");
        Ok(child)
    }
}

impl State {
    fn send(&mut self, message: &Message) {
        let Some(socket) = &self.socket else { return };
        let sent = send(socket, &message.encode(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        if let Err(error) = sent {
            // Closing this end ends a watchdog that hangs, once it goes on; another one is started.
            self.socket = None;
            tracing::error!(%error, "the watchdog does not listen: pauses are not watched until there is another");
        }
    }
}

/// Starts another watchdog whenever the last one has ended, or does not listen.
async fn supervise(link: Arc<Link>, mut child: Child) {
    loop {
        let started = Instant::now();
        loop {
            tokio::select! {
                _ = child.wait() => break,
                () = sleep(RESTART_PERIOD) => {}
            }
            if link.lock().socket.is_none() {
                // It may have been stopped: SIGKILL takes that too.
                let _ = child.kill().await;
                break;
            }
        }
        link.lock().socket = None;
        tracing::error!("the watchdog has ended: starting another; BRANCHes go on meanwhile");
        sleep(RESTART_PERIOD.saturating_sub(started.elapsed())).await;
        child = loop {
            match link.spawn() {
                Ok(child) => break child,
                Err(error) => tracing::error!(%error, "cannot start the watchdog; trying again"),
            }
            sleep(RESTART_PERIOD).await;
        };
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{RecvFlags, recv};

    use super::*;

    /// A link to a watchdog that the test plays, and what to watch.
    fn link() -> (Arc<Link>, Watched, OwnedFd) {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let state = State { socket: Some(ours), ..State::default() };
        let link = Arc::new(Link { environment: Vec::new(), state: Mutex::new(state) });
        let process = Identity { pid: 1, start_ticks: 2 };
        let pause = Pause { lease: 0, process, socket: PathBuf::from("/s"), lease_ms: 5 };
        (Arc::clone(&link), Watched(Some((link, pause))), theirs)
    }

    fn heard(theirs: &OwnedFd) -> Option<Message> {
        let mut buffer = [0; 1024];
        let bytes = recv(theirs, &mut buffer, RecvFlags::DONTWAIT).ok()?.1;
        Some(Message::decode(&buffer[..bytes]).unwrap())
    }

    #[test]
    fn each_pause_is_told_of_before_it_begins_and_after_it_has_ended() {
        let (link, watched, theirs) = link();
        let first = watched.begin();
        let second = watched.begin();
        assert!(matches!(heard(&theirs), Some(Message::Begin(Pause { lease: 1, .. }))));
        assert!(matches!(heard(&theirs), Some(Message::Begin(Pause { lease: 2, .. }))));
        drop(first);
        assert_eq!(heard(&theirs), Some(Message::End(1)));
        assert_eq!(link.lock().open.keys().copied().collect::<Vec<_>>(), [2]);
        drop(second);
        assert_eq!((heard(&theirs), heard(&theirs)), (Some(Message::End(2)), None));
    }

    #[test]
    fn a_watchdog_that_does_not_listen_holds_no_pause_up_and_is_given_up() {
        let (link, watched, theirs) = link();
        let mut pauses = 0;
        while link.lock().socket.is_some() {
            drop(watched.begin());
            pauses += 1;
            assert!(pauses < 100_000, "somebody listens");
        }
        drop(watched.begin());
        drop(theirs);
    }
}
