//! Bytes from the ring buffer to device events.

use std::mem::offset_of;

use probes_common::{
    Allocation, Bio, COMM_LEN, Commit, CommitStep, DEVICE_NAME_LEN, DirtyPause, FIRST_DEVICE_KIND, Head,
    Kind, Latency, Request, Sync, Throttle, ThrottleExit, WbtLatency, WbtStat, WbtStep, WbtTimer,
};

use crate::comm::Comm;
use crate::decode::{DecodeError, Fields, Record};

/// One event on the way between a process and a disk. The thread is the one that was current: chance where the event
/// comes in an interrupt. Holes in the sequence may be filled later.
pub type DeviceRecord = Record<DeviceEvent>;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// A request reached a stage of its life.
    Request(RequestStage, Request),
    /// A request took in a piece of I/O beside it.
    BioMerge(Bio),
    /// A piece of I/O was too large for one request.
    BioSplit(Bio),
    /// A piece of I/O was sent on to another device.
    BioRemap(Bio),
    /// A journal's transaction reached a step.
    Commit {
        /// The device of the file system.
        device: u32,
        /// The transaction's number.
        transaction: u32,
        /// The step.
        step: CommitStep,
    },
    /// ext4 begins to make a file durable.
    SyncEnter(Sync),
    /// It has ended.
    SyncExit(Sync),
    /// ext4 looks for free blocks.
    AllocateEnter(Allocation),
    /// It has ended.
    AllocateExit(Allocation),
    /// A thread that dirties pages is told to pause.
    DirtyPause(DirtyPause),
    /// Writeback throttling measured.
    WbtStat(WbtStat),
    /// Writeback throttling sees a read that is late.
    WbtLatency(WbtLatency),
    /// Writeback throttling changes its limits.
    WbtStep(WbtStep),
    /// A window of writeback throttling is over.
    WbtTimer(WbtTimer),
    /// A thread leaves a throttle.
    ThrottleExit {
        /// When it entered; `None` where that was before the recording.
        entered_ns: Option<u64>,
        /// The disk; `None` where the function does not know it.
        device: Option<u32>,
        /// Which throttle.
        throttle: Throttle,
        /// The thread's name.
        comm: Comm,
    },
}

/// The stages of a request's life that are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RequestStage {
    /// It is made.
    Start,
    /// It is put into a queue.
    Insert,
    /// The driver takes it.
    Issue,
    /// The driver gives it back.
    Requeue,
    /// Another request takes it in.
    Merge,
    /// The device is done with it, or with a part.
    Complete,
}

impl RequestStage {
    const fn of(kind: u8) -> Option<Self> {
        match kind {
            kind if kind == Kind::RequestStart as u8 => Some(Self::Start),
            kind if kind == Kind::RequestInsert as u8 => Some(Self::Insert),
            kind if kind == Kind::RequestIssue as u8 => Some(Self::Issue),
            kind if kind == Kind::RequestRequeue as u8 => Some(Self::Requeue),
            kind if kind == Kind::RequestMerge as u8 => Some(Self::Merge),
            kind if kind == Kind::RequestComplete as u8 => Some(Self::Complete),
            _ => None,
        }
    }
}

/// Whether these bytes are a record of a device event.
pub fn is_device(bytes: &[u8]) -> bool {
    bytes.get(offset_of!(Head, kind)).is_some_and(|kind| *kind >= FIRST_DEVICE_KIND)
}

/// Decodes one record.
///
/// # Errors
/// [`DecodeError`] where the bytes end early, or are no device event's.
pub fn decode(bytes: &[u8]) -> Result<DeviceRecord, DecodeError> {
    let fields = Fields(bytes);
    let head = fields.head()?;
    let body = Body(fields, size_of::<Head>());
    let event = match RequestStage::of(head.kind) {
        Some(stage) => DeviceEvent::Request(stage, body.request()?),
        None => other(head.kind, body)?,
    };
    Ok(Record::new(&head, event))
}

