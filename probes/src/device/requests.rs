//! Events of requests to whole requests: who made each, how long it was held, queued and at the device, and what
//! was ahead of it.
//!
//! A request is known by the address of the kernel's structure, from its first event to its completion. Not every
//! request has every event: those that are issued at once are never inserted, a request that another takes in never
//! completes, and one that only flushes the device's cache is never issued itself.

use std::collections::{BTreeMap, HashMap};

use probes_common::{
    Bio, REQUEST_BACKGROUND, REQUEST_BY_KERNEL, REQUEST_FUA, REQUEST_META, REQUEST_PREFLUSH, REQUEST_SYNC,
    Request, operation,
};

use super::RequestStage;

/// What a request does, and who waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// It reads.
    Read,
    /// It writes what somebody waits for: a sync, a journal, direct I/O.
    SyncWrite,
    /// It writes, and nobody said whether it is waited for.
    Write,
    /// It writes in the background.
    BackgroundWrite,
    /// It flushes the device's cache.
    Flush,
    /// It gives sectors up.
    Discard,
    /// Anything else.
    Other,
}

impl Class {
    /// Of a request.
    pub const fn of(request: &Request) -> Self {
        match request.operation {
            operation::READ => Self::Read,
            operation::WRITE if request.bytes == 0 => Self::Flush,
            operation::WRITE if request.flags & REQUEST_SYNC != 0 => Self::SyncWrite,
            operation::WRITE if request.flags & REQUEST_BACKGROUND != 0 => Self::BackgroundWrite,
            operation::WRITE => Self::Write,
            operation::FLUSH => Self::Flush,
            operation::DISCARD => Self::Discard,
            _ => Self::Other,
        }
    }

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::SyncWrite => "sync write",
            Self::Write => "write",
            Self::BackgroundWrite => "background write",
            Self::Flush => "flush",
            Self::Discard => "discard",
            Self::Other => "other",
        }
    }

    /// Whether it writes pages.
    pub const fn is_write(self) -> bool {
        matches!(self, Self::SyncWrite | Self::Write | Self::BackgroundWrite)
    }
}

/// A file, by the number of its inode and the device of its file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct File {
    /// Inode number.
    pub inode: u64,
    /// The kernel's `dev_t`.
    pub device: u32,
}

/// Whose a request is: the process that made it, and the file whose pages it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The process in whose time it was made; 0 for a flush of the device's cache, which the kernel makes when it
    /// suits it, in anybody's time.
    pub tgid: u32,
    /// That process is one of the kernel's threads.
    pub by_kernel: bool,
    /// `None` for what is no page of a file: direct I/O, metadata.
    pub file: Option<File>,
}

/// Requests of one origin that were ahead of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// Whose.
    pub origin: Origin,
    /// What they do.
    pub class: Class,
    /// How many were in the queue.
    pub queued: u64,
    /// How many were at the device.
    pub issued: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How far a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The device is done with it, with this `blk_status_t`: 0 for success.
    Completed(u32),
    /// It was not done at the end of the window.
    Open,
}

/// One request, as far as it lies in the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// The disk.
    pub device: u32,
    /// What it does.
    pub class: Class,
    /// It carries metadata of a file system.
    pub is_meta: bool,
    /// Whose it is.
    pub origin: Origin,
    /// Its bytes, with those that it took in.
    pub bytes: u64,
    /// First sector.
    pub sector: u64,
    /// Its first event.
    pub start_ns: u64,
    /// Its last.
    pub end_ns: u64,
    /// Made, and held by its maker, who may have more to add.
    pub held_ns: u64,
    /// In a queue, or waiting for the device's cache to be flushed.
    pub queued_ns: u64,
    /// At the device.
    pub device_ns: u64,
    /// It was issued without having been in a queue.
    pub is_direct: bool,
    /// It had been made before the window opened.
    pub is_early: bool,
    /// How it ended.
    pub outcome: Outcome,
    /// What was on the same disk when it was queued, or issued where it never was.
    pub ahead: Vec<Ahead>,
    /// An event of it may have been lost.
    pub truncated: bool,
}

impl Whole {
    /// From its first event to its last.
    pub const fn total_ns(&self) -> u64 {
        self.held_ns + self.queued_ns + self.device_ns
    }
}

