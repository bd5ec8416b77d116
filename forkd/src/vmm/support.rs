//! Which versions of Firecracker the daemon works with.

/// The minor versions of Firecracker 1 that this daemon's tests run on.
const TESTED_MINORS: &[u64] = &[12];
/// The minor versions whose API has every call and field that the daemon uses, as far as Firecracker's change log
/// tells: a generation id for restored guests since 1.8; `enable_diff_snapshots` is deprecated since 1.13 and
/// still accepted.
const ACCEPTED_MINORS: std::ops::RangeInclusive<u64> = 8..=16;

/// What is known of a version of Firecracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// The tests run on it.
    Tested,
    /// It should work; nobody has tried.
    Accepted,
    /// It is older than what is used of it, or newer than what is known.
    Unsupported,
}

impl Support {
    /// What is known of `version`, which is `major.minor.patch` and perhaps more.
    pub fn of(version: &str) -> Self {
        match major_minor(version) {
            Some((1, minor)) if TESTED_MINORS.contains(&minor) => Self::Tested,
            Some((1, minor)) if ACCEPTED_MINORS.contains(&minor) => Self::Accepted,
            _ => Self::Unsupported,
        }
    }

    /// The word for it in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tested => "tested",
            Self::Accepted => "accepted",
            Self::Unsupported => "unsupported",
        }
    }

    /// The versions that are supported, for people.
    pub fn versions() -> String {
        let tested: Vec<String> = TESTED_MINORS.iter().map(|minor| format!("1.{minor}")).collect();
        let (first, last) = ACCEPTED_MINORS.into_inner();
        format!("tested with {}, accepted from 1.{first} to 1.{last}", tested.join(", "))
    }
}

/// The first two numbers of a version: a snapshot goes from one Firecracker to another where they are the same.
pub fn major_minor(version: &str) -> Option<(u64, u64)> {
    let mut numbers = version.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{Support, major_minor};

    #[test]
    fn every_version_is_tested_accepted_or_unsupported() {
        for (version, expected) in [
            ("1.12.1", Support::Tested),
            ("1.12.0-dev", Support::Tested),
            ("1.8.0", Support::Accepted),
            ("1.11.0", Support::Accepted),
            ("1.16.1", Support::Accepted),
            ("1.7.0", Support::Unsupported),
            ("1.17.0", Support::Unsupported),
            ("1.120.0", Support::Unsupported),
            ("0.25.2", Support::Unsupported),
            ("2.12.0", Support::Unsupported),
            ("1", Support::Unsupported),
            ("", Support::Unsupported),
        ] {
            assert_eq!(Support::of(version), expected, "{version}");
        }
    }

    #[test]
    fn only_the_first_two_numbers_count() {
        assert_eq!(major_minor("1.12.1-dev"), Some((1, 12)));
        assert_eq!(major_minor("1.x.1"), None);
    }
}
