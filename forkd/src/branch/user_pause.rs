//! Pausing a guest for its user, and letting it go on: apart from the pause of a BRANCH, which ends by itself.

use std::sync::{Arc, PoisonError};

use super::pause::{PauseError, pause_for_user, resume_for_user};
use super::work::free_when_resumed;
use super::{BranchError, GuestState, guest_state};
use crate::events::Events;
use crate::sandbox::Sandbox;

/// Pauses the guest until its user resumes it; does nothing to one that is paused. Refused while a BRANCH is
/// under way.
///
/// Waits for Firecracker: call it on a thread that may wait, and let it come to its end.
pub fn pause(sandbox: &Arc<Sandbox>, events: &Arc<Events>) -> Result<(), BranchError> {
    alone_with_the_guest(sandbox, |sandbox| {
        let mut control = sandbox.control();
        match guest_state(sandbox, &mut control) {
            Ok(GuestState::PausedByUser) => return Ok(()),
            // Whoever paused it: from here on its user has.
            Err(BranchError::NotRunning { .. }) | Ok(GuestState::Running) => {}
            Err(error) => return Err(error),
        }
        // Noted first: whoever finds the guest after a crash in between must leave it paused.
        sandbox.set_paused_by_user(true).map_err(BranchError::Record)?;
        let paused = pause_for_user(&mut control);
        if paused.is_err() {
            sandbox.set_paused_by_user(false).map_err(BranchError::Record)?;
        }
        in_words(sandbox, paused, events)
    })
}

/// Lets the guest run that its user, or somebody else, has paused; does nothing to one that runs. Refused while a
/// BRANCH is under way.
///
/// Waits for Firecracker: call it on a thread that may wait, and let it come to its end.
pub fn resume(sandbox: &Arc<Sandbox>, events: &Arc<Events>) -> Result<(), BranchError> {
    alone_with_the_guest(sandbox, |sandbox| {
        let mut control = sandbox.control();
        match guest_state(sandbox, &mut control) {
            Ok(GuestState::PausedByUser) | Err(BranchError::NotRunning { .. }) => {}
            Ok(GuestState::Running) => return Ok(()),
            Err(error) => return Err(error),
        }
        let resumed = resume_for_user(&mut control);
        sandbox.set_paused_by_user(false).map_err(BranchError::Record)?;
        in_words(sandbox, resumed, events)
    })
}

/// Runs `work` while no BRANCH, and no other pause or resume, of this sandbox is under way.
fn alone_with_the_guest(
    sandbox: &Arc<Sandbox>,
    work: impl FnOnce(&Arc<Sandbox>) -> Result<(), BranchError>,
) -> Result<(), BranchError> {
    let _turn = sandbox.user_turn.lock().unwrap_or_else(PoisonError::into_inner);
    let _no_branch = sandbox.diff_base.try_lock().map_err(|_| BranchError::Busy(sandbox.id.clone()))?;
    work(sandbox)
}

fn in_words(
    sandbox: &Arc<Sandbox>,
    outcome: Result<(), PauseError>,
    events: &Arc<Events>,
) -> Result<(), BranchError> {
    match (outcome, sandbox.obituary()) {
        (Ok(()), _) => Ok(()),
        (Err(_), Some(source)) => Err(BranchError::Dead { id: sandbox.id.clone(), source }),
        (Err(error), None) => {
            if let PauseError::StuckPaused(_) = error {
                free_when_resumed(sandbox, &error, events);
            }
            Err(error.into())
        }
    }
}
