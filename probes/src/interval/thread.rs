//! The states of one thread, and what each event makes of them.

use std::sync::Arc;

use super::task_state::{Leaving, leaving};
use super::{Doing, Interval, KernelStack, OffCpu, Seed, SeedState, Wait, Waker};
use crate::comm::Comm;
use crate::decode::{Event, Stack, ThreadId, UserSide, WakeContext};

/// What a thread is doing, and since when.
#[derive(Debug)]
enum State {
    /// It existed when the window opened, and has had no event that tells what it was doing then; it
    /// may have been woken.
    Unknown { woken: Option<Wake> },
    /// It runs. A wake-up may come here as well: see [`Thread::end_of_wait`].
    On { early: Option<Waker> },
    /// It does not run.
    Off { wait: Wait, stack: KernelStack, user: Option<UserSide>, woken: Option<Wake>, early: Option<Waker> },
    /// It has ended.
    Gone,
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The thread got a CPU.
    SwitchIn,
    /// The thread left a CPU again, so it must have got one unseen.
    UnseenSwitchIn,
    /// The window closed.
    Window,
}

#[derive(Clone, Debug)]
struct Wake {
    time_ns: u64,
    waker: Waker,
}

/// One thread in the making of its intervals.
#[derive(Debug)]
pub struct Thread {
    id: ThreadId,
    tgid: u32,
    comm: Option<Comm>,
    state: State,
    since_ns: u64,
    /// The current state began with the thread seen to leave a CPU.
    left_cpu: bool,
    seed: Option<Seed>,
}

/// Where finished intervals go.
pub type Emit<'a> = &'a mut dyn FnMut(Interval);

impl Thread {
    /// A thread that existed when the window opened.
    pub const fn existing(id: ThreadId, tgid: u32, window_start_ns: u64, seed: Option<Seed>) -> Self {
        let state = State::Unknown { woken: None };
        Self { id, tgid, comm: None, state, since_ns: window_start_ns, left_cpu: false, seed }
    }

    /// A thread that was made inside the window: runnable from its birth on.
    pub const fn born(id: ThreadId, tgid: u32) -> Self {
        let state = State::Off {
            wait: Wait::RunQueue,
            stack: KernelStack::Missing,
            user: None,
            woken: None,
            early: None,
        };
        Self { id, tgid, comm: None, state, since_ns: id.start_ns, left_cpu: false, seed: None }
    }

    /// Its process.
    pub const fn tgid(&self) -> u32 {
        self.tgid
    }

    /// The name last seen.
    pub fn comm(&self) -> Option<Comm> {
        self.comm.or_else(|| self.seed.as_ref().map(|seed| seed.comm))
    }

    /// Takes the thread's next event. Times never run backwards: an event stamped before the current
    /// state began counts as at its beginning.
    pub fn event(&mut self, time_ns: u64, event: &Event, emit: Emit<'_>) {
        let time_ns = time_ns.max(self.since_ns);
        match event {
            Event::SwitchIn => self.switch_in(time_ns, emit),
            Event::SwitchBack { user, stack, comm } => {
                self.comm = Some(*comm);
                self.came_from(recorded(stack), *user);
                self.switch_in(time_ns, emit);
            }
            Event::SwitchOut { preempted, prev_state, user, stack, comm } => {
                self.comm = Some(*comm);
                self.switch_out(time_ns, leaving(*preempted, *prev_state), recorded(stack), *user, emit);
            }
            Event::Waking { waker, context, stack } => {
                let stack = Arc::clone(&stack.frames);
                self.waking(time_ns, Waker { peer: *waker, context: *context, stack });
            }
            Event::Born { maker } => {
                let context = WakeContext::NoHandler;
                self.waking(time_ns, Waker { peer: *maker, context, stack: Arc::default() });
                self.comm = self.comm.or(Some(maker.comm));
            }
        }
    }

