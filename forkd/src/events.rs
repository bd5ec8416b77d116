//! What happens in the daemon, for clients that follow it: kept in a bounded buffer that each reads at its own pace.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::api::{Event, Happening};
use crate::clock;

/// Events that are kept for clients that come back or are slow.
pub const KEPT: usize = 4096;

/// The ids of one daemon begin at its start's Unix time in seconds, shifted by this many bits: above those of
/// every earlier daemon that told of less than a million events a second, and below 2^53, up to which every
/// number is exact in JavaScript, until the year 2242.
const BITS_FOR_ONE_SECOND: u32 = 20;

/// The daemon's events. Telling one never waits for a client.
#[derive(Debug)]
pub struct Events {
    kept: usize,
    state: Mutex<State>,
    // The id that the next event gets; clients wait for its change.
    next_id: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    first_id: u64,
    next_id: u64,
    // Consecutive ids, the last one before `next_id`.
    events: VecDeque<Arc<Event>>,
    ended: bool,
}

impl Events {
    /// No events yet; `kept` of them stay readable.
    pub fn new(kept: usize) -> Self {
        Self::starting_at(clock::unix_seconds() << BITS_FOR_ONE_SECOND, kept)
    }

    fn starting_at(first_id: u64, kept: usize) -> Self {
        let state = State { first_id, next_id: first_id, events: VecDeque::new(), ended: false };
        Self { kept, state: Mutex::new(state), next_id: watch::Sender::new(first_id) }
    }

    /// Tells of something that has just happened.
    pub fn tell(&self, happening: Happening) {
        let mut state = self.lock();
        let event = Event { id: state.next_id, at_unix_ms: clock::unix_ms(), happening };
        state.next_id += 1;
        state.events.push_back(Arc::new(event));
        if state.events.len() > self.kept {
            state.events.pop_front();
        }
        self.next_id.send_replace(state.next_id);
    }

    /// Tells that the daemon stops: whoever follows reads on to this event, and no further.
    pub fn end(&self) {
        self.tell(Happening::DaemonStopping);
        self.lock().ended = true;
        self.next_id.send_modify(|_| {});
    }

    /// What comes after the event with the id `last_seen`; without one, what happens from here on.
    pub fn follow(self: &Arc<Self>, last_seen: Option<u64>) -> Follower {
        let changed = self.next_id.subscribe();
        let state = self.lock();
        let (next_id, daemon_restarted) = match last_seen {
            None => (state.next_id, false),
            Some(id) if (state.first_id..state.next_id).contains(&id) => (id + 1, false),
            // Not one of ours: all that there is comes after it.
            Some(id) => (state.first_id, id + 1 != state.first_id),
        };
        Follower { events: Arc::clone(self), changed, next_id, daemon_restarted }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can leave the buffer half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One client's place in the events.
#[derive(Debug)]
pub struct Follower {
    events: Arc<Events>,
    changed: watch::Receiver<u64>,
    next_id: u64,
    daemon_restarted: bool,
}

impl Follower {
    /// The next event, waiting for it where there is none; `None` after the last one. Where events were dropped
    /// before this client read them, it is told how many, once, in their place.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        loop {
            self.changed.mark_unchanged();
            if let Some(event) = self.at_hand() {
                return Some(event);
            }
            // `ended` is set before the change that is waited for.
            if self.events.lock().ended || self.changed.changed().await.is_err() {
                return self.at_hand();
            }
        }
    }

    fn at_hand(&mut self) -> Option<Arc<Event>> {
        let state = self.events.lock();
        let oldest = state.next_id - state.events.len() as u64;
        let lost = oldest.saturating_sub(self.next_id);
        if lost > 0 || self.daemon_restarted {
            self.next_id = self.next_id.max(oldest);
            let daemon_restarted = std::mem::take(&mut self.daemon_restarted);
            let happening = Happening::Lost { count: lost, daemon_restarted };
            // The id of the last one that was lost: whoever comes back with it misses nothing more.
            return Some(Arc::new(Event { id: oldest - 1, at_unix_ms: clock::unix_ms(), happening }));
        }
        let index = usize::try_from(self.next_id - oldest).ok()?;
        let event = state.events.get(index)?;
        self.next_id += 1;
        Some(Arc::clone(event))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::{Events, Follower};
    use crate::api::{Event, Happening};

    fn tell(events: &Events, n: usize) {
        for tag in 0..n {
            events.tell(Happening::SnapshotReady { tag: tag.to_string() });
        }
    }

    /// Ids of what can be read without waiting, with `lost` as its negative count.
    fn read(follower: &mut Follower) -> Vec<i64> {
        let told = |event: &Event| match event.happening {
            Happening::Lost { count, .. } => -(count as i64),
            _ => event.id as i64,
        };
        std::iter::from_fn(|| follower.at_hand()).map(|event| told(&event)).collect()
    }

    #[test]
    fn a_client_without_an_id_is_told_what_happens_from_then_on() {
        let events = Arc::new(Events::starting_at(100, 8));
        tell(&events, 2);
        let mut follower = events.follow(None);
        tell(&events, 2);
        assert_eq!(read(&mut follower), [102, 103]);
    }

    #[test]
    fn the_last_id_seen_replays_what_is_kept_and_counts_what_is_not() {
        let events = Arc::new(Events::starting_at(100, 4));
        tell(&events, 10);
        assert_eq!(read(&mut events.follow(Some(107))), [108, 109]);
        assert!(read(&mut events.follow(Some(109))).is_empty());
        assert_eq!(read(&mut events.follow(Some(102))), [-3, 106, 107, 108, 109]);
        assert_eq!(events.follow(Some(102)).at_hand().unwrap().id, 105);
    }

    #[test]
    fn an_id_of_an_earlier_daemon_is_told_of_the_restart() {
        let events = Arc::new(Events::starting_at(100, 4));
        tell(&events, 6);
        for earlier in [7, 5000] {
            let first = events.follow(Some(earlier)).at_hand().unwrap();
            assert_eq!(first.happening, Happening::Lost { count: 2, daemon_restarted: true });
        }
        assert_eq!(read(&mut events.follow(Some(7))), [-2, 102, 103, 104, 105]);
    }

    #[test]
    fn ids_of_a_later_daemon_are_greater_and_exact_in_every_json_parser() {
        let first = Events::new(1).lock().next_id;
        assert!(first > 1_700_000_000 << 20 && first < 1 << 53);
    }

    #[tokio::test]
    async fn the_last_event_says_that_the_daemon_stops() {
        let events = Arc::new(Events::new(4));
        let mut follower = events.follow(None);
        let waiting = tokio::spawn(async move { (follower.next().await, follower.next().await) });
        tokio::task::yield_now().await;
        events.end();
        let (last, none) = waiting.await.unwrap();
        assert_eq!(last.unwrap().happening, Happening::DaemonStopping);
        assert!(none.is_none());
    }

    proptest! {
        #[test]
        fn what_is_told_and_what_is_lost_is_all_there_was(
            kept in 1_usize..20,
            steps in proptest::collection::vec((0_usize..30, any::<bool>()), 1..20),
        ) {
            let events = Arc::new(Events::starting_at(1, kept));
            let mut follower = events.follow(None);
            let mut accounted = 0;
            let mut told = 0;
            for (n, reads) in steps {
                tell(&events, n);
                told += n as i64;
                if reads {
                    for id in read(&mut follower) {
                        if id < 0 {
                            accounted += -id;
                        } else {
                            accounted += 1;
                            prop_assert_eq!(id, accounted);
                        }
                    }
                    prop_assert_eq!(accounted, told);
                }
            }
        }
    }
}
