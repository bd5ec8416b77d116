//! The name of a snapshot, which is also the name of its directory.

use std::fmt;
use std::str::FromStr;

/// A snapshot's name: `^[A-Za-z0-9_-]{1,64}$`. It holds no dot and no slash, so it names a directory
/// directly below the snapshot root, and never one of the daemon's own, which begin with a dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

/// A name that is no tag.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("tag {0:?} refused: use 1 to 64 of the characters A-Z a-z 0-9 _ -")]
pub struct InvalidTag(pub String);

impl Tag {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = InvalidTag;

    fn from_str(name: &str) -> Result<Self, InvalidTag> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if (1..=64).contains(&name.len()) && name.bytes().all(allowed) {
            Ok(Self(name.to_owned()))
        } else {
            // Enough of a long name to recognise it by.
            Err(InvalidTag(name.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Tag;

    #[test]
    fn names_that_could_leave_the_root_are_refused() {
        for name in
            ["", ".", "..", "../x", "/etc", "a/b", "a.b", ".staging", "%2e", "a\0b", "ä", "a b", "a\n"]
        {
            assert!(name.parse::<Tag>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn sixty_four_characters_fit_and_sixty_five_do_not() {
        assert!("a".repeat(64).parse::<Tag>().is_ok());
        assert!("a".repeat(65).parse::<Tag>().is_err());
    }

    proptest! {
        #[test]
        fn whatever_parses_is_one_plain_path_component(name in "\\PC{0,70}") {
            if let Ok(tag) = name.parse::<Tag>() {
                let mut components = std::path::Path::new(tag.as_str()).components();
                prop_assert!(matches!(components.next(), Some(std::path::Component::Normal(_))));
                prop_assert!(components.next().is_none());
            }
        }
    }
}
