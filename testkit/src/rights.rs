//! Programs that have fewer rights than the test.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::thread::{CapabilitySet, capabilities, remove_capability_from_bounding_set, set_capabilities};

/// Has `command` run without the capabilities `missing`, which it cannot get back as root either.
pub fn without_capabilities(command: &mut Command, missing: CapabilitySet) -> &mut Command {
    // SAFETY: between fork and exec only what is safe in a signal handler may run (fork(2)): this is system calls and
    // arithmetic, and takes no lock and no memory.
    unsafe { command.pre_exec(move || give_up(missing)) }
}

fn give_up(missing: CapabilitySet) -> io::Result<()> {
    // Root's programs get all that the bounding set has, and what is inheritable (capabilities(7)).
    for bit in 0..u64::BITS {
        let one = missing & CapabilitySet::from_bits_retain(1 << bit);
        if !one.is_empty() {
            remove_capability_from_bounding_set(one)?;
        }
    }
    let mut held = capabilities(None)?;
    for set in [&mut held.effective, &mut held.permitted, &mut held.inheritable] {
        set.remove(missing);
    }
    Ok(set_capabilities(None, held)?)
}
