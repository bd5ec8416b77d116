//! Lines of `/proc/PID/maps`.

/// One executable mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The first address.
    pub start: u64,
    /// The first address after it.
    pub end: u64,
    /// Where in the file it begins, in bytes.
    pub file_offset: u64,
    /// Device and inode as the kernel prints them; zeros for memory without a file.
    pub identity: String,
    /// The path as the process sees it, or a name such as `[vdso]`; empty for anonymous memory.
    pub path: String,
}

/// One line, where it is executable and lies in user space.
pub fn parse(line: &str) -> Option<Line> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let is_executable = fields.next()?.as_bytes().get(2) == Some(&b'x');
    let file_offset = u64::from_str_radix(fields.next()?, 16).ok()?;
    let identity = format!("{} {}", fields.next()?, fields.next()?);
    let path = fields.next().unwrap_or("").trim().to_owned();
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    // `[vsyscall]` lies in the kernel's half, and has no file and no stack.
    let is_user = start < end && end <= 1 << 63;
    (is_executable && is_user).then_some(Line { start, end, file_offset, identity, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_hold_spaces_and_only_code_counts() {
        let line =
            "7f00000000-7f00002000 r-xp 00001000 08:01 42                         /opt/a b/c (deleted)";
        let expected = Line {
            start: 0x7f_0000_0000,
            end: 0x7f_0000_2000,
            file_offset: 0x1000,
            identity: "08:01 42".to_owned(),
            path: "/opt/a b/c (deleted)".to_owned(),
        };
        assert_eq!(parse(line), Some(expected));
        assert_eq!(parse(&line.replace("r-xp", "rw-p")), None);
        assert_eq!(parse("ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0  [vsyscall]"), None);
        assert_eq!(parse("nonsense"), None);
    }
}