/// What became of I/O on one disk, beside whole requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that others took in.
    pub merged_requests: u64,
    /// Pieces of I/O that went into a request that was there already.
    pub merged_bios: u64,
    /// Pieces that were too large for one request.
    pub split_bios: u64,
    /// Pieces that came from another device, by device.
    pub remapped_from: BTreeMap<u32, u64>,
    /// Times that the driver gave a request back.
    pub requeued: u64,
    /// Completions of requests of which nothing else was seen: they were issued before the window.
    pub unseen: u64,
    /// Requests whose end was not seen, though their structure was used again.
    pub endless: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Held,
    Queued,
    Issued,
}

#[derive(Clone, Debug)]
struct Live {
    state: State,
    since_ns: u64,
    whole: Whole,
}

/// Takes events in the order of their times, and hands out whole requests.
#[derive(Debug)]
pub struct Requests {
    window_start_ns: u64,
    live: HashMap<u64, Live>,
    counts: BTreeMap<u32, Counts>,
}

impl Requests {
    /// For a window that opened at `window_start_ns`.
    pub fn new(window_start_ns: u64) -> Self {
        Self { window_start_ns, live: HashMap::new(), counts: BTreeMap::new() }
    }

    /// Events were lost: whatever is under way may be other than it seems.
    pub fn lost(&mut self) {
        for live in self.live.values_mut() {
            live.whole.truncated = true;
        }
    }

    /// Takes the next event, of a request that `tgid` was current for.
    pub fn event(
        &mut self,
        time_ns: u64,
        tgid: u32,
        stage: RequestStage,
        request: &Request,
        emit: &mut dyn FnMut(Whole),
    ) {
        if request.request == 0 {
            return;
        }
        match stage {
            RequestStage::Start => {
                self.forget_stale(request);
                self.arrive(time_ns, tgid, request, State::Held);
            }
            RequestStage::Insert => self.reach(time_ns, tgid, request, State::Queued),
            RequestStage::Issue => self.reach(time_ns, tgid, request, State::Issued),
            RequestStage::Requeue => {
                self.counts(request.device).requeued += 1;
                if let Some(live) = self.live.get_mut(&request.request) {
                    live.go_on(time_ns, State::Queued);
                }
            }
            RequestStage::Merge => {
                self.counts(request.device).merged_requests += 1;
                self.live.remove(&request.request);
            }
            RequestStage::Complete => self.complete(time_ns, request, emit),
        }
    }

    /// Counts a piece of I/O that a request took in.
    pub fn merged(&mut self, bio: &Bio) {
        self.counts(bio.device).merged_bios += 1;
    }

    /// Counts a piece that is split.
    pub fn split(&mut self, bio: &Bio) {
        self.counts(bio.device).split_bios += 1;
    }

    /// Counts a piece that comes from another device.
    pub fn remapped(&mut self, bio: &Bio) {
        *self.counts(bio.device).remapped_from.entry(bio.from_device).or_default() += 1;
    }

    /// Hands out what is still under way at the end of the window, and tells the rest by disk.
    pub fn finish(mut self, end_ns: u64, emit: &mut dyn FnMut(Whole)) -> BTreeMap<u32, Counts> {
        let mut open: Vec<Live> = self.live.drain().map(|(_, live)| live).collect();
        open.sort_by_key(|live| (live.whole.start_ns, live.whole.sector));
        for mut live in open {
            live.go_on(end_ns, live.state);
            live.whole.end_ns = end_ns;
            emit(live.whole);
        }
        self.counts
    }

    /// A structure that is used for a new request was done with the old one, whatever was seen of that.
    fn forget_stale(&mut self, request: &Request) {
        if let Some(stale) = self.live.remove(&request.request) {
            self.counts(stale.whole.device).endless += 1;
        }
    }

    fn reach(&mut self, time_ns: u64, tgid: u32, request: &Request, state: State) {
        let ahead = self.ahead_of(request);
        let Some(live) = self.live.get_mut(&request.request) else {
            return self.arrive(time_ns, tgid, request, state);
        };
        if live.state == State::Held {
            live.whole.ahead = ahead;
            live.whole.is_direct = state == State::Issued;
        }
        live.go_on(time_ns, state);
        // Its start may not have been seen.
        live.whole.origin.file = live.whole.origin.file.or(file_of(request));
        // It may have taken others in since it was made.
        live.whole.bytes = u64::from(request.bytes);
        live.whole.class = Class::of(request);
    }

