//! Names that no other daemon, run or request will choose.

use rustix::rand::{GetRandomFlags, getrandom};

/// `bytes` random bytes as hexadecimal digits, two a byte; 16 bytes at most.
pub fn hex(bytes: usize) -> String {
    let mut buffer = [0_u8; 16];
    let wanted = &mut buffer[..bytes.min(16)];
    // getrandom(2) cannot fail or fall short for up to 256 bytes once the pool is initialised, and blocks until then.
    getrandom(&mut *wanted, GetRandomFlags::empty()).expect("getrandom(2) of at most 16 bytes succeeds");
    wanted.iter().map(|byte| format!("{byte:02x}")).collect()
}