    /// Ends the thread's last interval at the end of the window. `ran_ns` is the CPU time that it has had
    /// by then, as far as known.
    pub fn finish(mut self, end_ns: u64, ran_ns: Option<u64>, emit: Emit<'_>) {
        let end_ns = end_ns.max(self.since_ns);
        match std::mem::replace(&mut self.state, State::Gone) {
            State::Unknown { woken } => {
                let wait = self.seeded_wait(u64::MAX, ran_ns, end_ns);
                match wait {
                    Some(Seeded::Running) => self.close(end_ns, Doing::OnCpu, false, emit),
                    Some(Seeded::Waiting(off)) => {
                        self.end_of_wait(end_ns, off, woken, None, End::Window, emit)
                    }
                    Some(Seeded::Dead) => {}
                    None => self.close(end_ns, Doing::Unknown, false, emit),
                }
            }
            State::On { .. } => self.close(end_ns, Doing::OnCpu, false, emit),
            State::Off { wait, stack, user, woken, early } => {
                let off = OffCpu { wait, stack, user, waker: None };
                self.end_of_wait(end_ns, off, woken, early, End::Window, emit);
            }
            State::Gone => {}
        }
    }

    /// Where it was while it was off the CPU, told as it comes back. A thread that was not seen to leave one, because
    /// it is new, was nowhere.
    fn came_from(&mut self, late_stack: KernelStack, late_user: Option<UserSide>) {
        if let State::Off { stack: stack @ KernelStack::Missing, user, .. } = &mut self.state
            && self.left_cpu
        {
            *stack = late_stack;
            *user = user.or(late_user);
        }
    }

    fn switch_in(&mut self, time_ns: u64, emit: Emit<'_>) {
        match std::mem::replace(&mut self.state, State::On { early: None }) {
            State::Unknown { woken } => {
                // Now it is known that it did not run until here.
                let off = match self.seeded_wait(time_ns, None, time_ns) {
                    Some(Seeded::Waiting(off)) => off,
                    _ if woken.is_none() => missing_stack(Wait::RunQueue),
                    _ => missing_stack(Wait::Unknown),
                };
                self.end_of_wait(time_ns, off, woken, None, End::SwitchIn, emit);
            }
            // Switched in twice: the switch-out between was lost. What the thread did meanwhile cannot be
            // told, so the time stays with the state that was seen last, marked.
            State::On { .. } => self.close(time_ns, Doing::OnCpu, true, emit),
            State::Off { wait, stack, user, woken, early } => {
                let off = OffCpu { wait, stack, user, waker: None };
                self.end_of_wait(time_ns, off, woken, early, End::SwitchIn, emit);
            }
            // Only a lost or late record brings an ended thread back.
            State::Gone => self.close(time_ns, Doing::Unknown, true, emit),
        }
        self.left_cpu = false;
    }

    fn switch_out(
        &mut self,
        time_ns: u64,
        leaving: Leaving,
        stack: KernelStack,
        user: Option<UserSide>,
        emit: Emit<'_>,
    ) {
        let early = match std::mem::replace(&mut self.state, State::Gone) {
            // It must have run since the window opened; a wake-up seen meanwhile came early.
            State::Unknown { woken } => {
                self.close(time_ns, Doing::OnCpu, false, emit);
                woken.map(|wake| wake.waker)
            }
            State::On { early } => {
                self.close(time_ns, Doing::OnCpu, false, emit);
                early
            }
            // When it came back cannot be told, so the time stays with the wait, marked.
            State::Off { wait, stack, user, woken, early } => {
                let off = OffCpu { wait, stack, user, waker: None };
                self.end_of_wait(time_ns, off, woken, early, End::UnseenSwitchIn, emit);
                None
            }
            State::Gone => {
                self.close(time_ns, Doing::Unknown, true, emit);
                None
            }
        };
        self.left_cpu = true;
        if let Leaving::For(wait) = leaving {
            self.state = State::Off { wait, stack, user, woken: None, early };
        }
    }

    /// The first wake-up counts: a second one finds a thread that is runnable already.
    fn waking(&mut self, time_ns: u64, waker: Waker) {
        match &mut self.state {
            State::On { early } => *early = Some(waker),
            State::Unknown { woken } | State::Off { woken, .. } => {
                woken.get_or_insert(Wake { time_ns, waker });
            }
            State::Gone => {}
        }
    }