    fn arrive(&mut self, time_ns: u64, tgid: u32, request: &Request, state: State) {
        let class = Class::of(request);
        let is_cache_flush = request.operation == operation::FLUSH;
        let origin = Origin {
            tgid: if is_cache_flush { 0 } else { tgid },
            by_kernel: is_cache_flush || request.flags & REQUEST_BY_KERNEL != 0,
            file: file_of(request),
        };
        let whole = Whole {
            device: request.device,
            class,
            is_meta: request.flags & REQUEST_META != 0,
            origin,
            bytes: u64::from(request.bytes),
            sector: request.sector,
            start_ns: time_ns,
            end_ns: time_ns,
            held_ns: 0,
            queued_ns: 0,
            device_ns: 0,
            is_direct: state == State::Issued,
            // As a request starts, the kernel has not noted the time yet.
            is_early: state != State::Held && (1..self.window_start_ns).contains(&request.made_ns),
            outcome: Outcome::Open,
            ahead: if state == State::Held { Vec::new() } else { self.ahead_of(request) },
            truncated: false,
        };
        self.live.insert(request.request, Live { state, since_ns: time_ns, whole });
    }

    fn complete(&mut self, time_ns: u64, request: &Request, emit: &mut dyn FnMut(Whole)) {
        if request.done_bytes < request.bytes {
            return;
        }
        let Some(mut live) = self.live.remove(&request.request) else {
            // One that came with a flush of the cache is ended twice: with its data, and when the flush is done.
            let is_second = request.flags & (REQUEST_PREFLUSH | REQUEST_FUA) != 0;
            self.counts(request.device).unseen += u64::from(!is_second);
            return;
        };
        live.go_on(time_ns, live.state);
        live.whole.end_ns = time_ns;
        live.whole.outcome = Outcome::Completed(request.status);
        if live.state == State::Held {
            // Never issued: the kernel flushed the cache on its behalf.
            live.whole.queued_ns += std::mem::take(&mut live.whole.held_ns);
        }
        emit(live.whole);
    }

    /// What is queued or issued on the request's disk.
    fn ahead_of(&self, request: &Request) -> Vec<Ahead> {
        let mut ahead: Vec<Ahead> = Vec::new();
        let others = self.live.iter().filter(|(address, live)| {
            **address != request.request && live.whole.device == request.device && live.state != State::Held
        });
        for (_, Live { state, whole, .. }) in others {
            let is_same = |known: &&mut Ahead| known.origin == whole.origin && known.class == whole.class;
            let known = match ahead.iter_mut().find(is_same) {
                Some(known) => known,
                None => {
                    let (origin, class) = (whole.origin, whole.class);
                    ahead.push(Ahead { origin, class, queued: 0, issued: 0, bytes: 0 });
                    let last = ahead.len() - 1;
                    &mut ahead[last]
                }
            };
            known.queued += u64::from(*state == State::Queued);
            known.issued += u64::from(*state == State::Issued);
            known.bytes += whole.bytes;
        }
        ahead.sort_by_key(|one| (one.origin, one.class));
        ahead
    }

    fn counts(&mut self, device: u32) -> &mut Counts {
        self.counts.entry(device).or_default()
    }
}

fn file_of(request: &Request) -> Option<File> {
    (request.inode != 0).then_some(File { inode: request.inode, device: request.inode_device })
}

