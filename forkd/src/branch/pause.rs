//! The only place that pauses a guest, and the one that sees to it that it runs again.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use probes_common::BranchPhase;
use tokio::time::sleep;

use super::phases::PhaseLog;
use crate::clock::monotonic_ns;
use crate::vmm::VmmError;
use crate::vmm::api::Api;

/// A guest that stands still longer than this is reported while it does.
const ALARM_AFTER: Duration = Duration::from_secs(5);
/// Attempts to resume before the guest is reported as stuck.
const RESUME_ATTEMPTS: u32 = 5;
/// Given to one attempt to resume: it queues behind a snapshot in flight.
const RESUME_DEADLINE: Duration = Duration::from_secs(10);

/// Why work on a paused guest did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// It failed, and the guest runs again.
    #[error("{0}; the guest runs again")]
    Failed(VmmError),
    /// The work panicked, and the guest runs again.
    #[error("the work panicked; the guest runs again")]
    Panicked,
    /// The guest could not be resumed: it stands still until an operator acts.
    #[error("the guest is paused and could not be resumed in {RESUME_ATTEMPTS} attempts: {0}")]
    StuckPaused(VmmError),
}

/// Pauses the guest, awaits `work`, and resumes the guest, whatever came of the work: success, error or panic.
///
/// The three phases are noted in `log` without a gap between them. The caller must not drop this future:
/// run it in a task of its own, or a client that goes away leaves the guest paused.
pub async fn with_guest_paused<T>(
    api: &Api,
    log: &mut PhaseLog,
    work: impl Future<Output = Result<T, VmmError>>,
) -> Result<T, PauseError> {
    let pause_sent_ns = monotonic_ns();
    let paused = api.pause_guest().await;
    let paused_ns = monotonic_ns();
    // A pause whose answer was lost may have happened: it is followed by a resume too.
    let outcome = match paused {
        Ok(()) => Ok(AssertUnwindSafe(with_alarm(work)).catch_unwind().await),
        Err(error) => Err(error),
    };
    let worked_ns = monotonic_ns();
    let resumed = resume(api).await;
    let resumed_ns = monotonic_ns();
    log.record(BranchPhase::Pause, pause_sent_ns, paused_ns);
    log.record(BranchPhase::Create, paused_ns, worked_ns);
    log.record(BranchPhase::Resume, worked_ns, resumed_ns);
    resumed.map_err(PauseError::StuckPaused)?;
    match outcome {
        Ok(Ok(result)) => result.map_err(PauseError::Failed),
        Ok(Err(_panic)) => Err(PauseError::Panicked),
        Err(error) => Err(PauseError::Failed(error)),
    }
}

async fn with_alarm<T>(work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => return result,
            () = sleep(ALARM_AFTER) => {
                tracing::error!("a guest has stood still for {} s more; it goes on when Firecracker answers", ALARM_AFTER.as_secs());
            }
        }
    }
}