    /// Emits a wait that ends at `end_ns`, split where it was woken.
    ///
    /// A sleep without a wake-up of its own has one of two reasons. A waker on another CPU that came
    /// between the thread's setting its state and its leaving the CPU is stamped *before* the switch
    /// (`try_to_wake_up` traces first, then waits for the CPU to be left): that early wake-up is this
    /// sleep's, and the thread was runnable throughout. Or a signal was pending: kernels before 6.13
    /// report the sleeping state and leave the thread on the run queue. An early wake-up is used only
    /// where no other came, because it may also have ended before the switch (the thread was still
    /// queued, and simply went on).
    fn end_of_wait(
        &mut self,
        end_ns: u64,
        off: OffCpu,
        woken: Option<Wake>,
        early: Option<Waker>,
        end: End,
        emit: Emit<'_>,
    ) {
        let unseen = end == End::UnseenSwitchIn;
        if off.wait.is_runnable() {
            let waker = if off.wait == Wait::RunQueue { woken.map(|wake| wake.waker) } else { None };
            self.close(end_ns, Doing::OffCpu(OffCpu { waker, ..off }), unseen, emit);
            return;
        }
        let run_queue = |waker| Doing::OffCpu(OffCpu { wait: Wait::RunQueue, waker, ..off.clone() });
        match (woken, early) {
            (Some(wake), _) => {
                let blocked = OffCpu { waker: Some(wake.waker.clone()), ..off.clone() };
                self.close(wake.time_ns.clamp(self.since_ns, end_ns), Doing::OffCpu(blocked), false, emit);
                self.close(end_ns, run_queue(Some(wake.waker)), unseen, emit);
            }
            (None, Some(waker)) => self.close(end_ns, run_queue(Some(waker)), unseen, emit),
            (None, None) if end != End::SwitchIn || !self.left_cpu => {
                self.close(end_ns, Doing::OffCpu(off), unseen, emit);
            }
            (None, None) => self.close(end_ns, run_queue(None), false, emit),
        }
    }

    /// Ends the current interval, and begins the next one there.
    fn close(&mut self, end_ns: u64, doing: Doing, truncated: bool, emit: Emit<'_>) {
        let start_ns = std::mem::replace(&mut self.since_ns, end_ns);
        if start_ns < end_ns {
            let left_cpu = std::mem::take(&mut self.left_cpu);
            emit(Interval { thread: self.id, start_ns, end_ns, doing, left_cpu, truncated });
        }
    }

    /// What the look at the thread says about the time from the start of the window to `first_event_ns`.
    fn seeded_wait(&self, first_event_ns: u64, ran_ns: Option<u64>, end_ns: u64) -> Option<Seeded> {
        let seed = self.seed.as_ref().filter(|seed| seed.taken_ns < first_event_ns)?;
        match seed.state {
            SeedState::Dead => Some(Seeded::Dead),
            SeedState::Waiting(wait) => Some(Seeded::Waiting(OffCpu {
                wait,
                stack: seed.kernel.clone().map_or(KernelStack::Missing, KernelStack::Names),
                user: seed.user,
                waker: None,
            })),
            SeedState::Runnable => self.ran_or_queued(seed, ran_ns?, end_ns),
        }
    }

    /// A runnable thread without an event did one thing all the time; its CPU time tells which.
    fn ran_or_queued(&self, seed: &Seed, ran_ns: u64, end_ns: u64) -> Option<Seeded> {
        let ran_ns = ran_ns.checked_sub(seed.ran_ns?)?;
        let passed_ns = end_ns.saturating_sub(seed.taken_ns);
        if ran_ns > passed_ns / 2 {
            Some(Seeded::Running)
        } else {
            Some(Seeded::Waiting(missing_stack(Wait::Preempted)))
        }
    }
}

enum Seeded {
    Running,
    Waiting(OffCpu),
    Dead,
}

const fn missing_stack(wait: Wait) -> OffCpu {
    OffCpu { wait, stack: KernelStack::Missing, user: None, waker: None }
}

fn recorded(stack: &Stack) -> KernelStack {
    if stack.failed { KernelStack::Missing } else { KernelStack::Addresses(Arc::clone(&stack.frames)) }
}
