//! Whether a process outlives a probe at the return of one of its functions.

use crate::error::AttachError;
use crate::proc;

/// Kernels from the first on, and before the second, in which a watched function returns through a system call of its own,
/// `uretprobe`, which a filter of system calls sees and refuses: commit ff474a78cef5 brought it, cf6cb56ef244 keeps it from
/// filters, as CVE-2025-21834 tells.
const FILTERED: [(Version, Version); 2] = [([6, 11, 0], [6, 12, 14]), ([6, 13, 0], [6, 13, 3])];

type Version = [u32; 3];

/// Refuses where the kernel would have a filter of the process kill it.
pub fn is_outlived_by(pid: u32) -> Result<(), AttachError> {
    let kernel = proc::host().kernel;
    let is_filtered = version(&kernel).is_some_and(returns_are_filtered);
    let has_filter = |tid: &u32| proc::has_seccomp_filter(*tid);
    if is_filtered && proc::thread_ids(pid).unwrap_or_default().iter().any(has_filter) {
        return Err(AttachError::ReturnProbe { pid, kernel });
    }
    Ok(())
}

fn returns_are_filtered(version: Version) -> bool {
    FILTERED.iter().any(|(first, mended)| (first..mended).contains(&&version))
}

/// Of `6.12.9-amd64` the numbers.
fn version(release: &str) -> Option<Version> {
    let numbers = release.split(|letter: char| !letter.is_ascii_digit() && letter != '.').next()?;
    let mut numbers = numbers.split('.').map(|number| number.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next().flatten().unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use super::{is_outlived_by, returns_are_filtered, version};

    #[test]
    fn kernels_that_filter_returns_are_known_by_their_release() {
        let is_filtered = |release| version(release).is_some_and(returns_are_filtered);
        for release in ["6.11.0-9-generic", "6.12.0", "6.12.13+deb13-amd64", "6.13", "6.13.2-arch1-1"] {
            assert!(is_filtered(release), "{release}");
        }
        for release in ["6.1.0-30-cloud-amd64", "6.10.14", "6.12.14-amd64", "6.13.3", "6.14.0-rc2", "six", ""]
        {
            assert!(!is_filtered(release), "{release}");
        }
    }

    #[test]
    fn a_process_without_a_filter_is_refused_nowhere() {
        assert!(is_outlived_by(std::process::id()).is_ok());
    }
}
