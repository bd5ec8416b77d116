//! What the daemon tells the service manager, where it was started by one (sd_notify(3)).

use std::time::Duration;

use sd_notify::NotifyState;

/// It answers requests.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// It takes no more requests, and may need this long to end those under way.
pub fn stopping(longest: Duration) {
    let longest_us = u32::try_from(longest.as_micros()).unwrap_or(u32::MAX);
    notify(&[
        NotifyState::Stopping,
        NotifyState::Status("waiting for requests under way"),
        NotifyState::ExtendTimeoutUsec(longest_us),
    ]);
}

/// Says again and again that the daemon is not stuck, where the unit has a `WatchdogSec`.
pub async fn keep_alive() {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    loop {
        notify(&[NotifyState::Watchdog]);
        // Half the period, as sd_watchdog_enabled(3) recommends.
        tokio::time::sleep(period / 2).await;
    }
}

fn notify(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the service manager of a change");
    }
}
