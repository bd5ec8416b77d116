//! Where tracepoints keep their fields in their printed form, which tracefs describes.

use std::fs;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// By the names of the constants that hold their offsets: the tracepoint's folder, its name, the field, and its size.
pub const FIELDS: [(&str, &str, &str, usize); 5] = [
    ("SWITCH_PREV_STATE", "sched/sched_switch", "prev_state", 8),
    ("SWITCH_NEXT_PID", "sched/sched_switch", "next_pid", 4),
    ("WAKING_PID", "sched/sched_waking", "pid", 4),
    ("NEWTASK_PID", "task/task_newtask", "pid", 4),
    ("NEWTASK_FLAGS", "task/task_newtask", "clone_flags", 8),
];

/// Where tracefs is mounted.
const MOUNTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Why the printed form cannot be used.
#[derive(Debug, Error)]
pub enum FormatError {
    /// tracefs is not there.
    #[error("tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing")]
    NotMounted,
    /// A description cannot be read.
    #[error("{path} cannot be read: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The tracepoint has no such field, or of another size.
    #[error("tracepoint {tracepoint} has no field {field} of {size} bytes")]
    NoField {
        /// The tracepoint.
        tracepoint: &'static str,
        /// The field.
        field: &'static str,
        /// Its size.
        size: usize,
    },
}

/// The offset of each of [`FIELDS`] on the kernel that runs.
pub fn offsets() -> Result<[u32; FIELDS.len()], FormatError> {
    let events = MOUNTS.iter().map(|mount| PathBuf::from(mount).join("events"));
    let events = events.into_iter().find(|events| events.exists()).ok_or(FormatError::NotMounted)?;
    let mut offsets = [0; FIELDS.len()];
    for (offset, (_, tracepoint, field, size)) in offsets.iter_mut().zip(FIELDS) {
        let path = events.join(tracepoint).join("format");
        let text = fs::read_to_string(&path).map_err(|source| FormatError::Unreadable { path, source })?;
        *offset = self::offset(&text, field, size).ok_or(FormatError::NoField { tracepoint, field, size })?;
    }
    Ok(offsets)
}

/// Of a line such as `field:pid_t next_pid; offset:56; size:4; signed:1;`, with tabs between the parts.
fn offset(format: &str, field: &str, size: usize) -> Option<u32> {
    let found = |line: &str| {
        let mut parts = line.trim().split(';').map(str::trim);
        let declared = parts.next()?.strip_prefix("field:")?;
        let offset = parts.next()?.strip_prefix("offset:")?.parse().ok()?;
        let found_size: usize = parts.next()?.strip_prefix("size:")?.parse().ok()?;
        let is_it = declared.split_ascii_whitespace().last() == Some(field) && found_size == size;
        is_it.then_some(offset)
    };
    format.lines().find_map(found)
}

/// For [`crate::fuzzing`]: a tracepoint's description.
#[cfg(any(test, feature = "fuzzing"))]
pub fn parse(text: &str) {
    let _ = offset(text, "next_pid", 4);
}

#[cfg(test)]
mod tests {
    use super::offset;

    #[test]
    fn a_field_is_found_by_its_whole_name_and_its_size() {
        let format = "\
name: sched_switch
ID: 318
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:char prev_comm[16];\toffset:8;\tsize:16;\tsigned:0;
\tfield:pid_t prev_pid;\toffset:24;\tsize:4;\tsigned:1;
\tfield:long prev_state;\toffset:32;\tsize:8;\tsigned:1;
\tfield:pid_t next_pid;\toffset:56;\tsize:4;\tsigned:1;
";
        assert_eq!(offset(format, "next_pid", 4), Some(56));
        assert_eq!(offset(format, "prev_state", 8), Some(32));
        assert_eq!(offset(format, "prev_state", 4), None);
        assert_eq!(offset(format, "pid", 4), None);
        assert_eq!(offset("field:", "pid", 4), None);
    }
}
