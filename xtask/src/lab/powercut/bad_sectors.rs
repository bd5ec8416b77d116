//! A disk of which some sectors can no longer be written, from some write on: rules for QEMU's `blkdebug`.
//!
//! The rules are described in QEMU's `docs/devel/blkdebug.rst`. A state counts the writes, so that the disk is sound
//! until its file system is mounted and BRANCHes are under way.

use fastrand::Rng;

/// One sector in so many goes bad: a small layer meets one now and then, a full image surely.
const SOUND_FOR_EACH_BAD: u64 = 1500;
/// They go bad after so many writes: a file system is mounted with fewer.
const FEWEST_SOUND_WRITES: u64 = 60;
const MOST_SOUND_WRITES: u64 = 300;

/// The rules of one disk of this size.
pub fn rules(disk_mib: u32, rng: &mut Rng) -> String {
    const SECTORS_OF_A_MIB: u64 = 2048;
    let all = u64::from(disk_mib) * SECTORS_OF_A_MIB;
    let sound_writes = rng.u64(FEWEST_SOUND_WRITES..=MOST_SOUND_WRITES);
    let sectors = (0..all / SOUND_FOR_EACH_BAD).map(|_| rng.u64(..all));
    text(sound_writes, sectors)
}

fn text(sound_writes: u64, sectors: impl Iterator<Item = u64>) -> String {
    let mut rules = String::new();
    for state in 1..=sound_writes {
        let next = state + 1;
        rules.push_str(&format!(
            "[set-state]\nevent = \"write_aio\"\nstate = \"{state}\"\nnew_state = \"{next}\"\n\n"
        ));
    }
    let state = sound_writes + 1;
    for sector in sectors {
        rules.push_str(&format!(
            "[inject-error]\nevent = \"write_aio\"\nstate = \"{state}\"\niotype = \"write\"\nerrno = \"5\"\n\
             sector = \"{sector}\"\nonce = \"off\"\n\n"
        ));
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_go_bad_after_the_sound_writes_and_only_in_the_state_that_follows_them() {
        let expected = "\
[set-state]
event = \"write_aio\"
state = \"1\"
new_state = \"2\"

[set-state]
event = \"write_aio\"
state = \"2\"
new_state = \"3\"

[inject-error]
event = \"write_aio\"
state = \"3\"
iotype = \"write\"
errno = \"5\"
sector = \"7\"
once = \"off\"

";
        assert_eq!(text(2, [7].into_iter()), expected);
    }
}