async fn resume(api: &Api) -> Result<(), VmmError> {
    let mut wait = Duration::from_millis(10);
    let mut attempt = 1;
    loop {
        match api.resume_guest(RESUME_DEADLINE).await {
            Ok(()) => return Ok(()),
            Err(error) if attempt == RESUME_ATTEMPTS => return Err(error),
            Err(error) => tracing::error!(%error, attempt, "cannot resume a guest; trying again"),
        }
        sleep(wait).await;
        wait *= 4;
        attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};

    use super::{Api, PauseError, PhaseLog, RESUME_ATTEMPTS, VmmError, with_guest_paused};
    use crate::http_client::{CallError, Endpoint};

    /// Stands in for a Firecracker that fails in ways the real one cannot be made to: `answer` gets each
    /// request's body and its count so far, and says whether it succeeds.
    fn hostile(socket: &Path, answer: fn(&str, usize) -> bool) -> Arc<Mutex<Vec<String>>> {
        let listener = UnixListener::bind(socket).unwrap();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let requests = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answer, Arc::clone(&requests)));
            }
        });
        seen
    }

    async fn serve(mut stream: UnixStream, answer: fn(&str, usize) -> bool, seen: Arc<Mutex<Vec<String>>>) {
        let mut buffer = vec![0; 4096];
        while let Ok(bytes @ 1..) = stream.read(&mut buffer).await {
            let text = String::from_utf8_lossy(&buffer[..bytes]);
            let body = text.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned();
            let count = {
                let mut seen = seen.lock().unwrap();
                seen.push(body.clone());
                seen.iter().filter(|earlier| **earlier == body).count()
            };
            let reply: &[u8] = match answer(&body, count) {
                true => b"HTTP/1.1 204 No Content\r\n\r\n",
                false => b"HTTP/1.1 400 Bad Request\r\nContent-Length: 23\r\n\r\n{\"fault_message\":\"no!\"}",
            };
            stream.write_all(reply).await.unwrap();
        }
    }

    fn resumes(seen: &Mutex<Vec<String>>) -> usize {
        seen.lock().unwrap().iter().filter(|body| body.contains("Resumed")).count()
    }

    fn some_error() -> VmmError {
        let endpoint = Endpoint::Tcp("nowhere".to_owned());
        let source = CallError::Connect { endpoint, source: std::io::ErrorKind::Other.into() };
        VmmError::Call { step: "work", source }
    }

    #[tokio::test]
    async fn the_guest_is_resumed_after_success_error_and_panic() {
        let dir = tempfile::tempdir().unwrap();
        let seen = hostile(&dir.path().join("api"), |_, _| true);
        let api = Api::new(&dir.path().join("api"));
        let mut log = PhaseLog::default();
        assert_eq!(with_guest_paused(&api, &mut log, async { Ok(7) }).await.unwrap(), 7);
        assert_eq!(resumes(&seen), 1);
        let failed = with_guest_paused(&api, &mut log, async { Err::<(), _>(some_error()) }).await;
        assert!(matches!(failed, Err(PauseError::Failed(_))), "{failed:?}");
        assert_eq!(resumes(&seen), 2);
        let panicked = with_guest_paused(&api, &mut log, async { panic!("as a test") }).await;
        assert!(matches!(panicked, Err::<(), _>(PauseError::Panicked)), "{panicked:?}");
        assert_eq!(resumes(&seen), 3);
    }

    #[tokio::test]
    async fn a_pause_that_is_refused_is_followed_by_a_resume_and_the_work_is_not_begun() {
        let dir = tempfile::tempdir().unwrap();
        let seen = hostile(&dir.path().join("api"), |body, _| !body.contains("Paused"));
        let api = Api::new(&dir.path().join("api"));
        let work = async { Err::<(), VmmError>(some_error()) };
        let refused = with_guest_paused(&api, &mut PhaseLog::default(), work).await.unwrap_err();
        assert!(refused.to_string().contains("no!"), "{refused}");
        assert_eq!(resumes(&seen), 1);
    }

    #[tokio::test]
    async fn a_resume_that_fails_once_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let seen = hostile(&dir.path().join("api"), |body, count| !body.contains("Resumed") || count > 1);
        let api = Api::new(&dir.path().join("api"));
        with_guest_paused(&api, &mut PhaseLog::default(), async { Ok(()) }).await.unwrap();
        assert_eq!(resumes(&seen), 2);
    }

    #[tokio::test]
    async fn a_resume_that_always_fails_is_reported_as_stuck() {
        let dir = tempfile::tempdir().unwrap();
        let seen = hostile(&dir.path().join("api"), |body, _| !body.contains("Resumed"));
        let api = Api::new(&dir.path().join("api"));
        let stuck = with_guest_paused(&api, &mut PhaseLog::default(), async { Ok(()) }).await;
        assert!(matches!(stuck, Err(PauseError::StuckPaused(_))), "{stuck:?}");
        assert_eq!(resumes(&seen), RESUME_ATTEMPTS as usize);
    }
}