fn other(kind: u8, body: Body<'_>) -> Result<DeviceEvent, DecodeError> {
    Ok(match kind {
        kind if kind == Kind::BioMerge as u8 => DeviceEvent::BioMerge(body.bio()?),
        kind if kind == Kind::BioSplit as u8 => DeviceEvent::BioSplit(body.bio()?),
        kind if kind == Kind::BioRemap as u8 => DeviceEvent::BioRemap(body.bio()?),
        kind if kind == Kind::Commit as u8 => body.commit()?,
        kind if kind == Kind::SyncEnter as u8 => DeviceEvent::SyncEnter(body.sync()?),
        kind if kind == Kind::SyncExit as u8 => DeviceEvent::SyncExit(body.sync()?),
        kind if kind == Kind::AllocateEnter as u8 => DeviceEvent::AllocateEnter(body.allocation()?),
        kind if kind == Kind::AllocateExit as u8 => DeviceEvent::AllocateExit(body.allocation()?),
        kind if kind == Kind::DirtyPause as u8 => DeviceEvent::DirtyPause(body.dirty_pause()?),
        kind if kind == Kind::WbtStat as u8 => DeviceEvent::WbtStat(body.wbt_stat()?),
        kind if kind == Kind::WbtLatency as u8 => DeviceEvent::WbtLatency(body.wbt_latency()?),
        kind if kind == Kind::WbtStep as u8 => DeviceEvent::WbtStep(body.wbt_step()?),
        kind if kind == Kind::WbtTimer as u8 => DeviceEvent::WbtTimer(body.wbt_timer()?),
        kind if kind == Kind::ThrottleExit as u8 => body.throttle_exit()?,
        unknown => return Err(DecodeError::Kind(unknown)),
    })
}

/// Bounds-checked reads at the offsets of the bodies.
#[derive(Clone, Copy)]
struct Body<'a>(Fields<'a>, usize);

