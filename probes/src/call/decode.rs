//! Bytes from the ring buffer to system calls entered and left.

use std::mem::offset_of;

use probes_common::{CallEnter, CallExit, FIRST_CALL_KIND, FIRST_DEVICE_KIND, Head, Kind};

use crate::decode::{DecodeError, Fields, Record, UserSide};

/// One system call entered, or left, by one watched thread, which is the calling one.
pub type CallRecord = Record<CallEvent>;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallEvent {
    /// The thread entered the kernel.
    Enter {
        /// The call's number.
        number: u32,
        /// Its arguments, as the registers held them.
        arguments: [u64; 6],
        /// Where the caller was in user space; recorded of futex operations that wake.
        user: Option<UserSide>,
        /// The elements of a `futex_waitv`.
        words: Vec<u64>,
    },
    /// The thread is about to leave the kernel.
    Exit {
        /// The call's number; `u32::MAX` where the kernel had forgotten it.
        number: u32,
        /// A negative errno, or a result.
        result: i64,
    },
}

/// Whether these bytes are a record of a system call.
pub fn is_call(bytes: &[u8]) -> bool {
    bytes.get(offset_of!(Head, kind)).is_some_and(|kind| (FIRST_CALL_KIND..FIRST_DEVICE_KIND).contains(kind))
}

/// Decodes one record.
///
/// # Errors
/// [`DecodeError`] where the bytes end early or are no call's.
pub fn decode(bytes: &[u8]) -> Result<CallRecord, DecodeError> {
    let fields = Fields(bytes);
    let head = fields.head()?;
    let event = match head.kind {
        kind if kind == Kind::CallEnter as u8 => enter(fields, &head)?,
        kind if kind == Kind::CallExit as u8 => exit(fields)?,
        unknown => return Err(DecodeError::Kind(unknown)),
    };
    Ok(Record::new(&head, event))
}

fn enter(fields: Fields<'_>, head: &Head) -> Result<CallEvent, DecodeError> {
    let body = size_of::<Head>();
    let mut arguments = [0; 6];
    for (index, argument) in arguments.iter_mut().enumerate() {
        *argument = fields.u64(body + offset_of!(CallEnter, arguments) + 8 * index)?;
    }
    let number = fields.u32(body + offset_of!(CallEnter, number))?;
    let start = body + size_of::<CallEnter>();
    let words =
        (0..usize::from(head.frames)).map(|index| fields.u64(start + 8 * index)).collect::<Result<_, _>>()?;
    let user_ip = fields.u64(body + offset_of!(CallEnter, user_ip))?;
    let signature = fields.u64(body + offset_of!(CallEnter, user_stack))?;
    let stack = (signature != 0).then_some(signature);
    let user = (user_ip != 0).then_some(UserSide { ip: user_ip, stack });
    // The body's last field says nothing, but a record without it was cut.
    fields.u32(body + offset_of!(CallEnter, reserved))?;
    Ok(CallEvent::Enter { number, arguments, user, words })
}

fn exit(fields: Fields<'_>) -> Result<CallEvent, DecodeError> {
    let body = size_of::<Head>();
    let result = fields.u64(body + offset_of!(CallExit, result))?.cast_signed();
    let number = fields.u32(body + offset_of!(CallExit, number))?;
    fields.u32(body + offset_of!(CallExit, reserved))?;
    Ok(CallEvent::Exit { number, result })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decode::{bytes_of_any_kind, records_of};

    /// The bytes that the kernel side writes for `record`.
    fn encode(record: &CallRecord) -> Vec<u8> {
        let (kind, words) = match &record.event {
            CallEvent::Enter { words, .. } => (Kind::CallEnter, words.as_slice()),
            CallEvent::Exit { .. } => (Kind::CallExit, &[][..]),
        };
        let mut bytes = Vec::new();
        for word in [record.time_ns, record.sequence, record.thread.start_ns] {
            bytes.extend(word.to_ne_bytes());
        }
        for word in [record.thread.tid, record.tgid, record.cpu] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend((words.len() as u16).to_ne_bytes());
        bytes.extend([kind as u8, 0]);
        let number = match &record.event {
            CallEvent::Enter { number, arguments, user, .. } => {
                bytes.extend(user.map_or(0, |user| user.ip).to_ne_bytes());
                bytes.extend(user.and_then(|user| user.stack).unwrap_or(0).to_ne_bytes());
                bytes.extend(arguments.iter().flat_map(|argument| argument.to_ne_bytes()));
                number
            }
            CallEvent::Exit { number, result } => {
                bytes.extend(result.to_ne_bytes());
                number
            }
        };
        bytes.extend(number.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        bytes
    }

    fn events() -> impl Strategy<Value = CallEvent> {
        prop_oneof![
            (any::<(u32, [u64; 6], u64, u64)>(), prop::collection::vec(any::<u64>(), 0..49)).prop_map(
                |((number, arguments, ip, stack), words)| {
                    let user = UserSide { ip, stack: (stack != 0).then_some(stack) };
                    CallEvent::Enter { number, arguments, user: (ip != 0).then_some(user), words }
                }
            ),
            any::<(u32, i64)>().prop_map(|(number, result)| CallEvent::Exit { number, result }),
        ]
    }

    fn records() -> impl Strategy<Value = CallRecord> {
        records_of(events())
    }

    proptest! {
        #[test]
        fn what_the_kernel_side_writes_comes_back(record in records()) {
            let bytes = encode(&record);
            prop_assert!(is_call(&bytes));
            prop_assert_eq!(decode(&bytes), Ok(record));
        }

        #[test]
        fn every_cut_is_refused_and_none_panics(record in records(), cut in 0usize..600) {
            let bytes = encode(&record);
            if cut < bytes.len() {
                prop_assert_eq!(decode(&bytes[..cut]), Err(DecodeError::Short(cut)));
            }
        }

        #[test]
        fn no_bytes_make_it_panic_and_only_its_own_kinds_are_taken(bytes in bytes_of_any_kind()) {
            prop_assert!(decode(&bytes).is_err() || is_call(&bytes));
        }
    }
}