impl Live {
    /// Books the time since the last event to the state that it was in.
    fn go_on(&mut self, time_ns: u64, next: State) {
        let spent_ns = time_ns.saturating_sub(self.since_ns);
        match self.state {
            State::Held => self.whole.held_ns += spent_ns,
            State::Queued => self.whole.queued_ns += spent_ns,
            State::Issued => self.whole.device_ns += spent_ns,
        }
        self.since_ns = self.since_ns.max(time_ns);
        self.state = next;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use RequestStage::{Complete, Insert, Issue, Merge, Requeue, Start};

    const DISK: u32 = 7 << 20;

    fn request(address: u64, bytes: u32) -> Request {
        Request {
            request: address,
            sector: 8,
            made_ns: 0,
            inode: 0,
            inode_device: 0,
            device: DISK,
            bytes,
            done_bytes: 0,
            status: 0,
            flags: 0,
            operation: operation::WRITE,
            reserved: 0,
            comm: [0; _],
        }
    }

    fn run(steps: &[(u64, RequestStage, Request)]) -> (Vec<Whole>, Counts) {
        let mut requests = Requests::new(100);
        let mut out = Vec::new();
        for (time_ns, stage, request) in steps {
            requests.event(*time_ns, 7, *stage, request, &mut |whole| out.push(whole));
        }
        let mut counts = requests.finish(1000, &mut |whole| out.push(whole));
        (out, counts.remove(&DISK).unwrap_or_default())
    }

    /// `held/queued/device`, with what is out of the ordinary.
    fn draw(wholes: &[Whole]) -> Vec<String> {
        let line = |whole: &Whole| {
            let end = match whole.outcome {
                Outcome::Completed(0) => "",
                Outcome::Completed(_) => " failed",
                Outcome::Open => " open",
            };
            let direct = if whole.is_direct { " direct" } else { "" };
            let early = if whole.is_early { " early" } else { "" };
            let (held, queued, device) = (whole.held_ns, whole.queued_ns, whole.device_ns);
            format!("{held}/{queued}/{device} {} B{direct}{early}{end}", whole.bytes)
        };
        wholes.iter().map(line).collect()
    }

    fn done(request: Request, done_bytes: u32, status: u32) -> Request {
        Request { done_bytes, status, ..request }
    }

    // made 110 | inserted 120 | issued 150 | done 250
    #[test]
    fn time_is_held_queued_and_at_the_device() {
        let one = request(1, 4096);
        let steps =
            [(110, Start, one), (120, Insert, one), (150, Issue, one), (250, Complete, done(one, 4096, 0))];
        let (wholes, counts) = run(&steps);
        assert_eq!(draw(&wholes), ["10/30/100 4096 B"]);
        assert_eq!(counts, Counts::default());
        assert_eq!(wholes[0].total_ns(), 140);
    }

    #[test]
    fn a_request_that_is_issued_at_once_is_direct_and_was_in_no_queue() {
        let one = request(1, 4096);
        let with_start = [(110, Start, one), (120, Issue, one), (130, Complete, done(one, 4096, 10))];
        assert_eq!(draw(&run(&with_start).0), ["10/0/10 4096 B direct failed"]);
        let without = [(120, Issue, one), (130, Complete, done(one, 4096, 0))];
        assert_eq!(draw(&run(&without).0), ["0/0/10 4096 B direct"]);
    }

    // issued 120 | given back 130 | issued 150 | done 160
    #[test]
    fn a_request_that_is_given_back_is_in_the_queue_again() {
        let one = request(1, 512);
        let steps = [
            (110, Insert, one),
            (120, Issue, one),
            (130, Requeue, one),
            (150, Issue, one),
            (160, Complete, done(one, 512, 0)),
        ];
        let (wholes, counts) = run(&steps);
        assert_eq!(draw(&wholes), ["0/30/20 512 B"]);
        assert_eq!(counts.requeued, 1);
    }

    #[test]
    fn a_merged_request_ends_and_its_bytes_are_the_others() {
        let (one, two) = (request(1, 4096), request(2, 4096));
        let grown = request(1, 8192);
        let steps = [
            (110, Insert, one),
            (111, Insert, two),
            (112, Merge, two),
            (120, Issue, grown),
            (130, Complete, done(grown, 8192, 0)),
        ];
        let (wholes, counts) = run(&steps);
        assert_eq!(draw(&wholes), ["0/10/10 8192 B"]);
        assert_eq!(counts.merged_requests, 1);
    }

    #[test]
    fn a_completion_in_parts_counts_once_at_its_end() {
        let one = request(1, 8192);
        let rest = request(1, 4096);
        let steps =
            [(110, Issue, one), (120, Complete, done(one, 4096, 0)), (140, Complete, done(rest, 4096, 0))];
        assert_eq!(draw(&run(&steps).0), ["0/0/30 8192 B direct"]);
    }

    #[test]
    fn what_began_before_or_ends_after_the_window_is_told() {
        let one = request(1, 512);
        let early = Request { made_ns: 50, ..request(2, 512) };
        let steps = [
            (110, Complete, done(one, 512, 0)),
            (120, Issue, early),
            (130, Complete, done(early, 512, 0)),
            (900, Insert, request(3, 512)),
        ];
        let (wholes, counts) = run(&steps);
        assert_eq!(draw(&wholes), ["0/0/10 512 B direct early", "0/100/0 512 B open"]);
        assert_eq!(counts.unseen, 1);
    }

    #[test]
    fn a_flush_that_is_never_issued_waits_and_the_caches_own_flush_is_nobodys() {
        let wish = Request { bytes: 0, ..request(1, 0) };
        let flush = Request { operation: operation::FLUSH, ..request(9, 0) };
        let steps = [
            (110, Start, wish),
            (115, Issue, flush),
            (140, Complete, done(flush, 0, 0)),
            (141, Complete, done(wish, 0, 0)),
        ];
        let (wholes, _) = run(&steps);
        assert_eq!(draw(&wholes), ["0/0/25 0 B direct", "0/31/0 0 B"]);
        assert_eq!(wholes.iter().map(|whole| whole.class).collect::<Vec<_>>(), [Class::Flush; 2]);
        assert_eq!((wholes[0].origin.tgid, wholes[1].origin.tgid), (0, 7));
    }

    #[test]
    fn a_request_that_is_ended_twice_counts_once() {
        let one = Request { flags: REQUEST_PREFLUSH, ..request(1, 4096) };
        let end = done(one, 4096, 0);
        let (wholes, counts) = run(&[(110, Issue, one), (120, Complete, end), (130, Complete, end)]);
        assert_eq!(draw(&wholes), ["0/0/10 4096 B direct"]);
        assert_eq!(counts.unseen, 0);
    }

    #[test]
    fn what_is_ahead_is_what_is_queued_or_issued_on_the_same_disk() {
        let elsewhere = Request { device: 8 << 20, ..request(5, 512) };
        let mut requests = Requests::new(100);
        let mut out = Vec::new();
        let mut event = |time_ns, tgid, stage, request: Request| {
            requests.event(time_ns, tgid, stage, &request, &mut |whole| out.push(whole));
        };
        event(110, 1, Issue, request(1, 4096));
        event(111, 1, Insert, request(2, 4096));
        event(112, 2, Insert, request(3, 512));
        event(113, 2, Start, request(4, 512));
        event(114, 2, Insert, elsewhere);
        event(120, 3, Insert, request(6, 512));
        event(130, 3, Issue, request(6, 512));
        event(140, 3, Complete, done(request(6, 512), 512, 0));
        let ahead: Vec<_> =
            out[0].ahead.iter().map(|one| (one.origin.tgid, one.queued, one.issued, one.bytes)).collect();
        assert_eq!(ahead, [(1, 1, 1, 8192), (2, 1, 0, 512)]);
    }

    #[test]
    fn a_structure_that_is_used_again_had_an_end_that_was_not_seen() {
        let one = request(1, 512);
        let steps =
            [(110, Start, one), (120, Start, one), (130, Issue, one), (140, Complete, done(one, 512, 0))];
        let (wholes, counts) = run(&steps);
        assert_eq!(draw(&wholes), ["10/0/10 512 B direct"]);
        assert_eq!(counts.endless, 1);
    }

    #[test]
    fn a_loss_marks_what_is_under_way_and_nothing_else() {
        let mut requests = Requests::new(100);
        let mut out = Vec::new();
        requests.event(110, 1, Insert, &request(1, 512), &mut |whole| out.push(whole));
        requests.lost();
        requests.event(120, 1, Insert, &request(2, 512), &mut |whole| out.push(whole));
        requests.finish(200, &mut |whole| out.push(whole));
        assert_eq!(out.iter().map(|whole| whole.truncated).collect::<Vec<_>>(), [true, false]);
    }

    proptest! {
        /// Whatever comes in whatever order, the three times sum to the time between first and last event, and each
        /// request that came is handed out, merged or counted.
        #[test]
        fn times_sum_and_no_request_is_lost(
            steps in prop::collection::vec((0u64..6, 0u8..6, 1u64..40), 0..80),
        ) {
            let mut now_ns = 100;
            let mut events = Vec::new();
            for (address, stage, wait_ns) in steps {
                now_ns += wait_ns;
                let one = request(address + 1, 512);
                let stage = [Start, Insert, Issue, Requeue, Merge, Complete][usize::from(stage)];
                let one = if stage == Complete { done(one, 512, 0) } else { one };
                events.push((now_ns.min(999), stage, one));
            }
            let mut arrivals = 0;
            let mut known = std::collections::HashSet::new();
            let mut merged = 0;
            for (_, stage, one) in &events {
                match stage {
                    Start => { arrivals += 1; known.insert(one.request); }
                    Insert | Issue => arrivals += u64::from(known.insert(one.request)),
                    Merge => merged += u64::from(known.remove(&one.request)),
                    Complete => { known.remove(&one.request); }
                    Requeue => {}
                }
            }
            let (wholes, counts) = run(&events);
            for whole in &wholes {
                prop_assert_eq!(whole.total_ns(), whole.end_ns - whole.start_ns);
            }
            prop_assert_eq!(wholes.len() as u64 + merged + counts.endless, arrivals);
        }
    }
}
