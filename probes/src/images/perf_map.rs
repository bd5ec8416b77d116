//! `/tmp/perf-PID.map`: names that a run-time compiler gives to the code it makes.
//!
//! One function a line, `START SIZE NAME`, both numbers in hexadecimal (tools/perf/Documentation/jit-interface.txt
//! of the kernel).

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// The file, if the process has one; held open, because it may go with the process.
#[derive(Debug, Default)]
pub struct PerfMap(Option<File>);

impl PerfMap {
    /// Looks for the file of the process that `process` (its folder in `/proc`) is about: by the id that it
    /// has in its own pid namespace, in its own file tree.
    pub fn find(&mut self, process: &Path) {
        if self.0.is_none()
            && let Some(own_pid) = own_pid(process)
        {
            self.0 = super::open_regular(&process.join(format!("root/tmp/perf-{own_pid}.map")));
        }
    }

    /// The function that holds `address`: the last such line, because a compiler reuses memory.
    pub fn name(&self, address: u64) -> Option<String> {
        let mut file = self.0.as_ref()?;
        file.seek(SeekFrom::Start(0)).ok()?;
        Self::name_in(file, address)
    }

    /// The same in the contents of such a file.
    pub fn name_in(contents: impl Read, address: u64) -> Option<String> {
        let lines = BufReader::new(contents).lines().map_while(Result::ok);
        lines.filter_map(|line| holding(&line, address)).last()
    }
}

/// The last field of `NSpid` in `/proc/PID/status`.
fn own_pid(process: &Path) -> Option<u32> {
    own_pid_in(&fs::read_to_string(process.join("status")).ok()?)
}

pub(super) fn own_pid_in(status: &str) -> Option<u32> {
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    ids.split_whitespace().next_back()?.parse().ok()
}

fn holding(line: &str, address: u64) -> Option<String> {
    let mut fields = line.splitn(3, ' ');
    let start = u64::from_str_radix(fields.next()?.trim_start_matches("0x"), 16).ok()?;
    let size = u64::from_str_radix(fields.next()?.trim_start_matches("0x"), 16).ok()?;
    let name = fields.next()?.trim();
    (address.wrapping_sub(start) < size && !name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_last_line_that_holds_the_address_names_it() {
        let mut file = tempfile::tempfile().unwrap();
        writeln!(file, "1000 10 old name\n2000 20 Other.js:1\nnonsense\n0x1000 0x10 LazyCompile:~f a.js:3")
            .unwrap();
        let map = PerfMap(Some(file));
        assert_eq!(map.name(0x100f).as_deref(), Some("LazyCompile:~f a.js:3"));
        assert_eq!(map.name(0x2000).as_deref(), Some("Other.js:1"));
        assert_eq!(map.name(0x1010), None);
        assert_eq!(PerfMap::default().name(0x1000), None);
    }
}