impl Body<'_> {
    fn u64(self, at: usize) -> Result<u64, DecodeError> {
        self.0.u64(self.1 + at)
    }

    fn u32(self, at: usize) -> Result<u32, DecodeError> {
        self.0.u32(self.1 + at)
    }

    fn i32(self, at: usize) -> Result<i32, DecodeError> {
        self.u32(at).map(u32::cast_signed)
    }

    fn array<const N: usize>(self, at: usize) -> Result<[u8; N], DecodeError> {
        self.0.array(self.1 + at)
    }

    fn comm(self, at: usize) -> Result<[u8; COMM_LEN], DecodeError> {
        self.array(at)
    }

    fn device_name(self, at: usize) -> Result<[u8; DEVICE_NAME_LEN], DecodeError> {
        self.array(at)
    }

    fn request(self) -> Result<Request, DecodeError> {
        let [operation, reserved] = self.array(offset_of!(Request, operation))?;
        Ok(Request {
            request: self.u64(offset_of!(Request, request))?,
            sector: self.u64(offset_of!(Request, sector))?,
            made_ns: self.u64(offset_of!(Request, made_ns))?,
            inode: self.u64(offset_of!(Request, inode))?,
            inode_device: self.u32(offset_of!(Request, inode_device))?,
            device: self.u32(offset_of!(Request, device))?,
            bytes: self.u32(offset_of!(Request, bytes))?,
            done_bytes: self.u32(offset_of!(Request, done_bytes))?,
            status: self.u32(offset_of!(Request, status))?,
            flags: u16::from_ne_bytes(self.array(offset_of!(Request, flags))?),
            operation,
            reserved,
            comm: self.comm(offset_of!(Request, comm))?,
        })
    }

    fn bio(self) -> Result<Bio, DecodeError> {
        Ok(Bio {
            sector: self.u64(offset_of!(Bio, sector))?,
            bytes: self.u32(offset_of!(Bio, bytes))?,
            device: self.u32(offset_of!(Bio, device))?,
            from_device: self.u32(offset_of!(Bio, from_device))?,
            reserved: self.u32(offset_of!(Bio, reserved))?,
            comm: self.comm(offset_of!(Bio, comm))?,
        })
    }

    fn commit(self) -> Result<DeviceEvent, DecodeError> {
        let device = self.u32(offset_of!(Commit, device))?;
        let transaction = self.u32(offset_of!(Commit, transaction))?;
        let number = self.u32(offset_of!(Commit, step))?;
        // It says nothing, but a record without it was cut.
        self.u32(offset_of!(Commit, reserved))?;
        let step = CommitStep::ALL.get(number as usize).copied();
        let step = step.ok_or(DecodeError::Field { field: "commit step", value: number })?;
        Ok(DeviceEvent::Commit { device, transaction, step })
    }

    fn sync(self) -> Result<Sync, DecodeError> {
        Ok(Sync {
            inode: self.u64(offset_of!(Sync, inode))?,
            device: self.u32(offset_of!(Sync, device))?,
            value: self.i32(offset_of!(Sync, value))?,
            comm: self.comm(offset_of!(Sync, comm))?,
        })
    }

    fn allocation(self) -> Result<Allocation, DecodeError> {
        Ok(Allocation {
            inode: self.u64(offset_of!(Allocation, inode))?,
            block: self.u64(offset_of!(Allocation, block))?,
            device: self.u32(offset_of!(Allocation, device))?,
            blocks: self.u32(offset_of!(Allocation, blocks))?,
            comm: self.comm(offset_of!(Allocation, comm))?,
        })
    }

    fn dirty_pause(self) -> Result<DirtyPause, DecodeError> {
        Ok(DirtyPause {
            pause_ticks: self.u64(offset_of!(DirtyPause, pause_ticks))?.cast_signed(),
            task_limit: self.u64(offset_of!(DirtyPause, task_limit))?,
            dirtied: self.u64(offset_of!(DirtyPause, dirtied))?,
            device_name: self.device_name(offset_of!(DirtyPause, device_name))?,
            comm: self.comm(offset_of!(DirtyPause, comm))?,
        })
    }

    fn latency(self, at: usize) -> Result<Latency, DecodeError> {
        Ok(Latency {
            mean_ns: self.u64(at + offset_of!(Latency, mean_ns))?,
            min_ns: self.u64(at + offset_of!(Latency, min_ns))?,
            max_ns: self.u64(at + offset_of!(Latency, max_ns))?,
            samples: self.u64(at + offset_of!(Latency, samples))?,
        })
    }

    fn wbt_stat(self) -> Result<WbtStat, DecodeError> {
        Ok(WbtStat {
            device_name: self.device_name(offset_of!(WbtStat, device_name))?,
            read: self.latency(offset_of!(WbtStat, read))?,
            write: self.latency(offset_of!(WbtStat, write))?,
        })
    }

    fn wbt_latency(self) -> Result<WbtLatency, DecodeError> {
        Ok(WbtLatency {
            device_name: self.device_name(offset_of!(WbtLatency, device_name))?,
            latency_ns: self.u64(offset_of!(WbtLatency, latency_ns))?,
        })
    }

    fn wbt_step(self) -> Result<WbtStep, DecodeError> {
        Ok(WbtStep {
            device_name: self.device_name(offset_of!(WbtStep, device_name))?,
            window_ns: self.u64(offset_of!(WbtStep, window_ns))?,
            step: self.i32(offset_of!(WbtStep, step))?,
            background: self.u32(offset_of!(WbtStep, background))?,
            normal: self.u32(offset_of!(WbtStep, normal))?,
            max: self.u32(offset_of!(WbtStep, max))?,
            why: self.array(offset_of!(WbtStep, why))?,
        })
    }

    fn wbt_timer(self) -> Result<WbtTimer, DecodeError> {
        Ok(WbtTimer {
            device_name: self.device_name(offset_of!(WbtTimer, device_name))?,
            status: self.u32(offset_of!(WbtTimer, status))?,
            step: self.i32(offset_of!(WbtTimer, step))?,
            in_flight: self.u32(offset_of!(WbtTimer, in_flight))?,
            reserved: self.u32(offset_of!(WbtTimer, reserved))?,
        })
    }

    fn throttle_exit(self) -> Result<DeviceEvent, DecodeError> {
        let entered_ns = self.u64(offset_of!(ThrottleExit, entered_ns))?;
        let device = self.u32(offset_of!(ThrottleExit, device))?;
        let number = self.u32(offset_of!(ThrottleExit, throttle))?;
        let comm = Comm::new(self.comm(offset_of!(ThrottleExit, comm))?);
        let throttle = Throttle::ALL.get(number as usize).copied();
        Ok(DeviceEvent::ThrottleExit {
            entered_ns: (entered_ns != 0).then_some(entered_ns),
            device: (device != 0).then_some(device),
            throttle: throttle.ok_or(DecodeError::Field { field: "throttle", value: number })?,
            comm,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decode::{ThreadId, bytes_of_any_kind, records_of};

    /// The bytes of a body of ours: `repr(C)` without padding.
    fn bytes_of<T: Copy>(body: &T) -> Vec<u8> {
        // SAFETY: every body is `repr(C)` and has no padding, so each of its bytes is initialised.
        unsafe { std::slice::from_raw_parts((&raw const *body).cast::<u8>(), size_of::<T>()) }.to_vec()
    }

    /// The bytes that the kernel side writes for `record`.
    fn encode(record: &DeviceRecord) -> Vec<u8> {
        let (kind, body) = encode_event(&record.event);
        let head = Head {
            time_ns: record.time_ns,
            sequence: record.sequence,
            start_ns: record.thread.start_ns,
            tid: record.thread.tid,
            tgid: record.tgid,
            cpu: record.cpu,
            frames: 0,
            kind: kind as u8,
            flags: 0,
        };
        let mut bytes = bytes_of(&head);
        bytes.extend(body);
        bytes
    }

    fn encode_event(event: &DeviceEvent) -> (Kind, Vec<u8>) {
        match event {
            DeviceEvent::Request(stage, body) => {
                let kind = match stage {
                    RequestStage::Start => Kind::RequestStart,
                    RequestStage::Insert => Kind::RequestInsert,
                    RequestStage::Issue => Kind::RequestIssue,
                    RequestStage::Requeue => Kind::RequestRequeue,
                    RequestStage::Merge => Kind::RequestMerge,
                    RequestStage::Complete => Kind::RequestComplete,
                };
                (kind, bytes_of(body))
            }
            DeviceEvent::BioMerge(body) => (Kind::BioMerge, bytes_of(body)),
            DeviceEvent::BioSplit(body) => (Kind::BioSplit, bytes_of(body)),
            DeviceEvent::BioRemap(body) => (Kind::BioRemap, bytes_of(body)),
            DeviceEvent::Commit { device, transaction, step } => {
                let (device, transaction) = (*device, *transaction);
                (Kind::Commit, bytes_of(&Commit { device, transaction, step: *step as u32, reserved: 0 }))
            }
            DeviceEvent::SyncEnter(body) => (Kind::SyncEnter, bytes_of(body)),
            DeviceEvent::SyncExit(body) => (Kind::SyncExit, bytes_of(body)),
            DeviceEvent::AllocateEnter(body) => (Kind::AllocateEnter, bytes_of(body)),
            DeviceEvent::AllocateExit(body) => (Kind::AllocateExit, bytes_of(body)),
            DeviceEvent::DirtyPause(body) => (Kind::DirtyPause, bytes_of(body)),
            DeviceEvent::WbtStat(body) => (Kind::WbtStat, bytes_of(body)),
            DeviceEvent::WbtLatency(body) => (Kind::WbtLatency, bytes_of(body)),
            DeviceEvent::WbtStep(body) => (Kind::WbtStep, bytes_of(body)),
            DeviceEvent::WbtTimer(body) => (Kind::WbtTimer, bytes_of(body)),
            DeviceEvent::ThrottleExit { entered_ns, device, throttle, comm } => {
                let (entered_ns, device) = (entered_ns.unwrap_or(0), device.unwrap_or(0));
                let (throttle, comm) = (*throttle as u32, *comm.bytes());
                (Kind::ThrottleExit, bytes_of(&ThrottleExit { entered_ns, device, throttle, comm }))
            }
        }
    }

    fn stages() -> impl Strategy<Value = RequestStage> {
        prop::sample::select(vec![
            RequestStage::Start,
            RequestStage::Insert,
            RequestStage::Issue,
            RequestStage::Requeue,
            RequestStage::Merge,
            RequestStage::Complete,
        ])
    }

    fn requests() -> impl Strategy<Value = Request> {
        (any::<[u64; 4]>(), any::<[u32; 5]>(), any::<(u16, u8, u8, [u8; COMM_LEN])>()).prop_map(
            |([request, sector, made_ns, inode], [inode_device, device, bytes, done_bytes, status], rest)| {
                let (flags, operation, reserved, comm) = rest;
                Request {
                    request,
                    sector,
                    made_ns,
                    inode,
                    inode_device,
                    device,
                    bytes,
                    done_bytes,
                    status,
                    flags,
                    operation,
                    reserved,
                    comm,
                }
            },
        )
    }

    fn bios() -> impl Strategy<Value = Bio> {
        any::<(u64, [u32; 4], [u8; COMM_LEN])>().prop_map(
            |(sector, [bytes, device, from_device, reserved], comm)| Bio {
                sector,
                bytes,
                device,
                from_device,
                reserved,
                comm,
            },
        )
    }

    fn syncs() -> impl Strategy<Value = Sync> {
        any::<(u64, u32, i32, [u8; COMM_LEN])>().prop_map(|(inode, device, value, comm)| Sync {
            inode,
            device,
            value,
            comm,
        })
    }

    fn allocations() -> impl Strategy<Value = Allocation> {
        any::<([u64; 2], [u32; 2], [u8; COMM_LEN])>().prop_map(|([inode, block], [device, blocks], comm)| {
            Allocation { inode, block, device, blocks, comm }
        })
    }

    fn latencies() -> impl Strategy<Value = Latency> {
        any::<[u64; 4]>().prop_map(|[mean_ns, min_ns, max_ns, samples]| Latency {
            mean_ns,
            min_ns,
            max_ns,
            samples,
        })
    }

    fn throttling() -> impl Strategy<Value = DeviceEvent> {
        let name = any::<[u8; DEVICE_NAME_LEN]>;
        prop_oneof![
            (any::<(i64, u64, u64)>(), name(), any::<[u8; COMM_LEN]>()).prop_map(
                |((pause_ticks, task_limit, dirtied), device_name, comm)| DeviceEvent::DirtyPause(
                    DirtyPause { pause_ticks, task_limit, dirtied, device_name, comm }
                )
            ),
            (name(), latencies(), latencies()).prop_map(|(device_name, read, write)| DeviceEvent::WbtStat(
                WbtStat { device_name, read, write }
            )),
            (name(), any::<u64>()).prop_map(|(device_name, latency_ns)| DeviceEvent::WbtLatency(
                WbtLatency { device_name, latency_ns }
            )),
            (name(), any::<(u64, i32, [u32; 3], [u8; 16])>()).prop_map(
                |(device_name, (window_ns, step, [background, normal, max], why))| {
                    DeviceEvent::WbtStep(WbtStep {
                        device_name,
                        window_ns,
                        step,
                        background,
                        normal,
                        max,
                        why,
                    })
                }
            ),
            (name(), any::<(u32, i32, u32, u32)>()).prop_map(
                |(device_name, (status, step, in_flight, reserved))| DeviceEvent::WbtTimer(WbtTimer {
                    device_name,
                    status,
                    step,
                    in_flight,
                    reserved
                })
            ),
            (any::<(u64, u32, [u8; COMM_LEN])>(), prop::sample::select(Throttle::ALL.to_vec())).prop_map(
                |((entered_ns, device, comm), throttle)| DeviceEvent::ThrottleExit {
                    entered_ns: (entered_ns != 0).then_some(entered_ns),
                    device: (device != 0).then_some(device),
                    throttle,
                    comm: Comm::new(comm),
                }
            ),
        ]
    }

    fn events() -> impl Strategy<Value = DeviceEvent> {
        prop_oneof![
            (stages(), requests()).prop_map(|(stage, body)| DeviceEvent::Request(stage, body)),
            bios().prop_map(DeviceEvent::BioMerge),
            bios().prop_map(DeviceEvent::BioSplit),
            bios().prop_map(DeviceEvent::BioRemap),
            (any::<(u32, u32)>(), prop::sample::select(CommitStep::ALL.to_vec()))
                .prop_map(|((device, transaction), step)| DeviceEvent::Commit { device, transaction, step }),
            syncs().prop_map(DeviceEvent::SyncEnter),
            syncs().prop_map(DeviceEvent::SyncExit),
            allocations().prop_map(DeviceEvent::AllocateEnter),
            allocations().prop_map(DeviceEvent::AllocateExit),
            throttling(),
        ]
    }

    fn records() -> impl Strategy<Value = DeviceRecord> {
        records_of(events())
    }

    proptest! {
        #[test]
        fn what_the_kernel_side_writes_comes_back(record in records()) {
            let bytes = encode(&record);
            prop_assert!(is_device(&bytes));
            prop_assert_eq!(decode(&bytes), Ok(record));
        }

        #[test]
        fn every_cut_is_refused_and_none_panics(record in records(), cut in 0usize..160) {
            let bytes = encode(&record);
            if cut < bytes.len() {
                prop_assert_eq!(decode(&bytes[..cut]), Err(DecodeError::Short(cut)));
            }
        }

        #[test]
        fn no_bytes_make_it_panic_and_only_its_own_kinds_are_taken(bytes in bytes_of_any_kind()) {
            prop_assert!(decode(&bytes).is_err() || is_device(&bytes));
        }
    }

    #[test]
    fn a_step_that_does_not_exist_is_refused_by_its_number() {
        let event = DeviceEvent::Commit { device: 1, transaction: 2, step: CommitStep::End };
        let thread = ThreadId { tid: 1, start_ns: 1 };
        let mut bytes = encode(&DeviceRecord { time_ns: 1, cpu: 0, sequence: 0, thread, tgid: 1, event });
        bytes[size_of::<Head>() + offset_of!(Commit, step)] = 9;
        assert_eq!(decode(&bytes), Err(DecodeError::Field { field: "commit step", value: 9 }));
    }
}
